"""Shows the progress of a training run in the terminal and in the log."""

import logging
import math
import time
from typing import Any

from tqdm import tqdm

from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.state import Step, Training

logger = logging.getLogger(__name__)

_HEAD = ("  epoch", "train loss", "train Dice", "val loss", "val Dice", "images/s", "   left")


class _Bar(tqdm):
    """Shows the means of the epoch so far, which it computes only when it is drawn."""

    def __init__(self, run: Training, **arguments: Any) -> None:
        self._run = run
        super().__init__(**arguments)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar is drawn from."""
        means = self._run.progress.means()
        values = super().format_dict
        return {**values, "postfix": f"loss {means['loss']:.4f}, Dice {means['dice_coeff']:.4f}"}


class ProgressBar(Callback):
    """Logs a table with one row per epoch. Within an epoch, shows a bar in a terminal, or logs a line at intervals.

    Args:
        seconds: Minimum time between two lines within an epoch.
    """

    def __init__(self, seconds: float = 60) -> None:
        """Store the arguments; the bar is created at the first step."""
        self._seconds = seconds
        self._last_logged = time.monotonic()
        self._bar: _Bar | None = None

    def on_run_begin(self, run: Training) -> None:
        """Start the timer, and log the head of the table."""
        self._last_logged = time.monotonic()
        logger.info("%s", _row(*_HEAD))

    def on_step_end(self, run: Training, step: Step) -> None:
        """Update the bar, or log a line if enough time has passed."""
        bar = self._advanced_bar(run, step)
        is_due = time.monotonic() - self._last_logged >= self._seconds
        if bar.disable and is_due and step.number < step.steps:
            self._last_logged = time.monotonic()
            _log_step(run, step)

    def on_epoch_end(self, run: Training) -> None:
        """Log the row of the epoch."""
        self._close()
        self._last_logged = time.monotonic()
        logger.info("%s", _epoch_row(run))

    def on_run_end(self, run: Training) -> None:
        """Log which epoch is best, and what limits the speed."""
        if run.history:
            _log_end(run)

    def on_interrupted(self, run: Training) -> None:
        """Remove the bar."""
        self._close()

    def _advanced_bar(self, run: Training, step: Step) -> _Bar:
        """Return the bar of the epoch after a step; create it at the first step of this process."""
        images = len(step.image_ids)
        if self._bar is None:
            # In a resumed epoch `initial` is greater than 0, so that the speed counts only the steps of this process.
            # disable=None shows no bar if there is no terminal.
            self._bar = _Bar(
                run, total=images * step.steps, initial=images * step.number, desc=f"Epoch {run.epoch}/{run.epochs}",
                unit=" images", leave=False, disable=None,
                bar_format="  {desc} |{bar}| {remaining} left, {rate_fmt}{postfix}",
            )  # fmt: skip
        else:
            self._bar.update(images)
        return self._bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _log_step(run: Training, step: Step) -> None:
    means = run.progress.means()
    seconds_per_step = run.progress.seconds / step.number
    logger.info(
        "Epoch %d/%d, step %d/%d: loss %.4f, Dice %.4f; %.1f images/s, %s left",
        run.epoch, run.epochs, step.number, step.steps, means["loss"], means["dice_coeff"],
        len(step.image_ids) / seconds_per_step,
        tqdm.format_interval(seconds_per_step * (step.steps - step.number)),
    )  # fmt: skip


def _row(*cells: str) -> str:
    """Return the cells of the table of epochs as a line in columns as wide as their heads."""
    return "  ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, _HEAD, strict=True))


def _epoch_row(run: Training) -> str:
    """Return the row of the last epoch. The remaining epochs are expected to take as long as this one."""
    record = run.history[-1]
    scores = (record[name] for name in ("train_loss", "train_dice_coeff", "val_loss", "val_dice_coeff"))
    left = record["seconds"] * (run.epochs - record["epoch"])
    return _row(
        f"{record['epoch']}/{run.epochs}", *(f"{score:.4f}" for score in scores),
        f"{record['images_per_second']:.1f}", tqdm.format_interval(left),
    )  # fmt: skip


def _log_end(run: Training) -> None:
    record, best = run.history[-1], run.history[run.best_epoch - 1]
    share = record["share_of_peak"]
    share_of_peak = "" if math.isnan(share) else f", {share:.0%} of peak FLOP/s"
    logger.info(
        "Best epoch: %d. Last epoch: %.0f%% waiting for images%s",
        best["epoch"], 100 * record["data_wait_share"], share_of_peak,
    )  # fmt: skip
