"""Optimisers and learning-rate schedules by name, each torch's own."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from carvana_kedro.errors import UserError

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}
WITH_MOMENTUM = ("sgd", "rmsprop")
SCHEDULES = ("constant", "cosine", "one_cycle")


def build_optimizer(
    parameters: Iterable[Parameter],
    *,
    name: str,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> Optimizer:
    """Build an optimiser.

    Args:
        parameters: What to optimise.
        name: One of `OPTIMIZERS`.
        learning_rate: The rate that a schedule scales.
        weight_decay: An L2 penalty; decoupled from the gradient in adamw.
        momentum: For sgd and rmsprop only.

    Raises:
        UserError: The name is unknown, or the optimiser takes no momentum.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}.")
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name in WITH_MOMENTUM:
        options["momentum"] = momentum
    elif momentum:
        raise UserError(
            f"The optimizer {name} takes no momentum, but momentum is {momentum}: set it to 0, or choose "
            f"one of {', '.join(WITH_MOMENTUM)}."
        )
    return OPTIMIZERS[name](parameters, **options)


def build_schedule(
    optimizer: Optimizer, *, name: str, total_steps: int, warmup_steps: int = 0
) -> LRScheduler:
    """Build a learning-rate schedule that is stepped after every step of the optimiser.

    | name | after the warm-up |
    |---|---|
    | constant | stays at the optimiser's rate |
    | cosine | falls to 0 along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts) |
    | one_cycle | as cosine; the rise is a cosine too, 30 % of the steps if not told (Smith & Topin 2018) |

    Args:
        optimizer: Its current rate is the schedule's highest.
        name: One of `SCHEDULES`.
        total_steps: Steps of the optimiser in the whole training, warm-up included.
        warmup_steps: Steps below the optimiser's rate at the beginning, in which it rises to it.

    Raises:
        UserError: The name is unknown, or the warm-up leaves fewer than two steps.
    """
    if name not in SCHEDULES:
        raise UserError(f"There is no learning-rate schedule {name!r}: choose one of {', '.join(SCHEDULES)}.")
    if total_steps < 1 or not 0 <= warmup_steps <= max(0, total_steps - 2):
        raise UserError(
            f"A warm-up of {warmup_steps} steps does not fit into a training of {total_steps}, of which it "
            "must leave at least two: shorten the warm-up or train for longer."
        )
    if name == "one_cycle" and total_steps > 2:  # two steps make no cycle
        # OneCycleLR counts the step at the peak to the rise, and divides by the rest of it.
        rise = warmup_steps + 1 if warmup_steps else max(2, 0.3 * total_steps)
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=rise / total_steps,
            cycle_momentum=False,  # it would overwrite the momentum that was asked for
        )
    schedule: LRScheduler
    if name == "cosine":
        schedule = CosineAnnealingLR(optimizer, T_max=total_steps - warmup_steps)
    else:
        schedule = ConstantLR(optimizer, factor=1.0)
    if not warmup_steps:
        return schedule
    warmup = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    return SequentialLR(optimizer, [warmup, schedule], milestones=[warmup_steps])
