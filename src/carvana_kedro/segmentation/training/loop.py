"""The training loop: plain functions, from the run down to the epoch. `steps.py` has the step."""

import logging
import math
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.samples import Batch
from carvana_kedro.segmentation.hardware import is_out_of_memory, keeping_freed_memory
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.launch import report_step
from carvana_kedro.segmentation.training.losses import batch_dice
from carvana_kedro.segmentation.training.state import Record, Step, Training, divergence
from carvana_kedro.segmentation.training.steps import Attempt, Steps

if TYPE_CHECKING:
    from carvana_kedro.segmentation.training.callbacks import Callback

logger = logging.getLogger(__name__)


def train(
    run: Training, train_batches: Batches, validation_batches: Batches, callbacks: Sequence["Callback"] = ()
) -> list[Record]:
    """Train a run from its current state to its end.

    Args:
        run: A new run, or a restored one. It is changed in place.
        train_batches: Batches to train on.
        validation_batches: Batches to evaluate on after each epoch.
        callbacks: Called in this order.

    Returns:
        The history of the run: one record per epoch.

    Raises:
        TrainingInterruptedError: `run.interrupted` returned True. `on_interrupted` of the callbacks was called.
        UserError: Too many steps were skipped, the run diverged, an image cannot be read, or the device ran out of
            memory.
    """
    _stop_if_too_many_were_skipped(run)
    _stop_if_diverged(run)
    report_step(run.steps)
    with run.world.together():
        for callback in callbacks:
            callback.on_run_begin(run)
    try:
        with keeping_freed_memory() if run.hardware.device.type == "cpu" else nullcontext():
            _train_epochs(run, train_batches, validation_batches, callbacks)
    except TrainingInterruptedError:
        with run.world.together():
            for callback in callbacks:
                callback.on_interrupted(run)
        raise
    _warn_if_nothing_was_learned(run)
    with run.world.together():
        for callback in callbacks:
            callback.on_run_end(run)
    return run.history


def _train_epochs(
    run: Training, train_batches: Batches, validation_batches: Batches, callbacks: Sequence["Callback"]
) -> None:
    while not run.finished:
        with _advice_when_out_of_memory(run, train_batches.batch_size):
            train_one_epoch(run, train_batches, callbacks)
            started = time.perf_counter()
            # A local BatchNorm has other statistics in each process, of the network and of the average.
            run.world.lead(chain(run.network.buffers(), run.model.buffers()))
            validated = evaluate(run, validation_batches)
        run.end_epoch(validated, train_batches.images, time.perf_counter() - started)
        _stop_if_diverged(run)  # before callbacks save the state
        with run.world.together():
            for callback in callbacks:
                callback.on_epoch_end(run)


def train_one_epoch(run: Training, batches: Batches, callbacks: Sequence["Callback"] = ()) -> None:
    """Train on the rest of the epoch's batches, and record the steps in `run.progress`."""
    run.network.train()
    progress, steps = run.progress, Steps(run)
    incoming = _unless_interrupted(run, batches.epoch(run.epoch, start=progress.steps))
    earlier, started = progress.seconds, time.perf_counter()

    def complete(attempt: Attempt, ahead: Attempt | None = None) -> None:
        with steps.completed(attempt, ahead) as outcome:
            image_ids = [batches.image_ids[position] for position in attempt.positions.tolist()]
            step = Step(attempt.number, len(batches), *outcome, image_ids, attempt.images, attempt.targets)
            progress.seconds = earlier + time.perf_counter() - started
            _record(run, _whole(run, step), callbacks)

    late: Attempt | None = None
    number = progress.steps
    batch = _next_batch(run, incoming)
    while batch is not None:
        number += 1
        attempt = Attempt(number, *batch)
        steps.begin(attempt)
        if late is not None:
            complete(late, ahead=attempt)
            late = None  # its images are not needed any more
        try:
            batch = _next_batch(run, incoming)  # fetched while the GPU computes
        except UserError:  # training stops before this step is complete
            steps.cancel(attempt)
            raise
        late = attempt if steps.update(attempt) else None
        if late is None:  # it is completed now
            complete(attempt)
    if late is not None:
        complete(late)


