import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.geometry import Geometry

IMAGE_SIZES = [(1280, 1918), (640, 959), (600, 400)]
NETWORKS = [("unet_original", (572, 572)), ("unet_original", (444, 572)), ("unet_small", (256, 384))]


def geometry_of(name, input_size):
    with torch.device("meta"):
        return Geometry.of(build_network(name), input_size)


def disc(size, center, radius):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2).astype(np.uint8)


def centroid(mask):
    return np.argwhere(mask).mean(axis=0)


def crop_to_center(images, size):
    top, left = (images.shape[-2] - size[0]) // 2, (images.shape[-1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize(("name", "input_size"), NETWORKS)
def test_image_target_and_restored_logits_line_up(name, input_size, image_size):
    """A perfect network, which marks the bright pixels in the center of its input, finds a disc where it is."""
    geometry = geometry_of(name, input_size)
    height, width = image_size
    true = disc(image_size, center=(0.35 * height, 0.7 * width), radius=0.15 * height)

    image = geometry.fit_image(np.repeat(true[..., None] * 255, 3, axis=2))
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    seen = crop_to_center(geometry.pad(images), geometry.output_size)[:, 0]
    target = torch.from_numpy(geometry.fit_mask(true))[None].float() / 255
    torch.testing.assert_close(seen, target, rtol=0, atol=1 / 255)

    restored = geometry.restore(seen - 0.5, image_size)[0].numpy() > 0
    assert np.abs(centroid(restored) - centroid(true)).max() < 0.1
    assert restored.sum() == pytest.approx(true.sum(), rel=0.01)


def test_a_network_of_valid_convolutions_is_aligned_with_its_target():
    """The gradient of a logit with respect to the image is centered on the pixel of the logit."""
    torch.manual_seed(0)
    network = build_network("unet_original", width_multiplier=1 / 32).eval()
    geometry = Geometry.of(network, (220, 252))
    images = torch.rand(1, 3, *geometry.output_size, requires_grad=True)
    row, column = 14, 40
    network(geometry.pad(images))[0, row, column].backward()
    weight = images.grad.abs().sum((0, 1))
    rows, columns = torch.meshgrid(*(torch.arange(length) for length in geometry.output_size), indexing="ij")
    seen = [(weight * axis).sum().item() / weight.sum().item() for axis in (rows, columns)]
    assert seen == pytest.approx([row, column], abs=4)


def test_the_output_size_is_that_of_the_network():
    assert geometry_of("unet_original", (572, 444)) == Geometry((572, 444), (388, 260))
    assert geometry_of("unet_small", [100, 200]) == Geometry((100, 200), (100, 200))


@pytest.mark.parametrize(("input_size", "output_size"), [((10, 10), (12, 10)), ((10, 10), (10, 7))])
def test_margins_must_be_equal_on_opposite_sides(input_size, output_size):
    with pytest.raises(ValueError, match="by an even number of pixels"):
        Geometry(input_size, output_size)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 20), st.integers(0, 20))
def test_pad_equals_the_reflection_of_numpy_for_any_margin(height, width, vertical, horizontal):
    images = torch.arange(2 * 3 * height * width).view(2, 3, height, width)
    geometry = Geometry((height + 2 * vertical, width + 2 * horizontal), (height, width))
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (vertical,) * 2, (horizontal,) * 2), mode="reflect")
    np.testing.assert_array_equal(geometry.pad(images).numpy(), expected)


def test_pad_without_a_margin_returns_its_input():
    images = torch.zeros(1, 3, 8, 8)
    assert Geometry((8, 8), (8, 8)).pad(images) is images


def test_a_target_is_the_covered_fraction_of_each_pixel():
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, 3:5] = True
    mask[0, 0] = True
    fitted = Geometry((2, 4), (2, 4)).fit_mask(mask)
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, [[64, 128, 128, 0], [0, 128, 128, 0]])
    np.testing.assert_array_equal(Geometry((2, 4), (2, 4)).fit_mask(mask.astype(np.uint8)), fitted)


def test_an_axis_that_shrinks_is_averaged_while_the_other_grows():
    image = np.zeros((2, 8, 3), dtype=np.uint8)
    image[:, ::2] = 200  # stripes: nearest or linear sampling would return one of their colors
    fitted = Geometry((4, 2), (4, 2)).fit_image(image)
    assert fitted.shape == (4, 2, 3)
    assert (fitted == 100).all()


def test_restore_interpolates_between_pixel_centers():
    logits = torch.tensor([[[0.0, 4.0]]])
    restored = Geometry((1, 2), (1, 2)).restore(logits, (1, 4))
    torch.testing.assert_close(restored, torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))


def test_restore_to_the_same_size_changes_nothing():
    logits = torch.randn(2, 5, 7)
    torch.testing.assert_close(Geometry((5, 7), (5, 7)).restore(logits, (5, 7)), logits)
