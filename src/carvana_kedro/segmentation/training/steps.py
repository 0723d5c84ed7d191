"""One step of training: gradient, update, and what the CPU learns of it.

On a GPU, PyTorch only launches the work. If the CPU waited for the loss of each step before it launched the next one,
the GPU would be idle in between. So a step there is completed one step late:

    gradient of step 2 | complete step 1 | update of step 2 | gradient of step 3 | complete step 2 | ...

When the CPU waits for the numbers of a step, the gradient of the next one is already launched. If the numbers are not
finite, the GPU itself has skipped the update. The next gradient is right then too, because weights and batch are the
same; but it is computed again, so that BatchNorm's statistics are those of a run without the bad batch.

On other devices, and for optimizers that cannot skip an update themselves, a step is completed at once. The results are
the same.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from carvana_kedro.segmentation.training.distributed import noticing_lost_processes
from carvana_kedro.segmentation.training.losses import Loss, batch_dice, loss_of_parts
from carvana_kedro.segmentation.training.state import Training

Copies = dict[torch.dtype, list[Tensor]]


@dataclass
class Attempt:
    """A step that is not complete.

    Attributes:
        number: Number of the step in its epoch, from 1.
        positions: (N,) positions of the images in the data set, on the CPU.
        images: (N, 3, h, w) float32 on the device, augmented.
        targets: (N, h, w) float32 on the device.
        before: BatchNorm's statistics before the step.
        loss: Mean over the batch, on the device.
        dice_coeff: Mean over the images of the batch, on the device.
        read: Returns loss, Dice coefficient and gradient norm, as soon as the device has computed them.
        rescales: Whether the step is expected to fail, because the loss scale of float16 is still too large.
    """

    number: int
    positions: Tensor
    images: Tensor
    targets: Tensor
    before: Copies = field(init=False)
    loss: Tensor = field(init=False)
    dice_coeff: Tensor = field(init=False)
    read: Callable[[], list[float]] = field(init=False)
    rescales: bool = False


class Outcome(NamedTuple):
    """What a step has led to; see `Step`."""

    loss: float
    dice_coeff: float
    gradient_norm: float
    skipped: bool
    rescaled: bool


class Steps:
    """Makes the steps of a run: `begin`, `update` and `completed`, in this order for each."""

    def __init__(self, run: Training) -> None:
        """Look up the weights."""
        self._run = run
        self._weights = list(run.network.parameters())
        self._statistics = Statistics(run.network)

    def begin(self, attempt: Attempt) -> None:
        """Compute the gradient of a batch."""
        attempt.before = self._statistics.copy()
        self._run.seed_step(attempt.number)
        attempt.loss, attempt.dice_coeff = forward_backward(self._run, attempt.images, attempt.targets)

    def cancel(self, attempt: Attempt) -> None:
        """Undo `begin`."""
        self._statistics.restore(attempt.before)

    def update(self, attempt: Attempt) -> bool:
        """Step the optimizer if loss and gradient are finite.

        Returns:
            Whether the step may be completed later, after the next one has begun.
        """
        run = self._run
        run.scaler.unscale_(run.optimizer)
        norm = get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        numbers = torch.stack([attempt.loss, attempt.dice_coeff, norm])
        late = run.completes_late
        if late:
            self._update_on_device(attempt, numbers)
        else:
            self._update_now(attempt, numbers)
        run.scaler.update()
        if not isinstance(run.schedule, ReduceLROnPlateau):
            with warnings.catch_warnings():
                # The schedule counts skipped steps too. If the first step is skipped, torch warns that the optimizer
                # was not stepped.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                run.schedule.step()
        return late

    def _update_now(self, attempt: Attempt, numbers: Tensor) -> None:
        run, (loss, dice, norm) = self._run, numbers.tolist()
        attempt.read = lambda: [loss, dice, norm]
        if math.isfinite(loss) and math.isfinite(norm):
            self._clip(numbers[2])
            run.scaler.step(run.optimizer)
        else:
            # GradScaler finds the loss scale of float16 by trial and error, so an overflow now and then is expected.
            attempt.rescales = run.scaler.is_enabled() and math.isfinite(loss) and run.scaler.get_scale() > 1

    def _update_on_device(self, attempt: Attempt, numbers: Tensor) -> None:
        attempt.read = _fetch(numbers)
        self._clip(numbers[2])
        optimizer = self._run.optimizer
        optimizer.found_inf = 1 - numbers[::2].isfinite().all().float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]

    def _clip(self, norm: Tensor) -> None:
        if self._run.clip_gradient_norm:
            clip_grads_with_norm_(self._weights, self._run.clip_gradient_norm, norm)

    @contextmanager
    def completed(self, attempt: Attempt, ahead: Attempt | None = None) -> Iterator[Outcome]:
        """Complete a step. In the block, the run is in the state after it. If the block raises, the run stays so.

        Args:
            attempt: Begun and updated.
            ahead: The next step, if it has begun.
        """
        loss, dice, norm = attempt.read()
        finite = math.isfinite(loss) and math.isfinite(norm)
        if not finite:
            self._statistics.restore(attempt.before)  # the batch would ruin them
        elif ahead is not None:
            later = self._statistics.copy()
            self._statistics.restore(ahead.before)
        if finite and self._run.ema is not None:
            self._run.ema.update()
        yield Outcome(loss, dice, norm, not finite, not finite and attempt.rescales)
        self._statistics.release(attempt.before)
        if ahead is None:
            return
        if finite:
            self._statistics.restore(later)
            self._statistics.release(later)
        else:
            self._statistics.release(ahead.before)
            self.begin(ahead)


class Statistics:
    """Copies and restores the buffers of a network (BatchNorm's statistics) in a few kernels."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self._free: list[Copies] = []

    def _buffers(self) -> Copies:
        # Looked up each time: a network may assign new buffers. A list of several dtypes would be copied one by one.
        by_dtype: Copies = {}
        for buffer in self._network.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        return by_dtype

    def copy(self) -> Copies:
        """Copy the buffers, into copies that were released if there are any."""
        current = self._buffers()
        copies = (
            self._free.pop()
            if self._free
            else {
                dtype: [torch.empty_like(buffer) for buffer in buffers] for dtype, buffers in current.items()
            }
        )
        for dtype, buffers in current.items():
            torch._foreach_copy_(copies[dtype], buffers)
        return copies

    def restore(self, copies: Copies) -> None:
        """Set the buffers to what they were when they were copied."""
        for dtype, buffers in self._buffers().items():
            torch._foreach_copy_(buffers, copies[dtype])

    def release(self, copies: Copies) -> None:
        """Allow copies to be overwritten."""
        self._free.append(copies)


def forward_backward(run: Training, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradient of the batch; return its mean loss and Dice coefficient as tensors on the device.

    Of several processes, each computes its share of each part. The gradients are summed during the last part.
    """
    run.optimizer.zero_grad(set_to_none=True)
    losses, scores = [], []
    count = run.batch_size or len(images)  # of all processes
    sizes = run.world.share_sizes(count, run.accumulation_steps)
    loss_of = _loss_of_parts(run, targets)
    for number, (part, part_targets) in enumerate(
        zip(images.split(sizes), targets.split(sizes), strict=True), start=1
    ):
        with run.replica.no_sync() if run.replica and number < len(sizes) else nullcontext():
            logits = run.predict(run.replica or run.network, part)
            loss = loss_of(logits, part_targets) * (len(part) / count)
            with noticing_lost_processes():
                run.scaler.scale(loss).backward()
        losses.append(loss.detach())
        scores.append(batch_dice(logits.detach(), part_targets, run.threshold))
    means = torch.stack([torch.stack(losses).sum(), torch.cat(scores).sum() / count])
    loss, dice_coeff = run.world.sum(means)
    return loss, dice_coeff


def _loss_of_parts(run: Training, targets: Tensor) -> Loss:
    if run.world.size > 1:
        return loss_of_parts(run.loss, targets, run.world.mean)
    return run.loss if run.accumulation_steps == 1 else loss_of_parts(run.loss, targets)


def _fetch(numbers: Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers to the CPU; return a function that waits for them, but not for what is launched later."""
    if not numbers.is_cuda:
        return numbers.tolist
    fetched = numbers.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event(blocking=True)  # the CPU has better things to do than to poll
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return fetched.tolist()

    return read
