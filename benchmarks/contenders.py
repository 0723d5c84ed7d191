"""The two training loops that the benchmarks compare, and what they train on."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import old_style
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.training import loop
from carvana_kedro.segmentation.training.build import build_training
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Progress
from carvana_kedro.stores.images.competition import ImageStore


@dataclass(frozen=True)
class Task:
    """A network, its input size (height, width), the batch size, and the number of steps to time together."""

    name: str
    build: Callable[..., SegmentationNetwork]
    input_size: Size
    batch_size: int
    steps: int = 1
    width_multiplier: float = 1.0

    def __str__(self) -> str:
        """Return the name, the batch size and the input size."""
        return f"{self.name}, {self.batch_size} x {self.input_size[0]} x {self.input_size[1]}"

    def network(self) -> SegmentationNetwork:
        """Build the network."""
        return self.build(width_multiplier=self.width_multiplier)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the network at its input size."""
        with torch.device("meta"):
            return Geometry.of(self.network(), self.input_size)

    def tiny(self) -> Self:
        """Return the same task with a small input and a narrow network."""
        size = (188, 204) if self.name == "unet_original" else (64, 96)
        return replace(self, input_size=size, batch_size=2, steps=1, width_multiplier=0.05)


class ThisProject:
    """The training loop of this project, with a moving average of the weights if `ema_decay` is not 0."""

    def __init__(self, task: Task, hardware: Hardware, ema_decay: float = 0.0) -> None:
        torch.manual_seed(0)
        recipe = Recipe(
            architecture=task.name,
            input_size=task.input_size,
            batch_size=task.batch_size,
            epochs=1,
            seed=0,
            ema_decay=ema_decay,
            optimizer={"name": "adamw", "learning_rate": 1e-4},
        )
        self.run = build_training(recipe, task.network(), task.geometry, hardware, steps_per_epoch=10**9)
        self.run.epochs = 10**9

    def epoch(self, batches: Any) -> float:
        """Train on all batches; return the share of the time spent waiting for batches."""
        self.run.progress = Progress()
        loop.train_one_epoch(self.run, batches)
        return self.run.progress.waited / self.run.progress.seconds


class OldStyle:
    """The training loop of old_style.py, in bfloat16 if `autocast`."""

    def __init__(
        self, build: Callable[[], nn.Module], device: torch.device, *, autocast: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.network = build().to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.0)
        self.autocast = autocast

    def epoch(self, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Train on all batches; return the share of the time spent waiting for batches."""
        waited, began = 0.0, time.perf_counter()

        def waiting() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal waited
            batches = iter(loader)
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - started
                if batch is None:
                    return
                yield batch

        old_style.train_one_epoch(self.network, waiting(), self.optimizer, autocast=self.autocast)
        return waited / (time.perf_counter() - began)


class OneBatch:
    """One random batch on the device, repeated: nothing is loaded."""

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

    def shortened(self, steps: int) -> Self:
        """Return the same batch, repeated at most `steps` times."""
        short = copy.copy(self)
        short.steps = min(steps, self.steps)
        return short

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return the batches of one epoch."""
        return iter([self.batch] * (self.steps - start))


@dataclass(frozen=True)
class BenchmarkImages:
    """Images and masks of a store; each occurs `times` times per epoch."""

    store: ImageStore
    image_ids: list[str]
    times: int = 1

    @property
    def images(self) -> int:
        """Number of images per epoch."""
        return len(self.image_ids) * self.times

    def samples(self, task: Task) -> Samples:
        """Return samples of this project, which are decoded each time."""
        return Samples(self.store, self.image_ids * self.times, task.geometry)

    def batches(
        self, task: Task, samples: Samples | CachedSamples | None = None, num_workers: int = 0
    ) -> Batches:
        """Return batches of this project."""
        pinned = torch.cuda.is_available()
        return Batches(
            samples or self.samples(task), task.batch_size, seed=0, num_workers=num_workers, pin_memory=pinned
        )

    def old_style(self, task: Task, num_workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the loader of the old style."""
        assert self.store.masks is not None
        sizes = task.input_size, task.geometry.output_size
        dataset = old_style.ImagesAndMasks(
            self.store.images, self.store.masks, self.image_ids * self.times, *sizes
        )
        return DataLoader(
            dataset,
            task.batch_size,
            shuffle=True,
            num_workers=num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_use_one_thread,
        )


def _use_one_thread(worker: int) -> None:
    """Let OpenCV work in the thread that calls it: the threads of the parent process do not exist in this one."""
    cv2.setNumThreads(0)
