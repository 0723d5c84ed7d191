"""Progress of a training run in the terminal and in the log."""

import logging
import math
import time

from tqdm import tqdm

from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.state import Step, Training

logger = logging.getLogger(__name__)


class ProgressBar(Callback):
    """In a terminal a bar an epoch, elsewhere a line now and then; and a line after every epoch.

    Args:
        seconds: between two lines of one epoch.
    """

    def __init__(self, seconds: float = 60) -> None:
        """The bar appears with the first step."""
        self._seconds = seconds
        self._told = time.monotonic()
        self._bar: tqdm | None = None

    def on_run_begin(self, run: Training) -> None:
        """Start the clock."""
        self._told = time.monotonic()

    def on_step_end(self, run: Training, step: Step) -> None:
        """Move the bar, or write a line if it is time."""
        means, images = run.progress.means(), len(step.image_ids)
        if self._bar is None:
            # It begins where a resumed epoch goes on, so that the speed is this process's. disable=None: no bar where
            # there is no terminal.
            self._bar = tqdm(
                total=images * step.steps, initial=images * step.number, desc=f"Epoch {run.epoch}/{run.epochs}",
                unit=" images", leave=False, disable=None,
            )  # fmt: skip
        else:
            self._bar.update(images)
        if not self._bar.disable:
            self._bar.set_postfix_str(
                f"loss {means['loss']:.4f}, Dice {means['dice_coeff']:.4f}", refresh=False
            )
        elif time.monotonic() - self._told >= self._seconds and step.number < step.steps:
            self._told = time.monotonic()
            a_step = run.progress.seconds / step.number
            logger.info(
                "Epoch %d/%d, step %d/%d: loss %.4f, Dice %.4f; %.1f images/s, %s left",
                run.epoch, run.epochs, step.number, step.steps, means["loss"], means["dice_coeff"], images / a_step,
                tqdm.format_interval(a_step * (step.steps - step.number)),
            )  # fmt: skip

    def on_epoch_end(self, run: Training) -> None:
        """Write the epoch's line."""
        self._close()
        self._told = time.monotonic()
        record = run.history[-1]
        peak = (
            ""
            if math.isnan(record["share_of_peak"])
            else f"{record['share_of_peak']:.0%} of the machine's peak, "
        )
        logger.info(
            "Epoch %d/%d: loss %.4f, Dice %.4f; validation loss %.4f, Dice %.4f; %.1f images/s, %s%.0f%% of the time "
            "waiting for images; learning rate %.3g",
            record["epoch"], run.epochs, record["train_loss"], record["train_dice_coeff"], record["val_loss"],
            record["val_dice_coeff"], record["images_per_second"], peak, 100 * record["data_wait_share"],
            record["learning_rate"],
        )  # fmt: skip

    def on_interrupted(self, run: Training) -> None:
        """Clear the bar away."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
