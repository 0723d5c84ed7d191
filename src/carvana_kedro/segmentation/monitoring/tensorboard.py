"""Callbacks that write a run to TensorBoard. They share one writer per run; its steps are epochs."""

import contextlib
import copy
import logging
import math
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.geometry import Size
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.monitoring.plots import threshold_curve
from carvana_kedro.segmentation.monitoring.visualization import comparison
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.recipe import flatten
from carvana_kedro.segmentation.training.state import Training
from carvana_kedro.stores.faults import explain

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


class EventWriter:
    """TensorBoard's `SummaryWriter`, but a full disk or another fault of the machine does not stop the training.

    The first fault is logged as a warning, and nothing more is written.

    Args:
        folder: Folder of the event files.
        purge_step: Events of this step and later ones that earlier writers left are hidden.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Store the arguments."""
        self._folder = folder
        self._purge_step = purge_step
        self._writer: SummaryWriter | None = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return a method of `SummaryWriter` that does nothing after a fault."""
        return lambda *arguments, **options: self._call(
            lambda writer: getattr(writer, name)(*arguments, **options)
        )

    def add_summary(self, summary: object) -> None:
        """Write a summary."""
        self._call(lambda writer: writer._get_file_writer().add_summary(summary))

    def __enter__(self) -> Self:
        """Create the file."""
        # Python would print a traceback of TensorBoard's thread. The next call raises the same error.
        self._excepthook, threading.excepthook = threading.excepthook, self._ignore_faults
        try:
            self._writer = SummaryWriter(self._folder, purge_step=self._purge_step)
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._call(lambda writer: writer.close())
        threading.excepthook = self._excepthook

    def _call(self, action: Callable[[SummaryWriter], object]) -> None:
        if self._writer is not None:
            try:
                action(self._writer)
            except OSError as error:
                self._writer = None
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning(
            "TensorBoard shows no more of this run: its files in %s cannot be written. %s Training goes on.",
            self._folder,
            explain(error) or error,
        )

    def _ignore_faults(self, event: threading.ExceptHookArgs) -> None:
        in_tensorboard = type(event.thread).__module__.startswith("tensorboard.")
        if not (in_tensorboard and isinstance(event.exc_value, OSError)):
            self._excepthook(event)


class _TensorBoardCallback(Callback):
    """Base class: holds the writer and writes scalars.

    Args:
        events: Writer of the run.
    """

    def __init__(self, events: EventWriter) -> None:
        """Store the writer."""
        self._events = events

    def _write_scalars(self, group: str, scalars: Mapping[str, float], epoch: int) -> None:
        for name, value in scalars.items():
            if not math.isnan(value):
                self._events.add_scalar(f"{group}/{name}", value, epoch)
        self._events.flush()


class TensorBoardScalars(_TensorBoardCallback):
    """Writes the values of every epoch's record and the peak memory usage so far, under `data/`."""

    def on_epoch_end(self, run: Training) -> None:
        """Write the values of the epoch."""
        record = {**run.history[-1], "memory_gb": _memory_gb(run.hardware.device)}
        epoch = int(record.pop("epoch"))
        self._write_scalars("data", record, epoch)


class TensorBoardImages(_TensorBoardCallback):
    """Writes the first images of the last validation batch with their true and predicted masks, after every epoch.

    Args:
        events: Writer of the run.
        count: Maximum number of images per epoch.
    """

    def __init__(self, events: EventWriter, count: int) -> None:
        """Store the arguments."""
        super().__init__(events)
        self._count = count

    def on_epoch_end(self, run: Training) -> None:
        """Write the comparison of every image."""
        if run.last_batch is None:
            return
        images, targets, logits = (tensor[: self._count].cpu() for tensor in run.last_batch)
        pixels = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        predictions = (logits.sigmoid() > run.threshold).numpy()
        masks = (targets > 0.5).numpy()
        for number, (image, prediction, target) in enumerate(
            zip(pixels, predictions, masks, strict=True), start=1
        ):
            self._events.add_image(
                f"validation/image_{number}",
                np.ascontiguousarray(comparison(image, prediction, target)),
                len(run.history),
                dataformats="HWC",
            )
        self._events.flush()


class TensorBoardCurves(_TensorBoardCallback):
    """Writes the precision-recall curve of all validation pixels and the Dice coefficient by threshold, every epoch."""

    def on_epoch_end(self, run: Training) -> None:
        """Write both curves."""
        if run.curve is None:
            return
        self._write_precision_recall(run.curve, len(run.history))
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

    def _write_dice(self, curve: ThresholdCurve, threshold: float, epoch: int) -> None:
        image = threshold_curve(curve.thresholds[1:], curve.dice()[1:], curve.best_threshold(), threshold)
        self._events.add_image("validation/dice_by_threshold", image, epoch, dataformats="HWC")


class TensorBoardGraph(_TensorBoardCallback):
    """Writes the graph of the network, once per run."""

    def on_run_begin(self, run: Training) -> None:
        """Trace a copy of the network on the CPU, unless the run is resumed."""
        if run.steps:
            return
        try:
            # A copy is not compiled, and tracing cannot change the weights and statistics of the original.
            network = copy.deepcopy(run.network).cpu().eval()
            image = torch.zeros(1, 3, *_smallest_size(run.network, run.geometry.input_size))
            # The tracer warns that it is deprecated, and that it records only one branch of each condition, which is
            # right for a fixed input size. It prints errors to stdout before it raises them.
            with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(None):
                warnings.simplefilter("ignore")
                self._events.add_graph(network, image)
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
    """Writes the parameters of the run and the metrics of its best epoch for the HParams tab, which compares runs."""

    def on_epoch_end(self, run: Training) -> None:
        """Write the metrics of the best epoch so far, after every epoch, so that they form a curve."""
        best = run.history[run.best_epoch - 1]
        names = ("epoch", "val_dice_coeff", "val_loss", "train_loss")
        self._write_scalars("best", {name: best[name] for name in names}, len(run.history))

    def on_run_end(self, run: Training) -> None:
        """Write the parameters, a row of the table."""
        # SummaryWriter.add_hparams would create a second writer in a subfolder, which TensorBoard shows as another run.
        # The first summary, which lists the table's columns, is not written: TensorBoard uses the list of any one run.
        # Without a list, it collects the columns of all runs and shows first the parameters that differ. Each scalar
        # becomes a column, too: `best/...`, and the last epoch of `data/...`.
        parameters = flatten(run.about.get("parameters", {}))
        plain = {
            name: value for name, value in parameters.items() if isinstance(value, str | bool | int | float)
        }
        _, start, end = hparams(plain, {})
        for summary in (start, end):
            self._events.add_summary(summary)
        self._events.flush()


def _memory_gb(device: torch.device) -> float:
    """Return the peak memory in GB: of the tensors on a GPU, else of the process. NaN on Windows without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
