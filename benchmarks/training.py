"""How fast training is, against the loop of old_style.py, which does the same the plain way.

Run it as `python -m benchmarks.training [--json]`: 8 minutes on two cores. It renders its photographs, or takes yours
(`--images PATH --masks PATH`: jpgs, and gifs that are called as Kaggle's). Other questions, other runs:

    python -m benchmarks.training --gpu       # the same on a CUDA device: 9 minutes at most
    python -m benchmarks.training --memory    # does memory grow over 20 epochs?

What is compared takes turns in one process, and the best time counts: what else a machine does only ever adds to it.
`ratio` is how many times the images a second of the table's first line. `--tiny` shrinks everything, to try the program
itself; `--gpu --tiny` does so where there is no GPU.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import old_style
from benchmarks.measuring import (
    Contenders,
    Report,
    Row,
    compare,
    device_name,
    find_photographs,
    race,
    synchronize,
)
from carvana_kedro.segmentation.architectures import ARCHITECTURES, SegmentationNetwork
from carvana_kedro.segmentation.architectures.unet import UNet, Widths
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples
from carvana_kedro.segmentation.hardware import Hardware, is_out_of_memory, measured_peak, training_flop
from carvana_kedro.segmentation.training import loop
from carvana_kedro.segmentation.training.losses import batch_dice, segmentation_loss
from carvana_kedro.segmentation.training.optimizers import build_optimizer, build_schedule
from carvana_kedro.segmentation.training.state import Progress, Training
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.pixel_cache import PixelCache

SLIM = Widths((16, 32, 64, 128, 256), (256,), (256, 128, 64, 32, 16), decoder_blocks=2)
GPU_MINUTES = 7.5  # nothing is begun after that


@dataclass(frozen=True)
class Task:
    """A network, the (height, width) that it reads, the images of a batch, and the steps that are timed at once."""

    name: str
    architecture: Callable[[float], SegmentationNetwork]
    input_size: Size
    batch_size: int
    steps: int = 1
    width_multiplier: float = 1.0

    def __str__(self) -> str:
        """Spell it."""
        return f"{self.name}, {self.batch_size} x {self.input_size[0]} x {self.input_size[1]}"

    def network(self) -> SegmentationNetwork:
        """Return a new one."""
        return self.architecture(self.width_multiplier)

    @property
    def geometry(self) -> Geometry:
        """Of the network at its size."""
        with torch.device("meta"):
            return Geometry.of(self.network(), self.input_size)

    def tiny(self) -> Self:
        """The same task, but small."""
        size = (188, 204) if self.name == "unet_original" else (64, 96)
        return replace(self, input_size=size, batch_size=2, steps=1, width_multiplier=0.05)


CPU_TASKS = (
    Task("U-Net of 16 to 256 channels", partial(UNet, SLIM), (256, 384), 16),
    Task("unet_1024", ARCHITECTURES["unet_1024"], (512, 512), 2),
)
GPU_TASKS = (
    Task("unet_original", ARCHITECTURES["unet_original"], (572, 572), 16, steps=10),
    Task("unet_1024", ARCHITECTURES["unet_1024"], (1024, 1024), 16, steps=10),
    Task("unet_resnet34", ARCHITECTURES["unet_resnet34"], (640, 960), 16, steps=10),
)


# The two that are compared


class Ours:
    """The project's own loop."""

    def __init__(self, task: Task, hardware: Hardware) -> None:
        torch.manual_seed(0)
        network = hardware.place(task.network())
        optimizer = build_optimizer(
            network.parameters(), name="adamw", learning_rate=1e-4, fused=hardware.fused
        )
        self.run = Training(
            network=network,
            geometry=task.geometry,
            optimizer=optimizer,
            schedule=build_schedule(optimizer, name="constant", total_steps=10**9),
            loss=segmentation_loss,
            augmentation=Augmentation(),
            hardware=hardware,
            seed=0,
            epochs=10**9,
            description={},
        )

    def epoch(self, batches: Any) -> float:
        """Train on all batches; return the share of the time that they were waited for."""
        self.run.progress = Progress()
        loop.train_one_epoch(self.run, batches)
        return self.run.progress.waited / self.run.progress.seconds


