"""Measure the speed of training against the loop of old_style.py.

Run `python -m benchmarks.training [--json]`, which takes 8 minutes on two cores. It renders images, or uses yours
(`--images PATH --masks PATH`: jpgs, and gifs named as Kaggle's). `python -m benchmarks.training --memory` measures the
memory over 20 epochs instead, `--networks` compares the steps of the two small networks; `python -m benchmarks.gpu`
measures a GPU.

The contenders take turns in one process, and the best time counts, because other load on the machine can only add time.
`ratio` is the speed relative to the first row of the table. `--tiny` makes everything small, to test the program
itself.
"""

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.contenders import BenchmarkImages, OldStyle, OneBatch, Task, ThisProject
from benchmarks.measuring import Contenders, Report, Row, compare, find_images, synchronize
from carvana_kedro.segmentation.architectures import build_network, depthwise
from carvana_kedro.segmentation.architectures.unet import UNet, Widths
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples
from carvana_kedro.segmentation.hardware import Hardware, keeping_freed_memory, measured_peak, training_flop
from carvana_kedro.segmentation.training import loop
from carvana_kedro.segmentation.training.losses import batch_dice
from carvana_kedro.segmentation.training.steps import Attempt, Steps
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.pixel_cache import PixelCache

SLIM = Widths((16, 32, 64, 128, 256), (256,), (256, 128, 64, 32, 16), decoder_blocks=2)
TASKS = (
    Task("U-Net of 16 to 256 channels", partial(UNet, SLIM), (256, 384), 16),
    Task("unet_1024", partial(build_network, "unet_1024"), (512, 512), 2),
)


def go_through(
    epoch: Callable[[int], Iterable[Any]], change: Callable[..., object] | None = None, passes: int = 1
) -> None:
    """Load all batches `passes` times, and call `change` on each batch if given."""
    for number in range(passes):
        for batch in epoch(number):
            if change:
                change(*batch)


# Comparisons


def compare_steps(report: Report, task: Task, hardware: Hardware, rounds: int) -> None:
    """Time a step without loading. This project augments in the step, the old style augments while loading."""
    batch = OneBatch(task, hardware.device)
    contenders: Contenders = {
        "old style": partial(OldStyle(task.network, hardware.device).epoch, batch.for_old_style),
        f"this project: {hardware}": partial(ThisProject(task, hardware).epoch, batch),
    }
    report.add(f"Step: {task}", compare(contenders, rounds, task.steps * task.batch_size))


def compare_loaders(
    report: Report, source: BenchmarkImages, task: Task, hardware: Hardware, rounds: int, folder: Path
) -> None:
    """Time loading batches in one thread of one process."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        samples, loader, passes = source.samples(task), source.old_style(task), 10
        keep = partial(PixelCache(folder / "pixels").rows, source.store.fingerprint())
        augmented = ThisProject(task, hardware).run.augmented
        contenders: dict[str, Callable[[], object]] = {
            "old style, augmented": partial(go_through, lambda _: loader)
        }
        memory = Digests(folder / "digests.sqlite")  # masks are kept beside it
        keeping = replace(source, store=replace(source.store, digests=memory))
        samples_by_cache: dict[str, Samples | CachedSamples] = {
            "": samples,
            ", masks kept": keeping.samples(task),
            ", memory": CachedSamples(samples),
            ", memmap": CachedSamples(samples, keep),
        }
        for name, kept in samples_by_cache.items():
            batches = source.batches(task, kept)
            # One pass over cached samples is too short to time.
            repeated = partial(
                go_through, batches.epoch, passes=passes if isinstance(kept, CachedSamples) else 1
            )
            contenders[f"this project{name}"] = repeated
            contenders[f"this project{name}, augmented"] = partial(repeated, change=augmented)
        images = len(loader) * task.batch_size
        counts = {name: images * (passes if ", mem" in name else 1) for name in contenders}
        report.add(f"Loading in one thread: {task}", compare(contenders, rounds, counts))
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def compare_epochs(
    report: Report, source: BenchmarkImages, task: Task, hardware: Hardware, rounds: int, num_workers: int
) -> None:
    """Time whole epochs, including loading. Samples cached in memory need no workers."""
    old, new = OldStyle(task.network, hardware.device), ThisProject(task, hardware)
    cached = source.batches(task, CachedSamples(source.samples(task)))
    contenders: Contenders = {
        "old style": partial(old.epoch, source.old_style(task, num_workers)),
        "this project": partial(new.epoch, source.batches(task, num_workers=num_workers)),
        "this project, memory": partial(new.epoch, cached),
    }
    title = f"Epoch with {num_workers} workers: {task}, {cached.images} images"
    report.add(title, compare(contenders, rounds, cached.images))


def split_step(report: Report, source: BenchmarkImages, task: Task, hardware: Hardware, rounds: int) -> None:
    """Time the parts of this project's step separately, and wait for the device after each."""
    run, batches = ThisProject(task, hardware).run, source.batches(task)
    run.network.train()
    seconds: dict[str, list[float]] = {}
    clock = time.perf_counter()

    def ends(part: str) -> None:
        nonlocal clock
        synchronize()
        seconds.setdefault(part, []).append(time.perf_counter() - clock)
        clock = time.perf_counter()

    for _ in range(rounds + 1):
        epoch = batches.epoch(1)
        clock = time.perf_counter()
        batch = next(epoch)
        ends("load")
        images, targets = run.augmented(*batch)
        ends("to the device, augment")
        run.optimizer.zero_grad()
        logits = run.predict(run.network, images)
        ends("forward")
        attempt = Attempt(1, batch[0], images, targets)
        attempt.loss = run.loss(logits, targets)
        attempt.dice_coeff = batch_dice(logits.detach(), targets).mean()
        ends("loss, Dice")
        attempt.loss.backward()
        attempt.loss = attempt.loss.detach()
        ends("backward")
        Steps(run).update(attempt)
        ends("gradient norm, optimizer")
    best = {part: min(times[1:]) for part, times in seconds.items()}
    rows: list[Row] = [
        {"part": part, "best, ms": 1000 * time, "share": time / sum(best.values())}
        for part, time in best.items()
    ]
    report.add(f"Parts of a step: {task} ({hardware})", rows)


