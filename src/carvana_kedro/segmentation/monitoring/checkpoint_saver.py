"""Saves checkpoints while a run trains."""

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
    """What keeps checkpoints."""

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        """Keep tensors and plain values as the newest of a series."""


class CheckpointSaver(Callback):
    """Saves what a run needs to go on, its best model, and the steps that were skipped.

    | series | when | content |
    |---|---|---|
    | last | after every epoch, every so many minutes within one, and before the run is left early | `run.state()` |
    | best | after an epoch that is the best so far | model, history, about |
    | skipped | at a step that was skipped | image_ids, images, targets, loss, gradient_norm; the network's weights |

    Args:
        checkpoints: where to save.
        minutes: between two checkpoints of one epoch.
    """

    def __init__(self, checkpoints: Checkpoints, minutes: float) -> None:
        """Nothing is saved yet."""
        self._checkpoints = checkpoints
        self._minutes = minutes
        self._saved = time.monotonic()

    def on_run_begin(self, run: Training) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_step_end(self, run: Training, step: Step) -> None:
        """Save what was skipped, and the run if it is time."""
        if step.skipped and not step.rescaled:
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
            except UserError as error:  # no reason to stop
                logger.warning("%s", error)
        if time.monotonic() - self._saved >= 60 * self._minutes:
            self._save_last(run)

    def on_epoch_end(self, run: Training) -> None:
        """Save the run, and the model if it is the best so far."""
        # The best before the last: killed between the two, a run goes on before this epoch and comes by here again. The
        # other way round it would go on after it, and the best model would be lost.
        if run.best_epoch == len(run.history):
            state = run.state()
            self._checkpoints.save(
                "best", run.steps, {name: state[name] for name in ("model", "history", "about")}
            )
        self._save_last(run)

    def on_interrupted(self, run: Training) -> None:
        """Save the run."""
        self._save_last(run)

    def _save_last(self, run: Training) -> None:
        self._checkpoints.save("last", run.steps, run.state())
        self._saved = time.monotonic()


def _as_uint8(values: Tensor) -> Tensor:
    return (values * 255).round().to(torch.uint8).cpu()
