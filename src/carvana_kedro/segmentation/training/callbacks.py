"""What happens around the training loop without being part of it."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.state import Step, Training


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

    >>> path = "carvana_kedro.segmentation.monitoring.progress.ProgressBar"
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
