"""Saves checkpoints during training."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.monitoring.snapshots import Content, Snapshots
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

    Training waits only for a copy of the state in memory, and for the previous checkpoint. A thread writes the copy. If
    that fails, the error is raised after the next step, or at the end. When a run ends or is interrupted, everything is
    on the disk. For runs that end with an error, use the saver as a context manager:

        with CheckpointSaver(checkpoints, minutes=10) as saver:
            train(run, train_batches, validation_batches, [saver])

    Args:
        checkpoints: Store to save to.
        minutes: Time between two checkpoints of the series `last` within an epoch.
    """

    def __init__(self, checkpoints: Checkpoints, minutes: float) -> None:
        """Store the arguments; nothing is saved."""
        self._checkpoints = checkpoints
        self._minutes = minutes
        self._last_saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._snapshots = Snapshots()

    def on_run_begin(self, run: Training) -> None:
        """Start the timer."""
        self._last_saved = time.monotonic()

    def on_step_end(self, run: Training, step: Step) -> None:
        """Save the batch of a skipped step, and the state of the run if enough time has passed."""
        if self._writing is not None and self._writing.done():
            self._wait()  # only for its error
        # A step that is skipped to adjust the loss scale of float16 is normal.
        if step.skipped and not step.rescaled:
            self._save_skipped(run, step)
        if time.monotonic() - self._last_saved >= 60 * self._minutes:
            self._save_last(run)

    def on_epoch_end(self, run: Training) -> None:
        """Save the state of the run, and the model if it is the best so far."""
        # Save `best` before `last`. If the process is killed between the two, the run resumes before the end of this
        # epoch and saves `best` again. In the other order, it would resume after it, and the best model would be lost.
        self._save_last(run, and_best=run.best_epoch == len(run.history))

    def on_run_end(self, run: Training) -> None:
        """Wait until everything is on the disk."""
        self._wait()

    def on_interrupted(self, run: Training) -> None:
        """Save the state of the run, and wait until it is on the disk."""
        try:
            self._wait()
        except Exception as error:  # of an earlier checkpoint: this one may be saved
            logger.error("%s", error)
        self._save_last(run)
        self._wait()

    def __enter__(self) -> Self:
        """Return the saver."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is on the disk, except after a second Ctrl-C."""
        if error is not None and not isinstance(error, Exception):
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        try:
            self._wait()
        except Exception as failure:
            if error is None:
                raise
            logger.error("%s", failure)  # the first error is raised
        finally:
            self._thread.shutdown()

    def _save_last(self, run: Training, *, and_best: bool = False) -> None:
        state = run.state()
        best = {"best": {name: state[name] for name in ("model", "history", "about")}} if and_best else {}
        contents = {**best, "last": state}

        def write(step: int, contents: Mapping[str, Any]) -> None:
            for series, content in contents.items():
                self._checkpoints.save(series, step, content)

        self._start(write, run.steps, contents)
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

        def write(step: int, content: Mapping[str, Any]) -> None:
            try:
                self._checkpoints.save("skipped", step, content)
            except UserError as error:  # training can continue without this diagnostic file
                logger.warning("%s", error)

        self._start(write, run.steps, content)

    def _start(self, write: Callable[[int, Content], None], step: int, content: Content) -> None:
        """Let the thread write a copy of the content. Wait for what it writes already."""
        self._wait()  # before the copy, which overwrites the previous one
        self._writing = self._thread.submit(write, step, self._snapshots.take(content))

    def _wait(self) -> None:
        """Wait until everything is on the disk, and raise the error if that failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _as_uint8(values: Tensor) -> Tensor:
    """Convert floats in [0, 1] to uint8 in [0, 255], on the CPU."""
    return (values * 255).round().to(torch.uint8).cpu()
