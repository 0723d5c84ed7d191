"""Convolutions padded as in TensorFlow; those of each channel alone have gradients that are fast on the CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv2d, pad


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding `SAME`, without bias: the output size is size / stride, rounded up.

    For stride 2 and an even size, it pads one pixel less at the top and at the left than symmetric padding. Weights
    from TensorFlow need this: otherwise they would see features that are shifted by a pixel.

    With as many groups as channels, it must get features of the dtype that it computes in: autocast does not convert
    them in training on the CPU.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> None:
        """Build it with random weights; `kernel_size` is odd, `stride` is 1 or 2."""
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel_size, stride, padding, groups=groups, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve (N, C, H, W) features."""
        if self.stride[0] == 2:
            height, width = features.shape[2:]
            after = self.kernel_size[0] // 2
            features = pad(features, (after - 1 + width % 2, after, after - 1 + height % 2, after))
        is_depthwise = self.groups == self.in_channels == self.out_channels
        if is_depthwise and features.device.type == "cpu" and features.requires_grad and self.bias is None:
            weight = self.weight.to(features.dtype)
            convolved: Tensor = Depthwise.apply(features, weight, self.stride[0], self.padding[0])
            return convolved
        return super().forward(features)


class Depthwise(Function):
    """Convolves each channel of (N, C, H, W) features with its own (1, k, k) filter, k = 3 or 5.

    The results are those of `conv2d`, but the gradients avoid two slow paths of oneDNN, which it takes for filters
    wider than three pixels (gradient of the weights), and for stride 2 in bfloat16 (gradient of the features). They
    are up to 200 times slower.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """Convolve: the same as `conv2d`."""
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding = stride, padding
        return conv2d(features, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients of the features and the weights."""
        features, weight = ctx.saved_tensors
        of_features, of_weight = None, None
        if ctx.needs_input_grad[0]:
            of_features = _gradient_of_features(gradient, features, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(gradient, features, weight, ctx.stride, ctx.padding)
        return of_features, of_weight, None, None


def _gradient_of_features(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    dtype = gradient.dtype
    if stride == 2:
        exact = torch.promote_types(dtype, torch.float32)
        like_features = torch.empty_like(features, dtype=exact)  # only its shape and layout count
        gradient, features, weight = gradient.to(exact), like_features, weight.to(exact)
    result, _, _ = _backward(gradient, features, weight, stride, (padding, padding), [True, False, False])
    return result.to(dtype)


def _gradient_of_weight(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    if weight.shape[3] == 3:
        return _backward(gradient, features, weight, stride, (padding, padding), [False, True, False])[1]
    padded = pad(features, (padding, padding))
    left, right = (  # columns 0 to 2 of the filters, and columns 2 to 4
        _backward(gradient, part, weight[..., :3], stride, (padding, 0), [False, True, False])[1]
        for part in (padded[..., :-2], padded[..., 2:])
    )
    return torch.cat([left, right[..., 1:]], dim=3)


def _backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    stride: int,
    padding: tuple[int, int],
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features, weights and bias that are wanted."""
    # The functions of torch.nn.grad would lose the layout of the features.
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient,
        features,
        weight,
        None,
        [stride, stride],
        padding,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        wanted,
    )
    return result
