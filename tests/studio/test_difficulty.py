"""The sample must be about as hard as the real competition: methods without learning must fail.

On the real training set, the best threshold on one color channel has a mean Dice of 0.56, the thresholded difference to
the per-pixel median image 0.65, and the best constant mask 0.75. These tests use all 192 training images of the default
settings, rendered at 480 x 320, which does not change their geometry and light.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings, render_view

Array = np.ndarray
SETTINGS = StudioSettings(width=480, height=320)


@pytest.fixture(scope="module")
def training_set() -> tuple[Array, Array]:
    """All training images `(N, 320, 480, 3)` uint8 and masks `(N, 320, 480)` bool."""
    shots = [(car, view) for car in range(SETTINGS.training_cars) for view in range(1, SETTINGS.views + 1)]
    images, masks = zip(*(render_view(SETTINGS, *shot) for shot in shots), strict=True)
    return np.stack(images), np.stack(masks).astype(bool)


def mean_dice(predictions: Array, masks: Array) -> float:
    """Return the mean over images of 2|X∩Y| / (|X|+|Y|); both `(N, H, W)` bool."""
    both = (predictions & masks).sum((1, 2))
    return float((2 * both / (predictions.sum((1, 2)) + masks.sum((1, 2)))).mean())


def best(candidates: Iterable[Array], masks: Array) -> float:
    return max(mean_dice(candidate, masks) for candidate in candidates)


def channel_baseline(images: Array, masks: Array) -> float:
    """Return the best score of a threshold on one color channel, for dark and for bright cars."""
    planes = [plane for channel in range(3) for plane in (images[..., channel], 255 - images[..., channel])]
    return best((plane < threshold for plane in planes for threshold in range(8, 250, 8)), masks)


def median_baseline(images: Array, masks: Array) -> float:
    """Return the best score of a threshold on the largest difference to the median image over all channels."""
    difference = np.abs(images - np.median(images, 0)).max(-1)
    return best((difference > threshold for threshold in range(4, 120, 4)), masks)


def constant_baseline(masks: Array) -> float:
    """Return the best score of one mask for all images: the mean mask above a threshold."""
    mean = masks.mean(0)
    return best((np.broadcast_to(mean > level, masks.shape) for level in np.arange(0.1, 0.9, 0.05)), masks)


def test_simple_baselines_fail_as_on_real_images(training_set: tuple[Array, Array]) -> None:
    images, masks = (part[:, ::2, ::2] for part in training_set)
    scores = {
        "channel": channel_baseline(images, masks),
        "median": median_baseline(images, masks),
        "constant": constant_baseline(masks),
    }
    print({name: round(score, 3) for name, score in scores.items()})  # noqa: T201
    assert scores["channel"] <= 0.65
    assert scores["median"] <= 0.75
    assert scores["constant"] <= 0.80


def test_masks_have_sizes_as_in_real_images(training_set: tuple[Array, Array]) -> None:
    area = training_set[1].mean((1, 2))
    print("foreground: min %.3f, mean %.3f, max %.3f" % (area.min(), area.mean(), area.max()))  # noqa: T201, UP031
    assert area.min() > 0.085
    assert area.max() < 0.42
    assert 0.19 < area.mean() < 0.24


def test_masks_are_connected(training_set: tuple[Array, Array]) -> None:
    for mask in training_set[1]:
        _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        assert statistics[1:, cv2.CC_STAT_AREA].max() >= 0.99 * mask.sum()


def test_outlines_are_visible(training_set: tuple[Array, Array]) -> None:
    """Along most of each outline there is contrast between car and studio."""
    kernel = np.ones((3, 3), np.uint8)
    for image, mask in zip(*training_set, strict=True):
        inner, outer = cv2.erode(mask.astype(np.uint8), kernel), cv2.dilate(mask.astype(np.uint8), kernel)
        brightest, darkest = cv2.dilate(image, kernel), cv2.erode(image, kernel)
        contrast = (brightest.astype(int) - darkest).max(-1)[outer > inner]
        assert (contrast > 12).mean() > 0.65
