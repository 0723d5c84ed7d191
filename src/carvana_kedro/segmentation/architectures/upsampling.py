"""Bilinear up-sampling in the precision of the network, with a fast gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad


def upsample(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) features to (N, C, *size) bilinearly (`align_corners=False`), in their own dtype.

    Autocast on CUDA would convert them to float32, and then also everything that they are concatenated with. Autocast
    on the CPU keeps the dtype.
    """
    doubles = features.requires_grad and tuple(size) == (2 * features.shape[2], 2 * features.shape[3])
    if features.device.type != "cuda":
        gathers = features.device.type == "cpu" and torch.backends.mkldnn.is_available()
        return _resize(features, size, doubles and gathers)
    with torch.autocast("cuda", enabled=False):
        return _resize(features, size, doubles)


def _resize(features: Tensor, size: tuple[int, int], gathers: bool) -> Tensor:
    if gathers:
        doubled: Tensor = Doubled.apply(features)
        return doubled
    return interpolate(features, size, mode="bilinear", align_corners=False)


class Doubled(Function):
    """Doubles (N, C, h, w) features bilinearly, with a gradient that gathers.

    PyTorch's gradient scatters each pixel to its four sources: on CUDA by atomic additions, on the CPU channel by
    channel. Two average pools per axis gather on CUDA, a depthwise convolution of oneDNN on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Double the features: the same as `interpolate`."""
        return interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient (N, C, h, w) for that of the output (N, C, 2h, 2w)."""
        if not (gradient.is_contiguous() or gradient.is_contiguous(memory_format=torch.channels_last)):
            gradient = gradient.clone()  # a slice of a concatenation's gradient: each pool would copy it
        return _convolved(gradient) if gradient.device.type == "cpu" else _halved(_halved(gradient, 2), 3)


def _halved(gradient: Tensor, axis: int) -> Tensor:
    """Apply the transpose of bilinear doubling along one axis (2 or 3) of an (N, C, h, w) tensor.

    Doubling computes `y[2i] = (x[i - 1] + 3 x[i]) / 4` and `y[2i + 1] = (3 x[i] + x[i + 1]) / 4`, where an index
    outside stands for the nearest one inside. Collecting the terms of `x[i]`, with `g` the gradient of `y`:

        (g[2i - 1] + 3 g[2i] + 3 g[2i + 1] + g[2i + 2]) / 4

    This is the mean of all four plus the mean of the inner two. A `g` outside again stands for the nearest one inside.
    """
    four, two, margin = ((4, 1), (2, 1), (1, 0)) if axis == 2 else ((1, 4), (1, 2), (0, 1))
    result = avg_pool2d(gradient, four, stride=two, padding=margin)  # takes a `g` outside as 0
    result += avg_pool2d(gradient, two)
    for end in (0, -1):
        result.select(axis, end).add_(gradient.select(axis, end), alpha=0.25)
    return result


def _convolved(gradient: Tensor) -> Tensor:
    """Apply `_halved` along both axes at once, as a convolution of each channel.

    In bfloat16, the products are exact and the sum is rounded once, so the result is that of PyTorch's own gradient.
    """
    channels = gradient.shape[1]
    weights = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=gradient.dtype)
    kernel = torch.outer(weights, weights).expand(channels, 1, 4, 4)
    return conv2d(pad(gradient, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=channels)