class Old:
    """The old style, in bfloat16 if `autocast`."""

    def __init__(
        self, build: Callable[[], nn.Module], device: torch.device, *, autocast: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.network = build().to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.0)
        self.autocast = autocast

    def epoch(self, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Train on all batches; return the share of the time that they were waited for."""
        waited, began = 0.0, time.perf_counter()

        def waiting() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal waited
            arriving = iter(loader)
            while True:
                asked = time.perf_counter()
                batch = next(arriving, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch

        old_style.train_one_epoch(self.network, waiting(), self.optimizer, autocast=self.autocast)
        return waited / (time.perf_counter() - began)


class OneBatch:
    """The same random batch again and again, which lies on the device: nothing is loaded."""

    def __init__(self, task: Task, device: torch.device) -> None:
        (height, width), count = task.geometry.output_size, task.batch_size
        images = torch.randint(256, (count, height, width, 3), dtype=torch.uint8, device=device)
        self.batch = torch.arange(count), images, (images[..., 0] > 127).to(torch.uint8) * 255
        self.image_ids = np.array([str(number) for number in range(count)])
        self.steps = task.steps
        self.for_old_style = [
            (
                torch.rand(count, 3, *task.input_size, device=device),
                torch.randint(2, (count, height, width), device=device).float(),
            )
        ] * task.steps

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield them."""
        return iter([self.batch] * (self.steps - start))


@dataclass(frozen=True)
class ImageSource:
    """Images and masks of a store, each of them `times` times an epoch."""

    store: ImageStore
    image_ids: list[str]
    times: int = 1

    @property
    def images(self) -> int:
        """Of an epoch."""
        return len(self.image_ids) * self.times

    def samples(self, task: Task) -> Samples:
        """Ours, decoded every time."""
        return Samples(self.store, self.image_ids * self.times, task.geometry)

    def ours(
        self, task: Task, samples: Samples | CachedSamples | None = None, num_workers: int = 0
    ) -> Batches:
        """Our batches."""
        pinned = torch.cuda.is_available()
        return Batches(
            samples or self.samples(task), task.batch_size, seed=0, num_workers=num_workers, pin_memory=pinned
        )

    def old_style(self, task: Task, num_workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
        """The old style's."""
        assert self.store.masks is not None
        sizes = task.input_size, task.geometry.output_size
        dataset = old_style.Photographs(
            self.store.images, self.store.masks, self.image_ids * self.times, *sizes
        )
        return DataLoader(
            dataset,
            task.batch_size,
            shuffle=True,
            num_workers=num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        )


def go_through(
    epoch: Callable[[int], Iterable[Any]], change: Callable[..., object] | None = None, passes: int = 1
) -> None:
    """Load all batches, `passes` times, and perhaps do something to each."""
    for number in range(passes):
        for batch in epoch(number):
            if change:
                change(*batch)


# On the CPU, or wherever it is asked for


def compare_steps(report: Report, task: Task, hardware: Hardware, rounds: int) -> None:
    """A step on data that is there already. Ours augments in it; the old style has done that while loading."""
    batch = OneBatch(task, hardware.device)
    contenders: Contenders = {
        "old style": partial(Old(task.network, hardware.device).epoch, batch.for_old_style),
        f"ours: {hardware}": partial(Ours(task, hardware).epoch, batch),
    }
    report.add(f"A step: {task}", compare(contenders, rounds, task.steps * task.batch_size))


def compare_loaders(
    report: Report, photographs: ImageSource, task: Task, hardware: Hardware, rounds: int, folder: Path
) -> None:
    """Batches, in one thread of one process."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        samples, loader, passes = photographs.samples(task), photographs.old_style(task), 10
        keep = partial(PixelCache(folder / "pixels").rows, photographs.store.fingerprint())
        augmented = Ours(task, hardware).run.augmented
        contenders: dict[str, Callable[[], object]] = {
            "old style, augmented": partial(go_through, lambda _: loader)
        }
        ours: dict[str, Samples | CachedSamples] = {
            "": samples,
            ", memory": CachedSamples(samples),
            ", memmap": CachedSamples(samples, keep),
        }
        for name, kept in ours.items():
            batches = photographs.ours(task, kept)
            # What is cached takes too short a time to be gone through once.
            repeated = partial(go_through, batches.epoch, passes=passes if name else 1)
            contenders[f"ours{name}"] = repeated
            contenders[f"ours{name}, augmented"] = partial(repeated, change=augmented)
        images = len(loader) * task.batch_size
        counts = {
            name: images * (passes if "," in name.removesuffix(", augmented") else 1) for name in contenders
        }
        report.add(f"Loading, one thread: {task}", compare(contenders, rounds, counts))
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def compare_epochs(
    report: Report, photographs: ImageSource, task: Task, hardware: Hardware, rounds: int, num_workers: int
) -> None:
    """Whole epochs, loading and all. What is cached in memory needs no worker."""
    old, ours = Old(task.network, hardware.device), Ours(task, hardware)
    cached = photographs.ours(task, CachedSamples(photographs.samples(task)))
    contenders: Contenders = {
        "old style": partial(old.epoch, photographs.old_style(task, num_workers)),
        "ours": partial(ours.epoch, photographs.ours(task, num_workers=num_workers)),
        "ours, memory": partial(ours.epoch, cached),
    }
    title = f"An epoch with {num_workers} workers: {task}, {cached.images} photographs"
    report.add(title, compare(contenders, rounds, cached.images))


def split_step(report: Report, photographs: ImageSource, task: Task, hardware: Hardware, rounds: int) -> None:
    """The parts of our step, each waited for."""
    run, batches = Ours(task, hardware).run, photographs.ours(task)
    run.network.train()
    seconds: dict[str, list[float]] = {}
    clock = time.perf_counter()

    def ends(part: str) -> None:
        nonlocal clock
        synchronize()
        seconds.setdefault(part, []).append(time.perf_counter() - clock)
        clock = time.perf_counter()

    for _ in range(rounds + 1):
        arriving = batches.epoch(1)
        clock = time.perf_counter()
        batch = next(arriving)
        ends("load")
        images, targets = run.augmented(*batch)
        ends("to the device, augment")
        statistics = [buffer.clone() for buffer in run.network.buffers()]
        run.optimizer.zero_grad()
        logits = run.predict(run.network, images)
        ends("forward")
        loss = run.loss(logits, targets)
        dice = batch_dice(logits.detach(), targets).mean()
        ends("loss, Dice")
        loss.backward()
        ends("backward")
        loop._update(run, loss.detach(), dice, statistics)
        ends("gradient norm, optimizer")
    best = {part: min(times[1:]) for part, times in seconds.items()}
    rows: list[Row] = [
        {"part": part, "best, ms": 1000 * time, "share": time / sum(best.values())}
        for part, time in best.items()
    ]
    report.add(f"The parts of a step: {task} ({hardware})", rows)


def switch_alone(report: Report, task: Task, hardware: Hardware, rounds: int, compiled: bool) -> None:
    """Our step with one choice made otherwise, and how much of the machine's peak is used."""
    others = [
        replace(hardware, precision=torch.float32),
        replace(hardware, channels_last=not hardware.channels_last),
        replace(hardware, fused=not hardware.fused),
        *([replace(hardware, compile=not hardware.compile)] if compiled else []),
    ]
    batch = OneBatch(task, hardware.device)
    choices = {str(choice): choice for choice in (hardware, *others)}
    contenders = {name: partial(Ours(task, choice).epoch, batch) for name, choice in choices.items()}
    rows = compare(contenders, rounds, task.steps * task.batch_size)
    flop = training_flop(task.network(), task.input_size)
    for row, choice in zip(rows, choices.values(), strict=True):
        row["share of peak"] = flop * float(row["images/s"]) / measured_peak(choice)
    report.add(f"A step with one choice made otherwise: {task}", rows)


# On a GPU


def gpu(
    report: Report,
    photographs: ImageSource,
    tasks: Sequence[Task],
    batch_sizes: Sequence[int],
    num_workers: int,
) -> None:
    """Our loop against plain ones: on data that lies on the GPU, for each batch size, and with all that loads it."""
    hardware = Hardware.choose()
    deadline = time.monotonic() + 60 * GPU_MINUTES
    eager = replace(hardware, compile=False)
    print(f"{device_name()}, torch {torch.__version__}, ours: {hardware}", file=sys.stderr)

    def old(task: Task, *, autocast: bool) -> Callable[[], Any]:
        return partial(Old, task.network, hardware.device, autocast=autocast)

    for task in tasks:
        rows: list[Row] = []
        for size in batch_sizes:
            sized = replace(task, batch_size=size)
            batch = OneBatch(sized, hardware.device)
            epochs: dict[str, tuple[Callable[[], Any], Any]] = {
                "old style: float32, eager": (old(sized, autocast=False), batch.for_old_style),
                "plain: bfloat16, eager": (old(sized, autocast=True), batch.for_old_style),
                "ours, eager": (partial(Ours, sized, eager), batch),
                "ours": (partial(Ours, sized, hardware), batch),
            }
            if task.name == "unet_resnet34":
                epochs["segmentation_models_pytorch: bfloat16, eager"] = (
                    partial(Old, _peer, hardware.device, autocast=True), batch.for_old_style,
                )  # fmt: skip
            rows += _measured(epochs, task.steps * size, {"batch": size}, deadline)
            del batch
        report.add(f"On the GPU alone: {task.name}, {task.input_size[0]} x {task.input_size[1]}", rows)

        times = -(-2 * task.steps * task.batch_size // len(photographs.image_ids))
        many = replace(photographs, times=times)
        cached = many.ours(task, CachedSamples(many.samples(task)))
        epochs = {
            "old style: float32, eager": (old(task, autocast=False), many.old_style(task, num_workers)),
            "plain: bfloat16, eager": (old(task, autocast=True), many.old_style(task, num_workers)),
            "ours": (partial(Ours, task, hardware), many.ours(task, num_workers=num_workers)),
            "ours, memory": (partial(Ours, task, hardware), cached),
        }
        rows = _measured(epochs, cached.images, {"num_workers": num_workers}, deadline)
        report.add(f"End to end, {cached.images} photographs: {task}", rows)
    task = tasks[0]
    split_step(report, photographs, task, hardware, 5)


def _measured(
    epochs: Mapping[str, tuple[Callable[[], Any], Any]], images: int, about: Row, deadline: float
) -> list[Row]:
    """Time one after the other, each with the GPU to itself."""
    rows: list[Row] = []
    for name, (start, batches) in epochs.items():
        row: Row = {"contender": name, **about}
        rows.append(row)
        if time.monotonic() > deadline:
            row["note"] = f"not measured: {GPU_MINUTES} minutes are over"
            continue
        try:
            torch.compiler.reset()  # after eight shapes it would go on without compiling
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            timing = race({name: partial(start().epoch, batches)}, 2)[name]
        except ModuleNotFoundError as error:
            row["note"] = f"not measured: {error}"
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            row["note"] = "out of memory"
            continue
        row["images/s"] = speed = images / timing.best
        if "images/s" in rows[0]:
            row["ratio"] = speed / float(rows[0]["images/s"])
        row["waited for data"] = timing.returned
        row["first epoch, s more"] = timing.warm_up - timing.best  # compiling, most of all
        if torch.cuda.is_available():
            row["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    return rows


def _peer() -> nn.Module:
    import segmentation_models_pytorch

    network: nn.Module = segmentation_models_pytorch.Unet("resnet34", encoder_weights=None)
    return network


# Memory


class MemoryWatch:
    """Looks five times a second at the memory of this process and its children; Linux only.

    `resident` counts what they share once for each (RSS), `proportional` once for all (PSS).
    """

    def __init__(self) -> None:
        self.resident = self.proportional = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        """Begin."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
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
            with contextlib.suppress(OSError):  # it has just ended
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
                    name, kilobytes, *_ = line.split()
                    if name in sums:
                        sums[name] += float(kilobytes) / 1e3
        self.resident = max(self.resident, sums["Rss:"])
        self.proportional = max(self.proportional, sums["Pss:"])


def watch_memory(report: Report, folder: Path, images: int, epochs: int, num_workers: int) -> None:
    """Train and validate on many small images, and look at the most memory of every epoch."""
    random = np.random.default_rng(0)
    image_ids = [f"{number:012x}_01" for number in range(images)]
    for image_id in image_ids:
        picture = Image.fromarray(random.integers(0, 256, (64, 96, 3), np.uint8))
        picture.save(folder / f"{image_id}.jpg")
        mask = Image.fromarray(random.integers(0, 2, (64, 96), np.uint8), "P")
        mask.putpalette((0, 0, 0, 255, 255, 255))
        mask.save(folder / f"{image_id}_mask.gif")
    photographs = ImageSource(ImageStore(folder, folder), image_ids)
    small = Task("unet_small", ARCHITECTURES["unet_small"], (64, 96), 32, width_multiplier=0.25)
    run = Ours(small, Hardware.choose("cpu")).run
    batches = photographs.ours(small, num_workers=num_workers)
    validation = Batches(photographs.samples(small), small.batch_size, num_workers=num_workers)
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
                "least after 2": min(after),
                "most after 2": max(after),
                "growth after 2": after[-1] / after[0] - 1,
            }
        )
    report.add(f"Memory over {epochs} epochs of {images} images, {num_workers} workers", summary)
    if report.as_json:
        report.add("Memory by epoch", rows)


# The program


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--gpu", action="store_true", help="compare on a CUDA device")
    parser.add_argument("--memory", action="store_true", help="watch memory instead of comparing speeds")
    parser.add_argument("--tiny", action="store_true", help="make everything small, to try this program")
    parser.add_argument("--compile", action="store_true", help="compile our network too, on the CPU")
    parser.add_argument("--images", type=Path, help="folder of jpgs")
    parser.add_argument("--masks", type=Path, help="folder of <name>_mask.gif")
    parser.add_argument("--count", type=int, default=48, help="photographs")
    parser.add_argument("--rounds", type=int, default=3, help="times that each step is measured")
    parser.add_argument("--epoch-rounds", type=int, default=1, help="times that each epoch is measured")
    parser.add_argument("--epochs", type=int, default=20, help="for --memory")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32], help="for --gpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="for --gpu")
    arguments = parser.parse_args()
    if (arguments.images is None) != (arguments.masks is None):
        parser.error("--images and --masks go together")
    if arguments.gpu and not (arguments.tiny or torch.cuda.is_available()):
        parser.error("--gpu: torch finds no CUDA device")
    tiny, report = arguments.tiny, Report(arguments.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.memory:
            watch_memory(report, folder, 64 if tiny else 5088, arguments.epochs, num_workers=2)
            report.end()
            return
        count = min(4, arguments.count) if tiny else arguments.count
        photographs = ImageSource(*find_photographs(arguments.images, arguments.masks, count, tiny, folder))
        if arguments.gpu:
            tasks = [task.tiny() if tiny else task for task in GPU_TASKS]
            sizes = [2] if tiny else arguments.batch_sizes
            gpu(report, photographs, tasks, sizes, arguments.num_workers)
            report.end()
            return
        hardware = Hardware.choose("cpu")
        tasks = [task.tiny() if tiny else task for task in CPU_TASKS]
        for task in tasks:
            compare_steps(report, task, hardware, arguments.rounds)
        for task in tasks:
            compare_loaders(report, photographs, task, hardware, arguments.rounds, folder)
        for workers in (0, 2):
            compare_epochs(report, photographs, tasks[0], hardware, arguments.epoch_rounds, workers)
        split_step(report, photographs, tasks[0], hardware, arguments.rounds)
        switch_alone(report, tasks[0], hardware, arguments.rounds, arguments.compile)
    report.end()


if __name__ == "__main__":
    main()
