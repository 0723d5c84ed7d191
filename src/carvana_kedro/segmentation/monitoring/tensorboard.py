"""Callbacks that write a run to TensorBoard. They share the run's `EventWriter`; its steps are epochs."""

import contextlib
import copy
import json
import logging
import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard.summary import hparams

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.geometry import Size
from carvana_kedro.segmentation.metrics.mask_scores import dice
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.monitoring import gallery
from carvana_kedro.segmentation.monitoring.event_writer import EventWriter
from carvana_kedro.segmentation.monitoring.plots import threshold_curve
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.recipe import flatten
from carvana_kedro.segmentation.training.state import Training

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


class _TensorBoardCallback(Callback):
    """Base class: holds the writer.

    Args:
        events: Writer of the run.
    """

    def __init__(self, events: EventWriter) -> None:
        """Store the writer."""
        self._events = events


class TensorBoardScalars(_TensorBoardCallback):
    """Writes the values of every epoch's record and the peak memory usage so far, under `data/`.

    Loss and Dice coefficient are also written under `curves/`, those of training and validation with the same tag, so
    that TensorBoard draws both in one chart.
    """

    def on_epoch_end(self, run: Training) -> None:
        """Write the values of the epoch."""
        record = {**run.history[-1], "memory_gb": _memory_gb(run.hardware.device)}
        epoch = int(record.pop("epoch"))
        for name, value in record.items():
            _write_scalar(self._events.run, f"data/{name}", value, epoch)
        for tag, name in (("curves/loss", "loss"), ("curves/dice", "dice_coeff")):
            _write_scalar(self._events.train, tag, record[f"train_{name}"], epoch)
            _write_scalar(self._events.validation, tag, record[f"val_{name}"], epoch)
        self._events.flush()


class TensorBoardRecipe(_TensorBoardCallback):
    """Writes the parameters of the run and its origin for the Text tab, once per run.

    Args:
        events: Writer of the run.
        origin: What the run depends on besides its parameters: Markdown.
    """

    def __init__(self, events: EventWriter, origin: str) -> None:
        """Store the arguments."""
        super().__init__(events)
        self._origin = origin

    def on_run_begin(self, run: Training) -> None:
        """Write the text, unless an earlier epoch's events are kept: the text is among them."""
        if run.epoch == 1:
            parameters = flatten(run.about.get("parameters", {}))
            rows = [f"| `{name}` | `{json.dumps(value)}` |" for name, value in parameters.items()]
            table = "\n".join(["| parameter | value |", "|---|---|", *rows])
            self._events.run.add_text("recipe/parameters", table, 0)
            self._events.run.add_text("recipe/origin", self._origin, 0)
            self._events.flush()


class TensorBoardImages(_TensorBoardCallback):
    """Writes the first images of the last validation batch with their true and predicted masks.

    There are pictures of at most ten epochs, as many as TensorBoard shows of a run: the first and the last one, and
    most of them early, when the network changes most.

    Args:
        events: Writer of the run.
        count: Maximum number of images per epoch.
    """

    def __init__(self, events: EventWriter, count: int) -> None:
        """Store the arguments."""
        super().__init__(events)
        self._count = count

    def on_epoch_end(self, run: Training) -> None:
        """Write a picture of every image."""
        if run.last_batch is None or not _is_pictured(run):
            return
        images, targets, logits = (tensor[: self._count].cpu() for tensor in run.last_batch)
        pixels = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        predictions = (logits.sigmoid() > run.threshold).numpy()
        masks = (targets > 0.5).numpy()
        epoch = len(run.history)
        for number, (image, prediction, target) in enumerate(
            zip(pixels, predictions, masks, strict=True), start=1
        ):
            title = f"epoch {epoch}: Dice {dice(prediction, target):.3f}"
            picture = gallery.snapshot(np.ascontiguousarray(image), prediction, target, title)
            self._events.run.add_image(f"validation/image_{number}", picture, epoch, dataformats="HWC")
        self._events.flush()


def _is_pictured(run: Training) -> bool:
    """Return whether TensorBoard gets pictures of the epoch that has ended."""
    return run.finished or len(run.history) in pictured_epochs(run.epochs)


def pictured_epochs(epochs: int) -> list[int]:
    """Return up to nine epochs, at growing distances. The last epoch of a run, which may end early, is one more.

    >>> pictured_epochs(50)
    [1, 2, 3, 4, 7, 11, 19, 30, 49]
    >>> pictured_epochs(5)
    [1, 2, 3, 4]
    """
    spaced = np.geomspace(1, max(1, epochs - 1), 9).round().astype(int)
    chosen = {max(number, int(epoch)) for number, epoch in enumerate(spaced, start=1)}
    return sorted(epoch for epoch in chosen if epoch < max(2, epochs))


