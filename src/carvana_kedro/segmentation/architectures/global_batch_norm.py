"""BatchNorm over the whole batch, when several processes compute its parts."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

Total = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over the processes."""

CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Classes that are converted. What a class of somebody else adds would be lost."""


class GlobalBatchNorm(_BatchNorm):
    """A `BatchNorm1d`, `2d` or `3d` whose statistics in training are those of the images of all processes.

    PyTorch's SyncBatchNorm does the same on GPUs only. The variance takes two passes: as the difference of two sums it
    would be off by a thousandth where the mean is large. A network that is converted keeps the names of its weights.
    """

    total: Any  # a `Total`

    @classmethod
    def convert(cls, network: nn.Module, total: Total) -> None:
        """Change each BatchNorm of a network into one over all processes, in place."""
        for module in network.modules():
            if type(module) in CONVERTED:
                module.__class__ = cls
                cast(GlobalBatchNorm, module).total = total

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, ...) features."""
        self._check_input_dim(input)
        if not self.training:  # processes may have different numbers of validation batches
            return super().forward(input)
        mean, variance, count = _statistics(input.detach(), self.total)
        if input.numel() == input.shape[1] and count == 1:  # the same error as that of BatchNorm
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
        """Move the running statistics towards those of a batch, as BatchNorm does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight: Any = self.momentum
        if weight is None:  # not int(), at which torch.compile would break the graph
            weight = self.num_batches_tracked.to(self.running_mean.dtype).reciprocal()
        for running, of_batch in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(of_batch.to(running.dtype), weight)


def _statistics(features: Tensor, total: Total) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, at least float32, and the number of values that they are taken of."""
    exact = torch.promote_types(features.dtype, torch.float32)
    others = [dim for dim in range(features.dim()) if dim != 1]
    sums = features.sum(others, dtype=exact)
    count = sums.new_tensor([features.numel() / len(sums)], dtype=torch.float64)
    *sums_of_all, count = total(torch.cat([sums.double(), count])).split([len(sums), 1])
    mean = (sums_of_all[0] / count).to(exact)
    squares = (features.to(exact) - _of_channels(mean, features)).square_().sum(others)
    return mean, (total(squares.double()) / count).to(exact), count


def _of_channels(values: Tensor, features: Tensor) -> Tensor:
    """Return one value per channel in a shape that is broadcast to (N, C, ...) features."""
    return values.view(-1, *[1] * (features.dim() - 2))


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
            _of_channels(scale * (sums - slope * mean), features),
            features,
            _of_channels(scale * slope, features),
        )
        has_weight = weight is not None
        return of_features, dot if has_weight else None, summed if has_weight else None, *[None] * 5
