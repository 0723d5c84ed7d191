"""Convolutions with TensorFlow's padding, and the gradients of those of each channel alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from carvana_kedro.segmentation.architectures.depthwise import Depthwise, SameConv2d
from pretended_cuda import pretended_cuda

layouts = st.sampled_from([torch.contiguous_format, torch.channels_last])
kernels, strides, sides = st.sampled_from([3, 5]), st.sampled_from([1, 2]), st.integers(1, 12)


def total_padding(size: int, kernel_size: int, stride: int) -> int:
    """Return the pixels that TensorFlow adds along an axis for `SAME`, half of them, rounded down, before it."""
    return max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)


def tensorflows(features: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    margins = [total_padding(side, weight.shape[2], stride) for side in features.shape[2:]]
    (top, left), (height, width) = (margin // 2 for margin in margins), margins
    return conv2d(pad(features, (left, width - left, top, height - top)), weight, None, stride, groups=groups)


def random_case(
    convolution: SameConv2d, size: tuple[int, int], layout: torch.memory_format = torch.contiguous_format
) -> tuple[Tensor, Tensor]:
    """Return features and a gradient of what they are convolved to."""
    dtype, stride = convolution.weight.dtype, convolution.stride[0]
    features = torch.randn(2, convolution.in_channels, *size, dtype=dtype).contiguous(memory_format=layout)
    output = [math.ceil(side / stride) for side in size]
    gradient = torch.randn(2, convolution.out_channels, *output, dtype=dtype)
    return features.requires_grad_(), gradient.contiguous(memory_format=layout)


@settings(deadline=None)
@given(st.integers(1, 4), kernels, strides, sides, sides, layouts, st.booleans())
def test_convolutions_and_their_gradients_are_those_of_tensorflows_padding(
    channels: int,
    kernel_size: int,
    stride: int,
    height: int,
    width: int,
    layout: torch.memory_format,
    alone: bool,
) -> None:
    groups = channels if alone else 1
    convolution = SameConv2d(channels, channels, kernel_size, stride, groups).double()
    features, gradient = random_case(convolution, (height, width), layout)
    found = convolution(features)
    expected = tensorflows(features, convolution.weight, stride, groups)
    torch.testing.assert_close(found, expected)
    inputs = (features, convolution.weight)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient)
    )


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (3, 2, 0), (5, 2, 0)])
def test_the_gradients_of_depthwise_convolutions_agree_with_finite_differences(
    kernel_size: int, stride: int, padding: int
) -> None:
    features = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Depthwise.apply, (features, weight, stride, padding))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_gradients_keep_the_layout_and_are_accurate_in_bfloat16(
    kernel_size: int, stride: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    convolution = SameConv2d(16, 16, kernel_size, stride, groups=16).bfloat16()
    features, gradient = random_case(convolution, (16, 24), layout)
    found = torch.autograd.grad(convolution(features), (features, convolution.weight), gradient)
    exact = [tensor.detach().double().requires_grad_() for tensor in (features, convolution.weight)]
    expected = torch.autograd.grad(tensorflows(*exact, stride, 16), exact, gradient.double())
    assert found[0].is_contiguous(memory_format=layout)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).abs().max() < 0.01 * theirs.abs().max()


def test_under_autocast_the_weights_get_the_dtype_of_the_features() -> None:
    network = nn.Sequential(SameConv2d(3, 8, 3, stride=2), SameConv2d(8, 8, 5, stride=2, groups=8))
    with torch.autocast("cpu", torch.bfloat16):
        result = network(torch.rand(1, 3, 16, 16))
    assert result.dtype == torch.bfloat16
    assert "Depthwise" in result.grad_fn.name()
    result.float().sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in network.parameters())


def test_frozen_weights_and_features_without_gradient_need_none() -> None:
    convolution = SameConv2d(4, 4, 5, groups=4)
    features, gradient = random_case(convolution, (6, 6))
    assert convolution(features.detach()).grad_fn.name() != "DepthwiseBackward"
    convolution.requires_grad_(False)
    convolution(features).backward(gradient)
    assert features.grad is not None
    assert convolution.weight.grad is None


def test_cuda_uses_pytorchs_own_gradients() -> None:
    convolution = SameConv2d(4, 4, 5, groups=4)
    with pretended_cuda(convolution):
        features = torch.empty(1, 4, 8, 8, device="cuda", requires_grad=True)
        result = convolution(features)
    assert "Depthwise" not in result.grad_fn.name()


@pytest.mark.parametrize(("kernel_size", "stride"), [(5, 1), (5, 2)])
def test_compiled_convolutions_are_one_graph_and_compute_the_same(kernel_size: int, stride: int) -> None:
    convolution = SameConv2d(4, 4, kernel_size, stride, groups=4)
    features, gradient = random_case(convolution, (8, 11), torch.channels_last)
    compiled = torch.compile(convolution, backend="aot_eager", fullgraph=True)
    inputs = (features, convolution.weight)
    results = [function(features) for function in (convolution, compiled)]
    gradients = [torch.autograd.grad(result, inputs, gradient) for result in results]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)