class TensorBoardCurves(_TensorBoardCallback):
    """Writes the precision-recall curve of all validation pixels, and a picture of the Dice coefficient by threshold.

    There are pictures of the same epochs as those of `TensorBoardImages`.
    """

    def on_epoch_end(self, run: Training) -> None:
        """Write both curves."""
        if run.curve is None:
            return
        self._write_precision_recall(run.curve, len(run.history))
        if _is_pictured(run):
            self._write_dice(run.curve, run.threshold, len(run.history))
        self._events.flush()

    def _write_precision_recall(self, curve: ThresholdCurve, epoch: int) -> None:
        # TensorBoard assumes evenly spaced thresholds from 0 to 1. Append threshold 1, which no pixel reaches;
        # TensorBoard does not show such thresholds.
        positive, true_positive = (
            np.append(counts.sum(0), 0) for counts in (curve.positive, curve.true_positive)
        )
        false_positive = positive - true_positive
        false_negative = true_positive[0] - true_positive  # at threshold 0 every pixel is positive
        self._events.run.add_pr_curve_raw(
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

    def _write_dice(self, curve: ThresholdCurve, threshold: float, epoch: int) -> None:
        image = threshold_curve(curve.thresholds[1:], curve.dice()[1:], curve.best_threshold(), threshold)
        self._events.run.add_image("validation/dice_by_threshold", image, epoch, dataformats="HWC")


class TensorBoardGraph(_TensorBoardCallback):
    """Writes the graph of the network, once per run."""

    def on_run_begin(self, run: Training) -> None:
        """Trace a copy of the network on the CPU, unless the graph is among the earlier events that are kept."""
        if run.epoch > 1:
            return
        try:
            # A copy is not compiled, and tracing cannot change the weights and statistics of the original.
            network = copy.deepcopy(run.network).cpu().eval()
            image = torch.zeros(1, 3, *_smallest_size(run.network, run.geometry.input_size))
            # The tracer warns that it is deprecated, and that it records only one branch of each condition, which is
            # right for a fixed input size. It prints errors to stdout before it raises them.
            with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(None):
                warnings.simplefilter("ignore")
                self._events.run.add_graph(network, image)
        except Exception as error:  # the network is arbitrary code, which may raise anything
            first_line = str(error).strip().partition("\n")[0]
            logger.warning("TensorBoard shows no graph because the network cannot be traced: %s", first_line)
        self._events.flush()


def _smallest_size(network: SegmentationNetwork, input_size: Size) -> Size:
    """Return the smallest input size with the same graph: as far from a multiple of the stride as the given size.

    A network from elsewhere may depend on the size in other ways: it gets the given size.
    """
    if not vars(type(network)).get("names"):
        return input_size
    rests = [side % network.stride for side in input_size]
    for side in range(0, min(input_size), network.stride):
        size = side + rests[0], side + rests[1]
        with contextlib.suppress(UserError):
            network.output_size(size)
            return size
    return input_size


class TensorBoardHparams(_TensorBoardCallback):
    """Writes the parameters and the results of the run for the HParams tab, which compares runs.

    `result/` is of the model that is kept, that of the best epoch, but for the duration and the number of epochs.
    """

    def on_epoch_end(self, run: Training) -> None:
        """Write the results so far after every epoch, so that they form a curve; in the end, the parameters too."""
        best = run.history[run.best_epoch - 1]
        results = {
            "dice": best["val_dice_coeff"],
            "duration_minutes": sum(record["seconds"] for record in run.history) / 60,
            "epochs": len(run.history),
            "loss": best["val_loss"],
            "model_epoch": best["epoch"],
        }
        for name, value in results.items():
            _write_scalar(self._events.validation, f"result/{name}", value, len(run.history))
        # Before the last checkpoint is saved, so that no run is finished without its row in the table.
        if run.finished:
            self._write_parameters(flatten(run.about.get("parameters", {})))
        self._events.flush()

    def _write_parameters(self, parameters: Mapping[str, object]) -> None:
        # SummaryWriter.add_hparams would create a writer in another subfolder. The folder that has the parameters
        # decides the columns of results: all its scalars, at their last step. So this is not the run's own folder.
        # The first summary, which lists the table's columns, is not written: TensorBoard uses the list of any one run.
        # Without a list, it collects the columns of all runs and shows first the parameters that differ.
        plain = {
            name: value for name, value in parameters.items() if isinstance(value, str | bool | int | float)
        }
        _, start, end = hparams(plain, {})
        for summary in (start, end):
            self._events.validation.add_summary(summary)


def _write_scalar(writer: Any, tag: str, value: float, epoch: int) -> None:
    """Write a scalar that is not NaN."""
    if not math.isnan(value):
        writer.add_scalar(tag, value, epoch)


def _memory_gb(device: torch.device) -> float:
    """Return the peak memory in GB: of the tensors on a GPU, else of the process. NaN on Windows without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
