"""PyTorch's optimizers and learning-rate schedules by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.extensions import create, import_subclass, is_dotted_path

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}
WITH_MOMENTUM = ("sgd", "rmsprop")
WITH_FUSED = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "one_cycle", "polynomial", "plateau")


def build_optimizer(
    parameters: Iterable[Parameter],
    *,
    name: str,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    fused: bool = False,
    **arguments: Any,
) -> Optimizer:
    """Build an optimizer.

    Args:
        parameters: Weights to optimize.
        name: One of `OPTIMIZERS`, or the dotted path of a `torch.optim.Optimizer`. A dotted path is imported, so it
            must come from the run's own parameters.
        learning_rate: The highest rate of the schedule.
        weight_decay: L2 penalty; adamw decouples it from the gradient.
        momentum: For sgd and rmsprop only.
        fused: Update all weights in one kernel. The result is the same up to rounding. The device of the weights must
            have such a kernel (CPU and CUDA do). rmsprop and optimizers named by a dotted path ignore it.
        arguments: Further arguments of an optimizer named by a dotted path.

    Raises:
        UserError: The name is unknown, or the optimizer does not take the arguments.
    """
    options: dict[str, Any] = {"lr": learning_rate, **arguments}
    if is_dotted_path(name):
        # Not every optimizer takes these two arguments, so zeros are left out.
        options |= {
            key: value for key, value in (("weight_decay", weight_decay), ("momentum", momentum)) if value
        }
        return _build_imported(name, parameters, options)
    if name not in OPTIMIZERS:
        raise UserError(
            f"model_training.optimizer.name = {name!r}: unknown optimizer. Available: {', '.join(OPTIMIZERS)}, or the "
            "dotted path of your own class."
        )
    options["weight_decay"] = weight_decay
    if name in WITH_MOMENTUM:
        options["momentum"] = momentum
    elif momentum:
        raise UserError(
            f"The optimizer {name} takes no momentum, but momentum is {momentum}: set it to 0, or choose "
            f"one of {', '.join(WITH_MOMENTUM)}."
        )
    if fused and name in WITH_FUSED:  # fused=False would also disable torch's foreach kernels
        options["fused"] = True
    return OPTIMIZERS[name](parameters, **options)


def skips_updates(optimizer: Optimizer) -> bool:
    """Return whether `step()` changes nothing if the optimizer's attribute `found_inf` is a 1 on the device.

    The fused kernels of PyTorch do so, without asking the CPU. Other optimizers ignore the attribute.
    """
    return type(optimizer) in (SGD, Adam, AdamW) and all(group["fused"] for group in optimizer.param_groups)


def _build_imported(path: str, parameters: Iterable[Parameter], options: dict[str, Any]) -> Optimizer:
    optimizer: Optimizer = create(
        "optimizer", path, import_subclass("optimizer", path, Optimizer), parameters, **options
    )
    return optimizer


def build_schedule(
    optimizer: Optimizer,
    *,
    name: str,
    total_steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
    power: float = 0.9,
    patience: int = 3,
    mode: Literal["min", "max"] = "max",
) -> LRScheduler:
    """Build a learning-rate schedule that is stepped after every step of the optimizer.

    The exception is plateau: a `ReduceLROnPlateau` is stepped after every epoch, with the metric.

    | name | the learning rate after the warm-up |
    |---|---|
    | constant | stays at the optimizer's rate |
    | step | is multiplied by `factor` at each of the `milestones` |
    | cosine | falls to 0 along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts) |
    | one_cycle | as cosine; it also rises along a cosine, by default for 30 % of the steps (Smith & Topin 2018) |
    | polynomial | falls to 0 as (1 - share of the steps done) ** `power` (Chen et al. 2017, DeepLab) |
    | plateau | is multiplied by `factor` after more than `patience` epochs without improvement of the metric |

    Args:
        optimizer: Its current rate is the highest rate of the schedule.
        name: One of `SCHEDULES`.
        total_steps: Number of steps in the whole training, warm-up included.
        warmup_steps: Number of steps at the beginning in which the rate rises. Not for plateau.
        milestones: For step: shares of `total_steps`, in (0, 1). A milestone inside the warm-up takes effect at its
            end.
        factor: For step and plateau, in (0, 1).
        power: For polynomial, above 0.
        patience: For plateau, in epochs.
        mode: For plateau: whether the lowest or the highest metric is the best.

    Raises:
        UserError: The name is unknown, the warm-up leaves fewer than two steps, or plateau has a warm-up.
    """
    if name not in SCHEDULES:
        raise UserError(f"Unknown learning-rate schedule {name!r}. Available: {', '.join(SCHEDULES)}.")
    if total_steps < 1 or not 0 <= warmup_steps <= max(0, total_steps - 2):
        raise UserError(
            f"A warm-up of {warmup_steps} steps does not fit a training of {total_steps} steps: at least two steps "
            "must follow it. Shorten the warm-up or train longer."
        )
    if name == "plateau":
        if warmup_steps:
            raise UserError(
                f"The schedule plateau takes no warm-up, but warmup_steps is {warmup_steps}: set it to 0, or "
                "choose another schedule."
            )
        return ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience)
    if name == "one_cycle" and total_steps > 2:  # two steps are too few for a cycle
        return _one_cycle(optimizer, total_steps, warmup_steps)
    steps = total_steps - warmup_steps
    schedules: dict[str, Callable[[], LRScheduler]] = {
        "constant": lambda: ConstantLR(optimizer, factor=1.0),
        "one_cycle": lambda: ConstantLR(optimizer, factor=1.0),
        "step": lambda: MultiStepLR(
            optimizer,
            [max(0, round(share * total_steps) - warmup_steps) for share in milestones],
            gamma=factor,
        ),
        "cosine": lambda: CosineAnnealingLR(optimizer, T_max=steps),
        "polynomial": lambda: PolynomialLR(optimizer, total_iters=steps, power=power),
    }
    schedule = schedules[name]()
    return _with_warmup(optimizer, schedule, warmup_steps) if warmup_steps else schedule


def _one_cycle(optimizer: Optimizer, total_steps: int, warmup_steps: int) -> LRScheduler:
    # OneCycleLR counts the step at the peak as part of the rise, and divides by the number of steps before the peak.
    rise = warmup_steps + 1 if warmup_steps else max(2, 0.3 * total_steps)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=rise / total_steps,
        cycle_momentum=False,  # True would overwrite the momentum of the parameters
    )


def _with_warmup(optimizer: Optimizer, schedule: LRScheduler, warmup_steps: int) -> LRScheduler:
    warmup = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    return SequentialLR(optimizer, [warmup, schedule], milestones=[warmup_steps])
