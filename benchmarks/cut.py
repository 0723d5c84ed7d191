"""Measure `carvana-kedro cut`: the whole command, and the processor time of its steps.

Run `python -m benchmarks.cut [--images FOLDER] [--count N] [--json]`, which takes a minute on two cores. Without
`--images` it renders images. Every command runs in a process of its own, with the start; the median of three counts.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measuring import Report, Row, find_images, race
from carvana_kedro.segmentation.prediction.composition import compose
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.encoding import encode
from carvana_kedro.stores.images.reading import read_image

ROUNDS = 3
OPTIONS: Sequence[Sequence[str]] = (
    [],
    ["--workers", "1"],
    ["--format", "webp"],
    ["--canvas", "800x600", "--background", "white"],
)


def measure_command(images: Path, options: Sequence[str]) -> tuple[float, float]:
    """Return the seconds of the command until the first cut-out and until its end."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        command = [sys.executable, "-m", "carvana_kedro", "cut", str(images), out, *options]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not any(path.suffix in (".png", ".webp") for path in Path(out).iterdir()):
                if process.poll():
                    raise SystemExit(f"{' '.join(command)} failed.")
                time.sleep(0.005)
            first = time.perf_counter() - began
        return first, time.perf_counter() - began


def measure_commands(images: Path, count: int) -> list[Row]:
    """Return the seconds of the command with several options."""
    rows: list[Row] = []
    for options in OPTIONS:
        firsts, totals = zip(*(measure_command(images, options) for _ in range(ROUNDS)), strict=True)
        seconds = statistics.median(totals)
        rows.append(
            {
                "options": " ".join(options) or "none",
                "first cut-out, s": statistics.median(firsts),
                "all, s": seconds,
                "photographs/s": count / seconds,
            }
        )
    return rows


def measure_steps(path: Path) -> list[Row]:
    """Return the processor time (ms) of each step for a photograph, with one thread."""
    torch.set_num_threads(1)
    predictor = Predictor.load("cars")
    pixels = read_image(path)
    prediction = predictor.predict_one(pixels)
    threshold = predictor.threshold
    alpha = prediction.alpha(prediction.mask(threshold), threshold)
    picture = compose(pixels, alpha)
    timings = race(
        {
            "decoding": lambda: read_image(path),
            "network": lambda: predictor.predict_one(pixels),
            "mask and its soft edge": lambda: prediction.alpha(prediction.mask(threshold), threshold),
            "colors along the edge": lambda: compose(pixels, alpha),
            "encoding as png": lambda: encode(picture, ".png"),
            "encoding as webp": lambda: encode(picture, ".webp"),
        },
        rounds=5,
        clock=time.process_time,
    )
    return [{"step": name, "ms": 1000 * statistics.median(it.seconds)} for name, it in timings.items()]


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--count", type=int, default=20, help="number of photographs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    report = Report(arguments.json)
    with tempfile.TemporaryDirectory() as folder:
        images = arguments.images or find_images(None, None, arguments.count, False, Path(folder))[0].images
        chosen = Path(folder, "chosen")
        chosen.mkdir()
        paths = sorted(path for path in images.iterdir() if path.suffix == ".jpg")[: arguments.count]
        for path in paths:
            (chosen / path.name).symlink_to(path.resolve())
        report.add(f"carvana-kedro cut, {len(paths)} photographs", measure_commands(chosen, len(paths)))
        report.add("Processor time of a photograph, one thread", measure_steps(paths[0]))
    report.end()


if __name__ == "__main__":
    main()
