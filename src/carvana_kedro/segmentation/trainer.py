"""The training loop: two plain functions, and one that calls them epoch after epoch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.augmentation import Augmentation
from carvana_kedro.segmentation.batches import Batches
from carvana_kedro.segmentation.geometry import Geometry
from carvana_kedro.segmentation.hardware import mixed_precision
from carvana_kedro.segmentation.losses import batch_dice

if TYPE_CHECKING:
    from carvana_kedro.segmentation.callbacks import Callback


@dataclass
class Training:
    """All that a training run holds; callbacks are handed it and may look at everything.

    Attributes:
        network: on `device`.
        geometry: of the network at its input size.
        optimizer: steps the network's weights.
        schedule: stepped after every step of the optimiser.
        loss: (logits (N, h, w), targets (N, h, w) in [0, 1]) to a scalar.
        augmentation: of the training images.
        device: what to compute on.
        precision: dtype of the convolutions.
        threshold: on the probability, for the Dice coefficient.
        seed: of the augmentation.
        epochs: how many there will be.
        description: architecture and origin, stored with the weights.
        history: a record an epoch: epoch, train_loss, train_dice_coeff, val_loss, val_dice_coeff, learning_rate,
            images_per_second, seconds.
        last_batch: images, targets and logits of the last validation batch, for pictures.
    """

    network: SegmentationNetwork
    geometry: Geometry
    optimizer: Optimizer
    schedule: LRScheduler
    loss: Callable[[Tensor, Tensor], Tensor]
    augmentation: Augmentation
    device: torch.device
    precision: torch.dtype
    threshold: float
    seed: int
    epochs: int
    description: Mapping[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    last_batch: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1."""
        return len(self.history) + 1

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: tensors and plain values."""
        return {
            "model": {**self.description, "weights": self.network.state_dict()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }

    def tensors(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Move a batch to the device as floats in [0, 1]: (N, 3, h, w) and (N, h, w)."""
        # (N, h, w, 3) seen as (N, 3, h, w) is what channels_last means: no copy.
        images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        return images, targets.to(self.device, non_blocking=True).float() / 255

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits (N, h, w) of images (N, 3, h, w) fitted to the output size."""
        with mixed_precision(self.device, self.precision):
            logits: Tensor = self.network(self.geometry.pad(images))
        return logits


def train(
    run: Training, train_batches: Batches, validation_batches: Batches, callbacks: Sequence["Callback"] = ()
) -> list[dict[str, float]]:
    """Train until the run has its epochs; return its history.

    Raises:
        UserError: the loss is no longer a number.
    """
    for callback in callbacks:
        callback.on_run_begin(run)
    while run.epoch <= run.epochs:
        started = time.perf_counter()
        trained = train_one_epoch(run, train_batches, callbacks)
        seconds = time.perf_counter() - started
        validated = evaluate(run, validation_batches)
        run.history.append(
            {
                "epoch": run.epoch,
                **{f"train_{name}": value for name, value in trained.items()},
                **{f"val_{name}": value for name, value in validated.items()},
                "learning_rate": float(run.schedule.get_last_lr()[0]),
                "images_per_second": train_batches.images / seconds,
                "seconds": time.perf_counter() - started,
            }
        )
        for callback in callbacks:
            callback.on_epoch_end(run)
    for callback in callbacks:
        callback.on_run_end(run)
    return run.history


def train_one_epoch(
    run: Training, batches: Batches, callbacks: Sequence["Callback"] = ()
) -> dict[str, float]:
    """Go once through the training images; return the mean loss and Dice coefficient.

    Raises:
        UserError: the loss is no longer a number.
    """
    run.network.train()
    losses, scores = [], []
    for positions, images, targets in batches.epoch(run.epoch):
        images, targets = run.tensors(images, targets)
        draws = run.augmentation.draw(run.seed, run.epoch, positions.tolist()).to(run.device)
        images, targets = run.augmentation.apply(images, targets, draws)
        logits = run.predict(images)
        loss = run.loss(logits, targets)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run.optimizer.step()
        run.schedule.step()
        losses.append(loss.detach())
        scores.append(batch_dice(logits.detach(), targets, run.threshold))
        for callback in callbacks:
            callback.on_step_end(run, len(losses), len(batches), losses[-1])
    return _means(run, losses, scores)


@torch.no_grad()
def evaluate(run: Training, batches: Batches) -> dict[str, float]:
    """Go once through the validation images, at the output size; return the mean loss and Dice coefficient."""
    run.network.eval()
    losses, scores = [], []
    for _, images, targets in batches.epoch(run.epoch):
        images, targets = run.tensors(images, targets)
        logits = run.predict(images).float()
        losses += [run.loss(logits, targets)] * len(images)
        scores.append(batch_dice(logits, targets, run.threshold))
        run.last_batch = images, targets, logits
    return _means(run, losses, scores)


def _means(run: Training, losses: list[Tensor], scores: list[Tensor]) -> dict[str, float]:
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise UserError(
            f"The loss became {loss} in epoch {run.epoch}. Try a smaller learning rate "
            "(--params model_training.optimizer.learning_rate=...) or model_training.precision=float32."
        )
    return {"loss": loss, "dice_coeff": float(torch.cat(scores).mean())}