def switch_alone(report: Report, task: Task, hardware: Hardware, rounds: int, compiled: bool) -> None:
    """Time this project's step with one hardware setting changed, and compute the share of the machine's peak."""
    others = [
        replace(hardware, precision=torch.float32),
        replace(hardware, channels_last=not hardware.channels_last),
        replace(hardware, fused=not hardware.fused),
        *([replace(hardware, compile=not hardware.compile)] if compiled else []),
    ]
    batch = OneBatch(task, hardware.device)
    choices = {str(choice): choice for choice in (hardware, *others)}
    contenders = {name: partial(ThisProject(task, choice).epoch, batch) for name, choice in choices.items()}
    rows = compare(contenders, rounds, task.steps * task.batch_size)
    flop = training_flop(task.network(), task.input_size)
    for row, choice in zip(rows, choices.values(), strict=True):
        row["share of peak"] = flop * float(row["images/s"]) / measured_peak(choice)
    report.add(f"Step with one hardware setting changed: {task}", rows)


def compare_small_networks(report: Report, hardware: Hardware, rounds: int, tiny: bool) -> None:
    """Time a step of `unet_small` and of `unet_lite0`, also with PyTorch's own gradients of depthwise convolutions.

    The time of the CPU counts, which depends less on other load.
    """
    tasks = [
        Task(name, partial(build_network, name), (256, 384), 16) for name in ("unet_small", "unet_lite0")
    ]
    small, lite0 = (task.tiny() if tiny else task for task in tasks)
    batch = OneBatch(small, hardware.device)
    for choice in (hardware, replace(hardware, precision=torch.float32)):
        step = partial(ThisProject(lite0, choice).epoch, batch)
        contenders: Contenders = {
            "unet_small": partial(ThisProject(small, choice).epoch, batch),
            "unet_lite0": step,
            "unet_lite0, PyTorch's gradients": partial(_with_pytorchs_gradients, step),
        }
        size = " x ".join(map(str, (small.batch_size, *small.input_size)))
        with keeping_freed_memory():  # as in training
            rows = compare(contenders, rounds, small.batch_size, time.process_time)
        report.add(f"Step of {size}, time of the CPU: {choice}", rows)


def _with_pytorchs_gradients(step: Callable[[], object]) -> None:
    with patch.object(depthwise.Depthwise, "apply", _convolve):
        step()


