"""Bilinear up-sampling in the precision of the network, with a fast gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import conv2d, interpolate, pad


def upsample(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) features to (N, C, *size) bilinearly (`align_corners=False`), in their own dtype.

    Autocast on CUDA would convert them to float32, and then also everything that they are concatenated with. Autocast
    on the CPU keeps the dtype.
    """
    if features.device.type == "cuda":
        with torch.autocast("cuda", enabled=False):
            return interpolate(features, size, mode="bilinear", align_corners=False)
    doubles = tuple(size) == (2 * features.shape[2], 2 * features.shape[3])
    if (
        doubles
        and features.requires_grad
        and features.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
    ):
        doubled: Tensor = Doubled.apply(features)
        return doubled
    return interpolate(features, size, mode="bilinear", align_corners=False)


class Doubled(Function):
    """Doubles (N, C, h, w) features bilinearly, with a gradient that gathers. For the CPU.

    PyTorch's gradient scatters each pixel to its four sources, channel by channel. Here a depthwise convolution of
    oneDNN gathers. On CUDA, PyTorch's gradient is faster than gathering by average pools.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Double the features: the same as `interpolate`."""
        return interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient (N, C, h, w) for that of the output (N, C, 2h, 2w).

        Doubling computes `y[2i] = (x[i - 1] + 3 x[i]) / 4` and `y[2i + 1] = (3 x[i] + x[i + 1]) / 4` along each axis,
        where an index outside stands for the nearest one inside. Collecting the terms of `x[i]`, with `g` the gradient
        of `y`:

            (g[2i - 1] + 3 g[2i] + 3 g[2i + 1] + g[2i + 2]) / 4

        A `g` outside again stands for the nearest one inside. In bfloat16, the products are exact and the sum is
        rounded once, so the result is that of PyTorch's own gradient.
        """
        if not (gradient.is_contiguous() or gradient.is_contiguous(memory_format=torch.channels_last)):
            gradient = gradient.clone()  # a slice of a concatenation's gradient
        channels = gradient.shape[1]
        weights = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=gradient.dtype)
        kernel = torch.outer(weights, weights).expand(channels, 1, 4, 4)
        return conv2d(pad(gradient, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=channels)
