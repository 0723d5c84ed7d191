"""Measure training and prediction on a GPU, in one run of under nine minutes.

    python -m benchmarks.gpu.pack PATH PATH PATH     # images, masks, and the folder to write: 55 MB
    python -m benchmarks.gpu --data PATH --out PATH  # that folder, and one for the results

It needs PyTorch, torchvision, OpenCV, pandas and PyYAML, but neither Kedro nor an installed package (`PYTHONPATH=src`).
The parts run in order of worth. A part that may end after `--seconds` is skipped. One that fails does not keep the next
from running. Each result is a JSON object on a line of the output and of `gpu.jsonl` in `--out`; `profile.txt` has the
profile of a step. `share of roofline` is the speed relative to what the device allows: the operations of the
convolutions at the rate of a large matrix product, and the traffic of BatchNorm and ReLU at the rate of a large copy.
`--tiny` makes everything small, to test the program; it also works without a GPU.
"""

import argparse
import faulthandler
import platform
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision

from benchmarks.gpu import epochs, inference, steps
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Lines, Part, run_parts
from benchmarks.gpu.roofline import Ceilings
from benchmarks.measuring import Row, device_name
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.stores.machine import usable_cores

GRACE = 30.0  # seconds after the deadline


def build_parts(bench: Bench) -> list[Part]:
    """Return all parts in order of worth, with the seconds that each may need on a large GPU."""
    return [
        Part("step, eager", 30, partial(steps.eager, bench)),
        Part("up-sampling", 25, partial(steps.upsampling, bench)),
        Part("without average of the weights", 10, partial(steps.without_average, bench)),
        Part("prediction, network alone", 15, partial(inference.network_alone, bench)),
        Part("prediction, end to end", 40, partial(inference.end_to_end, bench)),
        Part("epochs", 50, partial(epochs.caches, bench)),
        Part("decoding", 15, partial(inference.decoding, bench)),
        Part("training", bench.training_seconds + 40, partial(epochs.training, bench)),
        Part("step, compiled", 75, partial(steps.compiled, bench, steps.CLASSIC)),
        Part("step, small batch", 10, partial(steps.small_batch, bench)),
        Part("step, unet_resnet34", 15, partial(steps.resnet34, bench)),
        Part("old style", 150, partial(steps.against_old_style, bench)),
        Part("step, compiled, sizes that double", 75, partial(steps.compiled, bench, steps.DOUBLED)),
    ]


def surroundings(ceilings: Ceilings) -> Row:
    """Return the machine, the versions, and the rates that the device reaches."""
    return {
        "device": device_name(),
        "hardware": str(ceilings.hardware),
        "peak, TFLOP/s": ceilings.peak / 1e12,
        "bandwidth, TB/s": ceilings.bandwidth / 1e12,
        "cores": usable_cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()) if torch.cuda.is_available() else "None",
        "torchvision": torchvision.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Run the parts that the command line selects."""
    began = time.monotonic()
    arguments = _arguments()
    hardware = Hardware.choose("auto", compile=False)
    ceilings = Ceilings.measure(hardware)
    write = Lines(arguments.out / "gpu.jsonl")
    write({"part": "surroundings", **surroundings(ceilings)})
    bench = Bench(
        data=arguments.data,
        out=arguments.out,
        ceilings=ceilings,
        recipe_name=arguments.recipe,
        training_seconds=0 if arguments.tiny else arguments.training_seconds,
        tiny=arguments.tiny,
    )
    # A part that hangs must not cost the time of whoever waits: it ends, and says where it was.
    faulthandler.dump_traceback_later(began + arguments.seconds + GRACE - time.monotonic(), exit=True)
    run_parts(build_parts(bench)[arguments.parts], began + arguments.seconds, write)


def _slice(text: str) -> slice:
    first, _, end = text.partition(":")
    return slice(int(first or 0), int(end) if end else None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that benchmarks.gpu.pack has written"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=520, help="no part begins that may end later")
    parser.add_argument(
        "--parts", type=_slice, default=slice(None), metavar="A:B", help="parts to run, from A to before B"
    )
    parser.add_argument("--recipe", default="unet_1024_gpu", help="recipe to train and score")
    parser.add_argument("--training-seconds", type=float, default=170, help="how long to train it")
    parser.add_argument("--tiny", action="store_true", help="make everything small, to test this program")
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        parser.error("torch finds no CUDA device: with --tiny it works without one")
    return arguments


if __name__ == "__main__":
    main()