def _convolve(features: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return conv2d(features, weight, None, stride, padding, groups=len(weight))


# Memory


class MemoryWatch:
    """Records the peak memory of this process and its children, read five times per second. Linux only.

    Attributes:
        resident: MB, counting shared memory once per process (RSS).
        proportional: MB, counting shared memory once in total (PSS).
    """

    def __init__(self) -> None:
        self.resident = self.proportional = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        """Start to watch."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._look()

    def _look(self) -> None:
        threads = Path("/proc/self/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
        sums = {"Rss:": 0.0, "Pss:": 0.0}
        for process in ("self", *children):
            with contextlib.suppress(OSError):  # the process has just ended
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
                    name, kilobytes, *_ = line.split()
                    if name in sums:
                        sums[name] += float(kilobytes) / 1e3
        self.resident = max(self.resident, sums["Rss:"])
        self.proportional = max(self.proportional, sums["Pss:"])


def watch_memory(report: Report, folder: Path, images: int, epochs: int, num_workers: int) -> None:
    """Train and validate on many small images, and record the peak memory of every epoch."""
    random = np.random.default_rng(0)
    image_ids = [f"{number:012x}_01" for number in range(images)]
    for image_id in image_ids:
        image = Image.fromarray(random.integers(0, 256, (64, 96, 3), np.uint8))
        image.save(folder / f"{image_id}.jpg")
        mask = Image.fromarray(random.integers(0, 2, (64, 96), np.uint8), "P")
        mask.putpalette((0, 0, 0, 255, 255, 255))
        mask.save(folder / f"{image_id}_mask.gif")
    source = BenchmarkImages(ImageStore(folder, folder), image_ids)
    small = Task("unet_small", partial(build_network, "unet_small"), (64, 96), 32, width_multiplier=0.25)
    run = ThisProject(small, Hardware.choose("cpu")).run
    batches = source.batches(small, num_workers=num_workers)
    validation = Batches(source.samples(small), small.batch_size, num_workers=num_workers)
    rows: list[Row] = []
    for epoch in range(1, epochs + 1):
        with MemoryWatch() as memory:
            loop.train_one_epoch(run, batches)
            run.end_epoch(loop.evaluate(run, validation), batches.images, 0.0)
        rows.append(
            {"epoch": epoch, "resident, MB": memory.resident, "proportional, MB": memory.proportional}
        )
        print(f"epoch {epoch}: {memory.resident:.1f} MB, {memory.proportional:.1f} MB", file=sys.stderr)
    summary: list[Row] = []
    for name in ("resident, MB", "proportional, MB"):
        curve = [float(row[name]) for row in rows]
        after = curve[1:]
        summary.append(
            {"memory": name, "epoch 1": curve[0], "epoch 2": after[0], f"epoch {epochs}": after[-1]}
            | {
                "lowest from epoch 2": min(after),
                "highest from epoch 2": max(after),
                "growth from epoch 2": after[-1] / after[0] - 1,
            }
        )
    report.add(f"Memory over {epochs} epochs of {images} images, {num_workers} workers", summary)
    if report.as_json:
        report.add("Memory by epoch", rows)


# Command line


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--networks", action="store_true", help="compare the steps of the two small networks")
    parser.add_argument("--tiny", action="store_true", help="make everything small, to test this program")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--images", type=Path, help="folder of jpgs")
    parser.add_argument("--masks", type=Path, help="folder of masks named <image>_mask.gif")
    parser.add_argument("--count", type=int, default=48, help="number of images")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each step")
    parser.add_argument("--epoch-rounds", type=int, default=1, help="timed rounds of each epoch")
    parser.add_argument("--epochs", type=int, default=20, help="number of epochs, for --memory")
    arguments = parser.parse_args()
    if (arguments.images is None) != (arguments.masks is None):
        parser.error("--images and --masks must be given together")
    return arguments


def main() -> None:
    """Run the measurement that the arguments select, and print its tables."""
    arguments = _arguments()
    tiny, report = arguments.tiny, Report(arguments.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.memory:
            watch_memory(report, folder, 64 if tiny else 5088, arguments.epochs, num_workers=2)
            report.end()
            return
        hardware = Hardware.choose("cpu")
        if arguments.networks:
            compare_small_networks(report, hardware, arguments.rounds, tiny)
            report.end()
            return
        count = min(4, arguments.count) if tiny else arguments.count
        source = BenchmarkImages(*find_images(arguments.images, arguments.masks, count, tiny, folder))
        tasks = [task.tiny() if tiny else task for task in TASKS]
        for task in tasks:
            compare_steps(report, task, hardware, arguments.rounds)
        for task in tasks:
            compare_loaders(report, source, task, hardware, arguments.rounds, folder)
        for workers in (0, 2):
            compare_epochs(report, source, tasks[0], hardware, arguments.epoch_rounds, workers)
        split_step(report, source, tasks[0], hardware, arguments.rounds)
        switch_alone(report, tasks[0], hardware, arguments.rounds, arguments.compile)
    report.end()


if __name__ == "__main__":
    main()
