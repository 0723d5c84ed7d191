"""BatchNorm over the whole batch, when several processes compute its parts."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

Total = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over the processes."""

_PER_CHANNEL = (0, 2, 3)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A `BatchNorm2d` whose statistics in training are those of the images of all processes.

    PyTorch's SyncBatchNorm does the same on GPUs only. The variance takes two passes: as the difference of two sums it
    would be off by a thousandth where the mean is large. A network that is converted keeps the names of its weights.
    """

    total: Any  # a `Total`

    @classmethod
    def convert(cls, network: nn.Module, total: Total) -> None:
        """Change each BatchNorm2d of a network into one over all processes, in place."""
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = cls
                cast(GlobalBatchNorm2d, module).total = total

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, H, W) features."""
        if not self.training:  # processes may have different numbers of validation batches
            return super().forward(input)
        mean, variance, count = _statistics(input.detach(), self.total)
        if input.numel() == input.shape[1] and count == 1:  # the same error as that of BatchNorm2d
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {input.size()}"
            )
        if self.running_mean is not None:
            self._update(mean, variance * (count / (count - 1)).to(variance.dtype))
        normalized: Tensor = _Normalize.apply(
            input, self.weight, self.bias, mean, variance, count, self.eps, self.total
        )
        return normalized

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, as BatchNorm2d does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


def _statistics(features: Tensor, total: Total) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, at least float32, and the number of values that they are taken of."""
    exact = torch.promote_types(features.dtype, torch.float32)
    sums = features.sum(_PER_CHANNEL, dtype=exact)
    count = sums.new_tensor([features.numel() / len(sums)], dtype=torch.float64)
    *sums_of_all, count = total(torch.cat([sums.double(), count])).split([len(sums), 1])
    mean = (sums_of_all[0] / count).to(exact)
    squares = (features.to(exact) - mean[:, None, None]).square_().sum(_PER_CHANNEL)
    return mean, (total(squares.double()) / count).to(exact), count


class _Normalize(torch.autograd.Function):
    """Normalizes with statistics that depend on the features of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        total: Total,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, mean, variance, count)
        ctx.eps, ctx.total = eps, total
        return batch_norm(features, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients: of the features through the statistics too, of weight and bias for this process."""
        features, weight, mean, variance, count = ctx.saved_tensors
        constant = (gradients[0], features, weight, mean, variance, None, None, False, ctx.eps, [True] * 3)
        # As if mean and variance were constants; dot and total are Σ gradient x normalized, and Σ gradient.
        of_features, dot, summed = torch.ops.aten.native_batch_norm_backward(*constant)
        dots, sums = (ctx.total(torch.stack([dot, summed]).double()) / count).to(mean.dtype)
        inverse = (variance + ctx.eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        slope = dots * inverse
        # Minus scale x (mean of the gradient + normalized x mean of gradient x normalized).
        of_features -= torch.addcmul(
            (scale * (sums - slope * mean))[:, None, None], features, (scale * slope)[:, None, None]
        )
        has_weight = weight is not None
        return of_features, dot if has_weight else None, summed if has_weight else None, *[None] * 5
