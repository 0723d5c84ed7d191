"""Callbacks that show a run in TensorBoard. All of a run share one writer; its steps are epochs."""

import contextlib
import copy
import logging
import math
import resource
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from carvana_kedro.segmentation.monitoring.visualization import comparison, threshold_curve
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.state import Training

logger = logging.getLogger(__name__)


class _TensorBoard(Callback):
    def __init__(self, events: SummaryWriter) -> None:
        """Write to `events`."""
        self._events = events

    def _write(self, group: str, numbers: Mapping[str, float], epoch: int) -> None:
        for name, number in numbers.items():
            if not math.isnan(number):
                self._events.add_scalar(f"{group}/{name}", number, epoch)
        self._events.flush()


class TensorBoardScalars(_TensorBoard):
    """Every number of every epoch's record, and the most memory that was used so far, under `data/`."""

    def on_epoch_end(self, run: Training) -> None:
        """Write the epoch's numbers."""
        record = {**run.history[-1], "memory_gb": _memory_gb(run.hardware.device)}
        epoch = int(record.pop("epoch"))
        self._write("data", record, epoch)


class TensorBoardImages(_TensorBoard):
    """The first images of the last validation batch, expected and predicted, after every epoch."""

    def __init__(self, events: SummaryWriter, count: int) -> None:
        """Write `count` images an epoch to `events`."""
        super().__init__(events)
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


class TensorBoardCurves(_TensorBoard):
    """What other thresholds would have given, after every epoch: precision and recall of all pixels, and the Dice."""

    def on_epoch_end(self, run: Training) -> None:
        """Write both curves."""
        curve, epoch = run.curve, len(run.history)
        if curve is None:
            return
        # TensorBoard takes the columns for thresholds from 0 to 1, and leaves out those that nothing reaches.
        positive, true_positive = (
            np.append(counts.sum(0), 0) for counts in (curve.positive, curve.true_positive)
        )
        false_positive = positive - true_positive
        false_negative = true_positive[0] - true_positive  # every probability reaches 0
        self._events.add_pr_curve_raw(
            "validation/precision_recall",
            true_positive,
            false_positive,
            false_positive[0] - false_positive,
            false_negative,
            true_positive / np.maximum(positive, 1),
            true_positive / max(true_positive[0], 1),
            epoch,
            num_thresholds=len(positive),
        )
        picture = threshold_curve(
            curve.thresholds[1:], curve.dice()[1:], curve.best_threshold(), run.threshold
        )
        self._events.add_image("validation/dice_by_threshold", picture, epoch, dataformats="HWC")
        self._events.flush()


class TensorBoardGraph(_TensorBoard):
    """The graph of the network, once a run."""

    def on_run_begin(self, run: Training) -> None:
        """Trace a copy on the CPU, which is not compiled and whose statistics nobody needs."""
        if run.steps:
            return
        try:
            network = copy.deepcopy(run.network).cpu().eval()
            image = torch.zeros(1, 3, *run.geometry.input_size)
            # The tracer warns that it is deprecated and that conditions are traced as they come out, which is right for
            # the one input size; what goes wrong it prints.
            with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(None):
                warnings.simplefilter("ignore")
                self._events.add_graph(network, image)
        except Exception as error:  # networks can be anything, and so can what is wrong with tracing one
            first_line = str(error).strip().partition("\n")[0]
            logger.warning(
                "TensorBoard shows no graph of this network, which cannot be traced: %s", first_line
            )
        self._events.flush()


class TensorBoardHparams(_TensorBoard):
    """The run's parameters beside its best epoch, in the tab HParams, where runs are compared."""

    def on_epoch_end(self, run: Training) -> None:
        """Write the best epoch so far, which is more to look at than one point at the end."""
        best = run.history[run.best_epoch - 1]
        names = ("epoch", "val_dice_coeff", "val_loss", "train_loss")
        self._write("best", {name: best[name] for name in names}, len(run.history))

    def on_run_end(self, run: Training) -> None:
        """Write a row of the table."""
        # SummaryWriter.add_hparams would make a second writer, in a folder that looks like another run. What it writes
        # first, the table's columns, TensorBoard takes from any one run; without, it finds those of all of them, and
        # puts first in what they differ. Every scalar is a column too: `best`, and of `data` the last epoch.
        _, start, end = hparams(_flat(run.about.get("parameters", {})), {})
        for summary in (start, end):
            self._events._get_file_writer().add_summary(summary)
        self._events.flush()


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Spell nested parameters as `a.b`; only text, switches and numbers, which is what the table can hold."""
    flat: dict[str, str | float] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | bool | int | float):
            flat[prefix + name] = value
    return flat


def _memory_gb(device: torch.device) -> float:
    """Return the most memory that was used so far: on the GPU by tensors, elsewhere by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
