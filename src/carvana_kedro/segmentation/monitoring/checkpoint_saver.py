"""Saves checkpoints during training."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.state import Step, Training

logger = logging.getLogger(__name__)


class Checkpoints(Protocol):
    """A store of checkpoints."""

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        """Save tensors and plain values as the newest checkpoint of a series."""


class CheckpointSaver(Callback):
    """Saves the state of the run, its best model and the batches of skipped steps.

    | series | when | content |
    |---|---|---|
    | last | after every epoch, every `minutes` within an epoch, and when the run is interrupted | `run.state()` |
    | best | after an epoch that is the best so far | model, history, about |
    | skipped | at a skipped step | image_ids, images, targets, loss, gradient_norm, the weights of the network |

    Args:
        checkpoints: Store to save to.
        minutes: Time between two checkpoints of the series `last` within an epoch.
    """

    def __init__(self, checkpoints: Checkpoints, minutes: float) -> None:
        """Store the arguments; nothing is saved."""
        self._checkpoints = checkpoints
        self._minutes = minutes
        self._last_saved = time.monotonic()

    def on_run_begin(self, run: Training) -> None:
        """Start the timer."""
        self._last_saved = time.monotonic()

    def on_step_end(self, run: Training, step: Step) -> None:
        """Save the batch of a skipped step, and the state of the run if enough time has passed."""
        # A step that is skipped to adjust the loss scale of float16 is normal.
        if step.skipped and not step.rescaled:
            self._save_skipped(run, step)
        if time.monotonic() - self._last_saved >= 60 * self._minutes:
            self._save_last(run)

    def on_epoch_end(self, run: Training) -> None:
        """Save the state of the run, and the model if it is the best so far."""
        # Save `best` before `last`. If the process is killed between the two, the run resumes before the end of this
        # epoch and saves `best` again. In the other order, it would resume after it, and the best model would be lost.
        if run.best_epoch == len(run.history):
            state = run.state()
            self._checkpoints.save(
                "best", run.steps, {name: state[name] for name in ("model", "history", "about")}
            )
        self._save_last(run)

    def on_interrupted(self, run: Training) -> None:
        """Save the state of the run."""
        self._save_last(run)

    def _save_last(self, run: Training) -> None:
        self._checkpoints.save("last", run.steps, run.state())
        self._last_saved = time.monotonic()

    def _save_skipped(self, run: Training, step: Step) -> None:
        content = {
            "image_ids": [str(image_id) for image_id in step.image_ids],
            "images": _as_uint8(step.images),
            "targets": _as_uint8(step.targets),
            "loss": step.loss,
            "gradient_norm": step.gradient_norm,
            "network": run.network.state_dict(),
        }
        try:
            self._checkpoints.save("skipped", run.steps, content)
        except UserError as error:  # training can continue without this diagnostic file
            logger.warning("%s", error)


def _as_uint8(values: Tensor) -> Tensor:
    """Convert floats in [0, 1] to uint8 in [0, 255], on the CPU."""
    return (values * 255).round().to(torch.uint8).cpu()
