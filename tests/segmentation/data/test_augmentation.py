import math

import numpy as np
import pytest
import torch

from carvana_kedro.segmentation.data.augmentation import DRAWS, Augmentation

NO_WARP = {"shift": 0.0, "scale": 0.0, "rotation": 0.0, "flip_probability": 0.0}
COLORS = ("hue", "saturation", "value", "brightness", "contrast")
# Draws that give the lowest value of a range, no change, and the highest value.
LOW, NEUTRAL, HIGH = 0.0, 0.5, 1.0


def draws_of(**numbers):
    """Return the draws of one image; draws that are not given cause no change."""
    names = ("flip", "rotate", "angle", "scale", "right", "down", *COLORS)
    values = dict.fromkeys(names, NEUTRAL) | {"flip": 1.0, "rotate": 1.0} | numbers
    return torch.tensor([[values[name] for name in names]])


def disc(height, width, row, column, radius):
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return (radius + 0.5 - torch.hypot(rows - row, columns - column)).clamp(0, 1)[None]


def centroid(mask):
    rows, columns = torch.meshgrid(*(torch.arange(length) for length in mask.shape[1:]), indexing="ij")
    return [((mask[0] * axis).sum() / mask.sum()).item() for axis in (rows, columns)]


def as_images(masks):
    return masks[:, None].expand(-1, 3, -1, -1)


@pytest.fixture
def masks():
    return torch.rand(6, 20, 31, generator=torch.Generator().manual_seed(0))


def test_image_and_mask_are_warped_in_the_same_way(masks):
    images, changed = Augmentation().apply(as_images(masks), masks, Augmentation().draw(1, 2, range(6)))
    assert not torch.equal(changed, masks)
    for channel in range(3):
        assert torch.equal(images[:, channel], changed)


def test_draws_depend_only_on_seed_epoch_and_index():
    draw = Augmentation().draw
    whole = draw(7, 3, range(100))
    assert whole.shape == (100, DRAWS)
    assert whole.dtype == torch.float32
    assert torch.equal(draw(7, 3, [42, 5]), whole[[42, 5]])
    assert torch.equal(draw(7, 3, torch.tensor([42]).tolist()), whole[[42]])
    all_draws = torch.cat([whole, draw(7, 4, range(100)), draw(8, 3, range(100))])
    assert len(all_draws.unique(dim=0)) == 300
    assert draw(7, 3, []).shape == (0, DRAWS)


def test_draws_are_uniform_and_independent():
    draws = Augmentation().draw(0, 0, range(4000)).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(DRAWS), atol=0.08)


def test_the_change_of_an_image_does_not_depend_on_its_batch(masks):
    augmentation = Augmentation(hue=20, saturation=0.3, value=0.2, brightness=0.1, contrast=0.2)
    images = torch.rand(6, 3, 20, 31)
    whole = augmentation.apply(images, masks, augmentation.draw(1, 2, range(6)))
    again = augmentation.apply(images, masks, augmentation.draw(1, 2, range(6)))
    alone = augmentation.apply(images[3:4], masks[3:4], augmentation.draw(1, 2, [3]))
    for whole_part, again_part, alone_part in zip(whole, again, alone, strict=True):
        assert torch.equal(whole_part, again_part)
        torch.testing.assert_close(whole_part[3:4], alone_part)


def test_zero_ranges_and_neutral_draws_change_nothing(masks):
    images = torch.rand(6, 3, 20, 31)
    augmentation = Augmentation(**NO_WARP)
    assert all(
        map(
            torch.equal, augmentation.apply(images, masks, augmentation.draw(0, 0, range(6))), (images, masks)
        )
    )
    # Neutral draws do not change the image, even if the ranges are not 0.
    augmentation = Augmentation(hue=20, saturation=0.3, value=0.2, brightness=0.1, contrast=0.2)
    result = augmentation.apply(images, masks, draws_of().repeat(6, 1))
    torch.testing.assert_close(result, (images, masks), rtol=0, atol=1e-5)


