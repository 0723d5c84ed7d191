"""What happens around the training loop without being part of it."""

import importlib
import inspect
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.state import Step, Training

logger = logging.getLogger(__name__)


class Callback:
    """The protocol: override what is needed. Every method may read all of `run` and should change none of it.

    One of your own is a class in any module that Python finds, such as one in `src/`:

    >>> class Cheers(Callback):
    ...     def __init__(self, dice: float = 0.99) -> None:
    ...         self.dice = dice
    ...
    ...     def on_epoch_end(self, run: Training) -> None:
    ...         record = run.history[-1]
    ...         if record["val_dice_coeff"] > self.dice:
    ...             print(f"Epoch {record['epoch']}: a Dice coefficient above {self.dice}!")

    It is named in the parameters, with arguments if it takes any:

        callbacks: [my_package.my_module.Cheers]
        callbacks: [{type: my_package.my_module.Cheers, dice: 0.995}]
    """

    def on_run_begin(self, run: Training) -> None:
        """Before the first step of this process; `run.history` and `run.progress` hold what earlier ones did."""

    def on_step_end(self, run: Training, step: Step) -> None:
        """After a step."""

    def on_epoch_end(self, run: Training) -> None:
        """After training and validation; the epoch's record is `run.history[-1]`."""

    def on_run_end(self, run: Training) -> None:
        """After the last epoch."""

    def on_interrupted(self, run: Training) -> None:
        """Before the run is left early; save what must not be lost."""


def load_callback(spec: str | Mapping[str, Any]) -> Callback:
    """Return a callback that is named in the parameters.

    Args:
        spec: the dotted path of a class, or of a function that returns a `Callback`; or a mapping with the path as
            `type`, and arguments.

    Raises:
        UserError: there is none of this path, or it cannot be made with these arguments.

    >>> path = "carvana_kedro.segmentation.training.callbacks.ProgressBar"
    >>> type(load_callback({"type": path, "seconds": 10})).__name__
    'ProgressBar'
    """
    arguments = {"type": spec} if isinstance(spec, str) else dict(spec)
    path = arguments.pop("type", None)
    if not isinstance(path, str):
        raise UserError(
            f"The callback {spec!r} needs a type: the dotted path of a class, my_package.MyCallback."
        )
    make = _imported(path)
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"The callback {path} cannot be made with {arguments or 'no arguments'}: {error}."
        ) from error
    callback = make(**arguments)
    if not isinstance(callback, Callback):
        raise UserError(
            f"{path} makes a {type(callback).__name__}, which is no callback: derive it from {__name__}.Callback."
        )
    return callback


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        if not module or (
            isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        ):
            why = f"there is no module {module or path}. It must be where Python finds it, such as in src/"
        elif isinstance(error, AttributeError) and error.name == name and inspect.ismodule(error.obj):
            why = f"there is no {name} in the module {module}"
        else:
            why = f"importing {module} raised {type(error).__name__}: {error}"
        raise UserError(f"The callback {path} cannot be loaded: {why}.") from error


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
