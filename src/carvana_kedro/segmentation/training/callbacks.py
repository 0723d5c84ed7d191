"""What happens around the training loop without being part of it."""

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.extensions import Spec, create, import_object, split_spec
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
        """After a step. The gradients may already be those of the next step, and must not be changed."""

    def on_epoch_end(self, run: Training) -> None:
        """After training and validation; the epoch's record is `run.history[-1]`."""

    def on_run_end(self, run: Training) -> None:
        """After the last epoch."""

    def on_interrupted(self, run: Training) -> None:
        """Before an interrupted run stops; save what must not be lost."""


def load_callback(spec: Spec) -> Callback:
    """Build a callback that the parameters name.

    Args:
        spec: Dotted path of a class, or of a function that returns a `Callback`; or a mapping with the path as `type`,
            and arguments.

    Raises:
        UserError: The path cannot be imported, or the class or function does not take the arguments.

    >>> path = "carvana_kedro.segmentation.monitoring.progress.ProgressBar"
    >>> type(load_callback({"type": path, "seconds": 10})).__name__
    'ProgressBar'
    """
    path, arguments = split_spec("callback", spec)
    callback = create("callback", path, import_object("callback", path), **arguments)
    if not isinstance(callback, Callback):
        raise UserError(
            f"{path} creates a {type(callback).__name__}, which is not a valid callback: derive the class from "
            f"{__name__}.Callback."
        )
    return callback
