from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import interpolate

from carvana_kedro.segmentation.architectures import build_network, unet
from carvana_kedro.segmentation.architectures.upsampling import Doubled, upsample
from pretended_cuda import is_channels_last, pretended_cuda

SIZES = {
    "unet_small": [(64, 96), (43, 64)],
    "unet_1024": [(64, 128), (85, 128)],
    "unet_lite0": [(64, 96), (43, 65)],
    "unet_resnet34": [(64, 96), (43, 65)],
    "unet_original": [(188, 204)],
}
layouts = st.sampled_from([torch.contiguous_format, torch.channels_last])
sides = st.integers(1, 9)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), sides, sides)
resize = partial(interpolate, mode="bilinear", align_corners=False)


def random_pair(
    shape: tuple[int, ...], layout: torch.memory_format, extra: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return features and a gradient for twice their size, a slice of a tensor with `extra` more channels."""
    count, channels, height, width = shape
    features = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randn(count, channels + extra, 2 * height, 2 * width, dtype=dtype)
    return features, gradient.contiguous(memory_format=layout)[:, :channels]


@settings(deadline=None)
@given(shapes, layouts, st.integers(0, 2))
def test_doubling_and_its_gradient_agree_with_pytorch(
    shape: tuple[int, ...], layout: torch.memory_format, extra: int
) -> None:
    features, gradient = random_pair(shape, layout, extra, torch.float64)
    ours, theirs = Doubled.apply(features), resize(features, scale_factor=2)
    assert torch.equal(ours, theirs)
    differences = torch.autograd.grad([ours, theirs], features, [gradient, -gradient])[0]
    assert differences.abs().max() <= 1e-15 * 4 * gradient.abs().max()  # the weights of a source add up to 4


def test_the_gradient_of_doubling_agrees_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(
        Doubled.apply, (torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True),)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_doubling_keeps_dtype_and_layout_and_is_accurate_in_bfloat16(
    layout: torch.memory_format,
) -> None:
    features, gradient = random_pair((2, 8, 16, 24), layout, 8, torch.bfloat16)
    (ours,) = torch.autograd.grad(Doubled.apply(features), features, gradient)
    exact = features.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(resize(exact, scale_factor=2), exact, gradient.double())
    assert ours.dtype == torch.bfloat16
    assert ours.is_contiguous(memory_format=layout)
    assert (ours - expected).abs().max() < 0.01 * expected.abs().max()


def test_compiled_doubling_is_one_graph_and_computes_the_same() -> None:
    features, gradient = random_pair((2, 3, 4, 5), torch.channels_last, 2, torch.float64)
    compiled = torch.compile(Doubled.apply, backend="aot_eager", fullgraph=True)
    results = [function(features) for function in (Doubled.apply, compiled)]
    gradients = [torch.autograd.grad(result, features, gradient)[0] for result in results]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


def test_folds_share_one_graph_for_training_and_one_for_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "upsample", lambda features, size: Doubled.apply(features))
    torch.compiler.reset()
    counters.clear()
    for _ in range(6):
        network = build_network("unet_small", width_multiplier=0.1)
        network.compile(backend="aot_eager", dynamic=False)
        images = torch.rand(2, 3, 32, 64).contiguous(memory_format=torch.channels_last)
        network.train()(images).mean().backward()
        with torch.no_grad():
            network.eval()(images)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [(10, 14), (9, 14), (11, 15)])
def test_on_the_cpu_up_sampling_and_its_gradient_are_those_of_pytorch(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    features = torch.randn(2, 3, 5, 7, dtype=dtype, requires_grad=True)
    ours, theirs = upsample(features, size), resize(features, size)
    assert torch.equal(ours, theirs)
    assert ours.grad_fn is not None
    assert ("Doubled" in ours.grad_fn.name()) == (size == (10, 14))
    gradient = torch.randn(2, 3, *size, dtype=dtype)
    results = [torch.autograd.grad(result, features, gradient)[0] for result in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=0, atol=0 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("size", [(10, 14), (9, 14), (10, 15)])
def test_up_sampling_on_cuda_keeps_the_dtype_of_its_input(size: tuple[int, int]) -> None:
    with pretended_cuda(), torch.autocast("cuda", torch.bfloat16):
        features = torch.empty(2, 16, 5, 7, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        result = upsample(features, size)
        assert (result.dtype, result.shape) == (torch.bfloat16, (2, 16, *size))
        assert result.grad_fn is not None and "Doubled" not in result.grad_fn.name()
        assert torch.is_autocast_enabled("cuda")
        assert upsample(features.detach(), size).shape == (2, 16, *size)


def test_up_sampling_on_cuda_compiles_to_one_graph() -> None:
    with pretended_cuda(), torch.autocast("cuda", torch.bfloat16):
        compiled = torch.compile(upsample, backend="eager", fullgraph=True, dynamic=False)
        for requires_grad in (True, False):
            features = torch.empty(
                2, 16, 5, 7, device="cuda", dtype=torch.bfloat16, requires_grad=requires_grad
            )
            assert compiled(features, (10, 14)).dtype == torch.bfloat16
            assert compiled(features, (11, 14)).dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, sizes in SIZES.items() for size in sizes])
def test_every_convolution_on_cuda_gets_channels_last_in_bfloat16(name: str, size: tuple[int, int]) -> None:
    network = build_network(name).train()
    convolutions = {key: module for key, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    seen: dict[str, tuple[torch.dtype, bool]] = {}
    for key, module in convolutions.items():
        module.register_forward_pre_hook(
            lambda _, inputs, key=key: seen.update({key: (inputs[0].dtype, is_channels_last(inputs[0]))})
        )
    with pretended_cuda(network), torch.autocast("cuda", torch.bfloat16):
        images = torch.empty(2, *size, 3, device="cuda").permute(0, 3, 1, 2)
        network(images)
    first, *others = convolutions
    assert seen[first] == (torch.float32, True)  # autocast converts it
    assert {seen[key] for key in others} == {(torch.bfloat16, True)}
