"""What happens around the training loop without being part of it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from carvana_kedro.segmentation.drawing import comparison
from carvana_kedro.segmentation.trainer import Training

logger = logging.getLogger(__name__)


class Callback:
    """The protocol: override what is needed. Every method may read all of `run` and should change none of it."""

    def on_run_begin(self, run: Training) -> None:
        """Before the first epoch of this process; `run.history` holds the epochs of earlier ones."""

    def on_step_end(self, run: Training, step: int, steps: int, loss: Tensor) -> None:
        """After step `step` of `steps` of the epoch; `loss` is a scalar on the device."""

    def on_epoch_end(self, run: Training) -> None:
        """After training and validation; the epoch's record is `run.history[-1]`."""

    def on_run_end(self, run: Training) -> None:
        """After the last epoch."""


class ProgressBar(Callback):
    """A bar an epoch in a terminal, a line an epoch in the log."""

    def __init__(self) -> None:
        """The bar appears with the first step."""
        self._bar: tqdm | None = None

    def on_step_end(self, run: Training, step: int, steps: int, loss: Tensor) -> None:
        """Move the bar."""
        if self._bar is None:
            # disable=None: no bar where there is no terminal.
            self._bar = tqdm(
                total=steps, desc=f"Epoch {run.epoch}/{run.epochs}", unit=" steps", leave=False, disable=None
            )
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{float(loss):.4f}")
        self._bar.update()

    def on_epoch_end(self, run: Training) -> None:
        """Write the epoch's line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        logger.info(
            "Epoch %(epoch)d: loss %(train_loss).4f, Dice %(train_dice_coeff).4f; validation loss %(val_loss).4f, "
            "Dice %(val_dice_coeff).4f; %(images_per_second).1f images/s",
            run.history[-1],
        )


class TensorBoardScalars(Callback):
    """Loss, Dice coefficient and learning rate of every epoch, under `data/`."""

    def __init__(self, events: SummaryWriter) -> None:
        """Write to `events`."""
        self._events = events

    def on_epoch_end(self, run: Training) -> None:
        """Write the epoch's numbers."""
        record = dict(run.history[-1])
        epoch = int(record.pop("epoch"))
        for name, value in record.items():
            self._events.add_scalar(f"data/{name}", value, epoch)
        self._events.flush()


class TensorBoardPictures(Callback):
    """The first images of the last validation batch, expected and predicted, after every epoch."""

    def __init__(self, events: SummaryWriter, count: int) -> None:
        """Write `count` images an epoch to `events`."""
        self._events = events
        self._count = count

    def on_epoch_end(self, run: Training) -> None:
        """Draw the pictures."""
        if run.last_batch is None:
            return
        images, targets, logits = (tensor[: self._count].cpu() for tensor in run.last_batch)
        pictures = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        predictions = (logits.sigmoid() > run.threshold).numpy()
        for number, (picture, prediction, target) in enumerate(
            zip(pictures, predictions, (targets > 0.5).numpy(), strict=True), start=1
        ):
            self._events.add_image(
                f"validation/image_{number}",
                np.ascontiguousarray(comparison(picture, prediction, target)),
                len(run.history),
                dataformats="HWC",
            )
        self._events.flush()


class CheckpointSaver(Callback):
    """Saves `last` after every epoch, and `best` when the validation Dice coefficient is the highest so far."""

    def __init__(self, save: Callable[[str, Mapping[str, Any]], None]) -> None:
        """`save(name, content)` stores a dictionary of tensors and plain values."""
        self._save = save

    def on_epoch_end(self, run: Training) -> None:
        """Save."""
        state = run.state()
        self._save("last", state)
        scores = [record["val_dice_coeff"] for record in run.history]
        if scores.index(max(scores)) == len(scores) - 1:
            self._save("best", state)
