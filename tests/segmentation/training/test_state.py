from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.training.build import build_training
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Training, _augmented

NONE = Augmentation(shift=0.0, scale=0.0, rotation=0.0, flip_probability=0.0)
COLORS = Augmentation(hue=20.0, saturation=0.3, value=0.2, brightness=0.1, contrast=0.2)
AUGMENTATIONS = pytest.mark.parametrize(
    "augmentation", [NONE, Augmentation(), COLORS], ids=["none", "warp", "colors"]
)


def _training(
    architecture: str = "unet_small", size: tuple[int, int] = (32, 48), **switches: Any
) -> Training:
    recipe = Recipe(
        architecture=architecture,
        input_size=size,
        batch_size=3,
        epochs=1,
        optimizer={"name": "adamw", "learning_rate": 0.01},
    )
    hardware = Hardware.choose("cpu", "float32", **switches)
    network = build_network(architecture, width_multiplier=1 / 8)
    return build_training(recipe, network, Geometry.of(network, size), hardware, steps_per_epoch=1)


def _batch(height: int = 32, width: int = 48, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return images and targets as they come from a cache: parts of the same rows."""
    random = np.random.default_rng(0).integers(0, 256, (3, height * width * 4), np.uint8)
    rows = torch.from_numpy(random).to(device)
    end = height * width * 3
    return rows[:, :end].unflatten(1, (height, width, 3)), rows[:, end:].unflatten(1, (height, width))


def _is_channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)


@AUGMENTATIONS
@pytest.mark.parametrize("channels_last", [True, False])
def test_images_have_the_layout_of_the_weights(augmentation: Augmentation, channels_last: bool) -> None:
    run = _training(channels_last=channels_last)
    run.augmentation = augmentation
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, _ = run.augmented(torch.arange(3), *_batch())
    assert images.is_contiguous(memory_format=layout)
    received: list[Tensor] = []
    run.network.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    evaluated, _ = run.tensors(*_batch())
    run.predict(run.network, images)
    run.predict(run.network, evaluated)
    assert all(part.is_contiguous(memory_format=layout) for part in received)
    assert torch.equal(received[0], images)
    assert torch.equal(received[1], evaluated)


def test_padded_images_have_the_layout_of_the_weights_too() -> None:
    run = _training("unet_original", (188, 188))
    received: list[Tensor] = []
    run.network.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    run.predict(run.network, run.tensors(*_batch(4, 4))[0])
    assert _is_channels_last(received[0])
    assert received[0].shape == (3, 3, 188, 188)


def test_a_batch_is_scaled_to_one() -> None:
    images, targets = _batch()
    scaled = _training().tensors(images, targets)
    assert torch.equal(scaled[0], images.permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(scaled[1], targets.float() / 255)


class Large(TorchDispatchMode):
    """Counts the operations that write a tensor of at least one value per pixel."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels, self.names = pixels, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = isinstance(result, Tensor) and result.numel() >= self.pixels
        if made and not func.is_view and "empty" not in str(func):
            self.names.append(str(func))
        return result


def test_a_warp_takes_twelve_operations_on_pixels() -> None:
    run, batch = _training(), _batch()
    with Large(3 * 32 * 48) as large:
        run.augmented(torch.arange(3), *batch)
    assert len(large.names) <= 12, large.names


@AUGMENTATIONS
def test_on_a_pretended_gpu_nothing_waits_and_images_are_channels_last(augmentation: Augmentation) -> None:
    draws = augmentation.draw(0, 1, range(3))
    with FakeTensorMode(allow_non_fake_inputs=True):  # reading a value of its tensors is an error
        images, targets = _augmented(
            augmentation, *_batch(device="cuda"), draws.to("cuda"), torch.channels_last
        )
        assert images.is_cuda
        assert targets.is_cuda
        assert _is_channels_last(images)


@AUGMENTATIONS
def test_the_augmentation_is_one_graph(augmentation: Augmentation) -> None:
    compiled = torch.compile(_augmented, dynamic=False, fullgraph=True, backend="aot_eager")
    draws = augmentation.draw(0, 1, range(3))
    expected = _augmented(augmentation, *_batch(), draws, torch.channels_last)
    found = compiled(augmentation, *_batch(), draws, torch.channels_last)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert one.stride() == other.stride()


@pytest.mark.slow  # compiling for the CPU takes a minute
@AUGMENTATIONS
def test_a_compiled_augmentation_agrees_to_rounding(augmentation: Augmentation) -> None:
    results = []
    for compiles in (False, True):
        run = _training(compile=compiles)
        run.augmentation = augmentation
        results.append(run.augmented(torch.arange(3), *_batch()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert one.stride() == other.stride()