def test_flip_is_horizontal(masks):
    augmentation = Augmentation(**NO_WARP | {"flip_probability": 1.0})
    images, flipped = augmentation.apply(as_images(masks), masks, augmentation.draw(0, 0, range(6)))
    torch.testing.assert_close(flipped, masks.flip(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(images, as_images(masks.flip(2)), rtol=0, atol=1e-5)


def test_shift_moves_right_and_down_by_a_fraction_of_the_image():
    mask = disc(60, 90, 20, 30, 8)
    augmentation = Augmentation(**NO_WARP | {"shift": 0.1})
    _, moved = augmentation.apply(as_images(mask), mask, draws_of(right=HIGH, down=HIGH))
    assert centroid(moved) == pytest.approx([26, 39], abs=0.05)
    _, moved = augmentation.apply(as_images(mask), mask, draws_of(right=LOW))
    assert centroid(moved) == pytest.approx([20, 21], abs=0.05)


@pytest.mark.parametrize(("draw", "factor"), [(LOW, 0.75), (HIGH, 1.25)])
def test_scaling_is_about_the_center(draw, factor):
    mask = disc(80, 120, 30, 75, 10)
    augmentation = Augmentation(**NO_WARP | {"scale": 0.25})
    _, scaled = augmentation.apply(as_images(mask), mask, draws_of(scale=draw))
    assert scaled.sum().item() == pytest.approx(factor**2 * mask.sum().item(), rel=0.02)
    assert centroid(scaled) == pytest.approx(
        [39.5 + factor * (30 - 39.5), 59.5 + factor * (75 - 59.5)], abs=0.05
    )


@pytest.mark.parametrize("degrees", [30.0, 45.0, 90.0])
def test_rotation_does_not_shear_images_that_are_not_square(degrees):
    mask = disc(100, 200, 49.5 - 12, 99.5 + 20, 10)
    augmentation = Augmentation(**NO_WARP | {"rotation": degrees, "rotation_probability": 1.0})
    _, rotated = augmentation.apply(as_images(mask), mask, draws_of(rotate=0.0, angle=HIGH))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    expected = [49.5 + cos * -12 + sin * 20, 99.5 + cos * 20 - sin * -12]
    assert centroid(rotated) == pytest.approx(expected, abs=0.05)
    rows, columns = (rotated[0] > 0.5).nonzero(as_tuple=True)
    assert rows.max() - rows.min() == columns.max() - columns.min()  # still a disc
    assert rotated.sum().item() == pytest.approx(mask.sum().item(), rel=0.02)


def test_flip_probability_is_the_fraction_of_flipped_images():
    masks = torch.zeros(2000, 1, 4)
    masks[:, :, 0] = 1
    augmentation = Augmentation(**NO_WARP | {"flip_probability": 0.3})
    _, flipped = augmentation.apply(as_images(masks), masks, augmentation.draw(0, 0, range(2000)))
    assert (flipped[:, 0, 3] > 0.5).float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_shapes_dtypes_and_ranges_are_kept():
    masks = (torch.rand(16, 40, 60) > 0.5).float()
    images = torch.rand(16, 3, 40, 60)
    augmentation = Augmentation(
        shift=0.3, scale=0.5, hue=180, saturation=1, value=1, brightness=1, contrast=1
    )
    changed = augmentation.apply(images, masks, augmentation.draw(5, 0, range(16)))
    for before, after in zip((images, masks), changed, strict=True):
        assert after.shape == before.shape
        assert after.dtype == torch.float32
        assert after.min() >= 0
        assert after.max() <= 1


@pytest.mark.parametrize("color", COLORS)
def test_color_changes_leave_the_mask_unchanged(masks, color):
    images = torch.rand(6, 3, 20, 31)
    augmentation = Augmentation(**NO_WARP, **{color: 0.5 if color != "hue" else 60.0})
    changed, same = augmentation.apply(images, masks, augmentation.draw(0, 0, range(6)))
    assert torch.equal(same, masks)
    assert not torch.allclose(changed, images)


def test_each_color_change_has_the_documented_effect():
    red = torch.tensor([0.9, 0.3, 0.3])[None, :, None, None].expand(1, 3, 2, 2)
    gray = torch.full((1, 3, 2, 2), 0.4)

    def change(image, color, limit, draw):
        augmentation = Augmentation(**NO_WARP, **{color: limit})
        return augmentation.apply(image, torch.zeros(1, 2, 2), draws_of(**{color: draw}))[0][
            0, :, 0, 0
        ].tolist()

    assert change(red, "hue", 120.0, HIGH) == pytest.approx([0.3, 0.9, 0.3], abs=1e-6)  # red becomes green
    assert change(red, "hue", 120.0, LOW) == pytest.approx([0.3, 0.3, 0.9], abs=1e-6)
    assert change(red, "saturation", 1.0, LOW) == pytest.approx([0.5, 0.5, 0.5])
    assert change(red, "value", 0.5, LOW) == pytest.approx([0.45, 0.15, 0.15])
    assert change(red, "brightness", 0.1, HIGH) == pytest.approx([1.0, 0.4, 0.4])
    assert change(red, "contrast", 0.5, LOW) == pytest.approx([0.7, 0.4, 0.4])
    for color in ("hue", "saturation", "contrast"):
        assert change(gray, color, 0.7, HIGH) == pytest.approx([0.4] * 3)


def test_autocast_does_not_change_the_warp(masks):
    """`affine_grid` would compute coordinates in bfloat16 here, which are off by whole pixels."""
    draws = Augmentation().draw(0, 0, range(6))
    expected = Augmentation().apply(as_images(masks), masks, draws)
    with torch.autocast("cpu", torch.bfloat16):
        result = Augmentation().apply(as_images(masks), masks, draws)
    assert all(map(torch.equal, result, expected))
