"""What each of several processes does in tests: all of it in one go, because processes start slowly."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.distributed import HERE, RECIPE, Random, Result, built, results
from carvana_kedro.errors import UserError
from carvana_kedro.pipelines.model_training import nodes
from carvana_kedro.segmentation.data import cache
from carvana_kedro.segmentation.data.reader import Reader
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.distributed import World
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.state import Step, Training

# One BatchNorm: the U-Net of `results` has 16, and communicates 16 times as often.
SMALL = replace(RECIPE, architecture=f"{HERE}.WithUnusedWeights", width_multiplier=1.0)
LONGER = replace(SMALL, epochs=3, ema_decay=0.9, schedule={"name": "cosine"})


class Unreadable(Random):
    """Images of which one cannot be read."""

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        if image_id == "image_05":
            raise UserError("image_05 cannot be read")
        return super().read_image(image_id, at_least)


class UnreadableInValidation(Random):
    """Images of which the first validation image cannot be read; counts the others that are read."""

    count = 0

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        if image_id == "image_13":
            raise UserError("image_13 cannot be read")
        self.count += image_id > "image_13"
        return super().read_image(image_id, at_least)


class Failing(Callback):
    """Fails after the second step."""

    def on_step_end(self, run: Training, step: Step) -> None:
        if run.steps == 2:
            raise UserError("the disk is full")


@dataclass
class Found:
    """What a process has seen."""

    results: dict[str, Result]
    validation_images_read: int
    messages: dict[str, str]
    caches: list[bool]
    interrupted: Any
    resumed: Any
    uninterrupted: Any


def everything(world: World) -> Found:
    """Train all cases, fail in several ways, stop and go on."""
    torch.set_default_dtype(torch.float64)
    unreadable = UnreadableInValidation()
    messages = {
        # Validation batches have as many images as there are processes, but two for one: BatchNorm needs them.
        "validation image": _error_of(
            world, images=unreadable, cache="none", batch_size=8, accumulation_steps=8 // max(2, world.size)
        ),
        "image": _error_of(world, images=Unreadable(), cache="none"),
        "workers": _error_of(world, images=Unreadable(), cache="none", num_workers=1),
        "callback": _error_of(world, [Failing()] if world.leader else []),
        "shares": _error_of(world, batch_size=4, accumulation_steps=4) if world.size > 1 else "",
    }
    whole = built(LONGER, world)
    train(*whole)
    stopped = built(LONGER, world)
    last = world.rank == world.size - 1
    stopped.training.interrupted = lambda: last and stopped.training.steps == 3  # in the middle of an epoch
    messages["interruption"] = _message(stopped)
    state = copy.deepcopy(stopped.training.state())
    resumed = built(LONGER, world)
    resumed.training.restore(copy.deepcopy(state))  # the optimizer changes the tensors that it is given
    train(*resumed)
    return Found(
        results(world),
        unreadable.count,
        messages,
        _caches(world),
        state,
        resumed.training.state(),
        whole.training.state(),
    )


def _caches(world: World) -> list[bool]:
    """Return whether this process keeps the images in memory, if all have enough of it, and if the last one has not."""
    kept = []
    for last_one in (1 << 60, 0):
        available = last_one if world.rank == world.size - 1 else 1 << 60
        with patch.object(cache, "available_memory", lambda available=available: available):
            batches = built(replace(SMALL, cache="auto"), world).train_batches
        kept.append(not isinstance(batches._read, Reader))
    return kept


def _error_of(world: World, callbacks: Any = (), images: Any = None, **changes: Any) -> str:
    try:
        run = built(replace(SMALL, **changes), world, images)
    except UserError as error:
        return str(error)
    return _message(run, callbacks)


def _message(run: Any, callbacks: Any = ()) -> str:
    try:
        train(*run, callbacks)
    except TrainingInterruptedError as error:
        return f"interrupted: {error}"
    except UserError as error:
        return str(error)
    return "no error"


def errors_of_runs(world: World, runs: Sequence[Sequence[tuple[Any, ...]]]) -> list[str]:
    """Train runs of the node, each with the arguments that this process has; return the errors."""
    errors = []
    for arguments in runs:
        try:
            nodes._train_splits(world, *arguments[world.rank])
            errors.append("")
        except UserError as error:
            errors.append(str(error))
    return errors