def _next_batch(run: Training, incoming: Iterator[Batch]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return positions, augmented images and targets; None after the last batch."""
    started = time.perf_counter()
    with run.world.together():
        batch = next(incoming, None)
    if not run.hardware.busy():  # a busy GPU loses no time
        run.progress.waited += time.perf_counter() - started
    return batch and (batch[0], *run.augmented(*batch))


def _record(run: Training, step: Step, callbacks: Sequence["Callback"]) -> None:
    """Count a step that is complete, and tell the callbacks."""
    run.progress.add(step)
    run.steps += 1
    run.skipped += step.skipped and not step.rescaled
    report_step(run.steps)
    with run.world.together():
        for callback in callbacks:
            callback.on_step_end(run, step)
        if step.skipped and not step.rescaled:
            _warn_skipped(run, step)
        _leave_if_interrupted(run)


def _whole(run: Training, step: Step) -> Step:
    """Return the step with the images of all processes, if somebody will look for the cause of its failure."""
    if run.world.size == 1 or step.rescaled or not step.skipped:
        return step
    shares = run.world.gather((step.image_ids, step.images.cpu(), step.targets.cpu()))
    image_ids, images, targets = zip(*shares, strict=True)
    return replace(step, image_ids=[*chain(*image_ids)], images=torch.cat(images), targets=torch.cat(targets))


@torch.no_grad()
def evaluate(run: Training, batches: Batches) -> Record:
    """Evaluate the model on the validation images, at the output size; set `run.curve` and `run.last_batch`.

    Returns:
        `val_loss` and `val_dice_coeff`, means over the images; and `best_threshold`, the threshold at which the mean
        Dice coefficient is highest.
    """
    run.model.eval()
    evaluated = _evaluated(run, batches)
    dealt: list[tuple[Tensor, Tensor, ThresholdCurve]] = []
    for _ in range(-(-len(batches) // run.world.size)):  # in the last round, only some processes have a batch
        with run.world.together():
            dealt += islice(evaluated, 1)
            _leave_if_interrupted(run)
    losses, scores = [], []
    run.curve = ThresholdCurve()
    for loss_of_batch, scores_of_batch, curve in run.world.collect(dealt):
        losses += [loss_of_batch] * len(scores_of_batch)
        scores.append(scores_of_batch)
        run.curve.extend(curve)
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        logger.warning(
            "The validation loss of epoch %d is %s. The learning rate may be too high.", run.epoch, loss
        )
    return {
        "val_loss": loss,
        "val_dice_coeff": float(torch.cat(scores).mean()),
        "best_threshold": run.curve.best_threshold(),
    }


def _evaluated(run: Training, batches: Batches) -> Iterator[tuple[Tensor, Tensor, ThresholdCurve]]:
    """Yield the loss, the Dice coefficients (N,) and the counts of each batch of this process."""
    for _, images, targets in _unless_interrupted(run, batches.epoch(run.epoch)):
        images, targets = run.tensors(images, targets)
        # All batches have the same shape and layout, so that a compiled network is compiled only once.
        missing = batches.batch_size - len(images) if run.hardware.compile else 0
        padded = torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images
        padded = padded.contiguous(memory_format=torch.channels_last)
        logits = run.predict(run.model, padded)[: len(images)]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss, scores, curve = (
            run.loss(logits, targets),
            batch_dice(logits, targets, run.threshold),
            ThresholdCurve(),
        )
        curve.add(logits, targets)
        run.last_batch = images, targets, logits
        yield loss.cpu(), scores.cpu(), curve


def _warn_skipped(run: Training, step: Step) -> None:
    """Warn that a step was skipped, and stop the run if there were too many."""
    reason = (
        f"the loss was {step.loss} and the gradient norm {step.gradient_norm}, for the images "
        f"{', '.join(step.image_ids)}"
    )
    logger.warning("Step %d of epoch %d was skipped: %s", step.number, run.epoch, reason)
    _stop_if_too_many_were_skipped(run, f" In the last one, {reason}.")


def _stop_if_too_many_were_skipped(run: Training, last: str = "") -> None:
    if run.skipped >= run.max_skipped_steps:
        raise UserError(
            f"{run.skipped} steps were skipped, and model_training.max_skipped_steps is {run.max_skipped_steps}.{last} "
            f"{_advice_when_diverging(run)}; or check the images and masks of these steps. To resume from here, "
            "increase max_skipped_steps."
        )


def _stop_if_diverged(run: Training) -> None:
    last = run.history[-1] if run.history and run.finished else None
    if reason := divergence(run.network.state_dict(), run.model.state_dict(), last):
        raise UserError(
            f"Training diverged, after {len(run.history)} epochs and {run.steps} steps: {reason}. The run does not end "
            f"with a model. {_advice_when_diverging(run)}."
        )


def _advice_when_diverging(run: Training) -> str:
    return (
        f"Try a smaller learning rate (model_training.optimizer.learning_rate, now {run.schedule.get_last_lr()[0]:.3g})"
        ", clip_gradient_norm=1, a warm-up (model_training.schedule.warmup_fraction) or precision=float32"
    )


def _warn_if_nothing_was_learned(run: Training) -> None:
    """Warn if the last gradients were 0, or if the last validation masks are all empty or full."""
    if run.history and run.history[-1]["gradient_norm"] == 0:
        logger.warning("All gradients of the last epoch were 0: the network does not learn any more.")
    if run.curve is None:  # the run was finished before
        return
    images, (empty, full) = len(run.curve.positive), run.curve.constant(run.threshold)
    if empty + full == images:
        best = run.history[run.best_epoch - 1]["val_dice_coeff"]
        logger.warning(
            "The network predicts a constant: of %d validation masks, %d are empty and %d are full (threshold %.2f, "
            "best Dice coefficient %.4f). Train longer, check the masks of the training images, or try a smaller "
            "learning rate or weight decay.", images, empty, full, run.threshold, best,
        )  # fmt: skip


def _unless_interrupted(run: Training, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches. An error after a signal counts as an interruption: the signal reaches the workers too."""
    try:
        yield from batches
    except UserError:
        _leave_if_interrupted(run)
        raise


def _leave_if_interrupted(run: Training) -> None:
    if run.interrupted():
        raise TrainingInterruptedError(
            f"Training was interrupted in epoch {run.epoch}, after step {run.progress.steps}. Everything is saved. "
            "The same command resumes it."
        )


@contextmanager
def _advice_when_out_of_memory(run: Training, batch_size: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that did not fit
        height, width = run.geometry.input_size
        if run.world.size > 1:  # a trial in one process would wait for the others
            raise UserError(
                f"The memory of {run.hardware.device} is too small for this process's share of a batch: "
                f"{batch_size} images of {height} x {width} (height x width) for {run.world.size} processes. Choose a "
                "smaller model_training.batch_size, or more accumulation_steps."
            ) from error
        part = batch_size // run.accumulation_steps
        raise UserError(
            f"The memory of {run.hardware.device} is too small to train on {part} images of {height} x {width} "
            f"(height x width) at once. {_advice(batch_size, _fitting_batch(run, part // 2))}"
        ) from error


def _advice(batch_size: int, fitting: int) -> str:
    """Return what to do if only `fitting` images of a batch fit into memory at once."""
    if not fitting:
        return (
            "Not even one image fits. Choose a smaller model_training.input_size or width_multiplier. If decoded "
            "images are kept in the memory of the GPU, set model_training.cache=memory."
        )
    parts = min(n for n in range(1, batch_size + 1) if batch_size % n == 0 and batch_size // n <= fitting)
    return (
        f"{fitting} fit. Set --params model_training.batch_size={fitting},model_training.accumulation_steps=1, perhaps "
        f"with a smaller learning rate. Or set model_training.accumulation_steps={parts}: this keeps the batch size, "
        "but computes the batch in parts (BatchNorm then uses the statistics of one part)."
    )


def _fitting_batch(run: Training, largest: int) -> int:
    """Return the largest of `largest`, its half, its quarter ... that fits into memory; 0 if none does."""
    run.optimizer.zero_grad(set_to_none=True)
    while largest:
        try:
            # This batch and the next one, and the two moments per weight that most optimizers keep.
            images = torch.zeros(2 * largest, 3, *run.geometry.output_size, device=run.hardware.device)
            state = (
                [] if run.optimizer.state else [torch.zeros_like(w) for w in 2 * [*run.network.parameters()]]
            )
            run.loss(run.predict(run.network, images[:largest]), images[:largest, 0]).backward()
            del state
            return largest
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            largest //= 2
    return 0
