"""Images and masks match, and show cars on a turntable."""

import hashlib

import cv2
import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings, car_id, render_view
from carvana_kedro.studio.bodies import PAINTS, STYLES, design_car
from carvana_kedro.studio.model import build_model
from carvana_kedro.studio.render import Shot
from carvana_kedro.studio.scene import render_background

SETTINGS = StudioSettings(width=480, height=320)


def extents(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def test_rendering_gives_an_image_and_a_mask_and_is_deterministic() -> None:
    image, mask = render_view(SETTINGS, 3, 2)
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == (
        (320, 480, 3),
        np.uint8,
        (320, 480),
        np.uint8,
    )
    assert set(np.unique(mask)) == {0, 1}
    build_model.cache_clear()
    render_background.cache_clear()
    for left, right in zip(render_view(SETTINGS, 3, 2), (image, mask), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("shot", "digest", "colors"),
    [
        ((3, 2), "9cf262add28561af", (178.75, 176.43, 174.45, 141.33, 94.6, 123.59)),
        ((0, 5), "a7028c124cd12076", (171.67, 177.33, 172.75, 115.45, 121.4, 120.37)),
    ],
)
def test_images_are_those_of_this_version_of_the_studio(
    shot: tuple[int, int], digest: str, colors: tuple[float, ...]
) -> None:
    """Increase STUDIO_VERSION if this fails: `sample_folder` would hold other images.

    Masks are equal on all machines. Colors are not: OpenCV rounds differently with other vector instructions.
    """
    image, mask = render_view(StudioSettings(width=240, height=160), *shot)
    assert hashlib.sha256(mask.tobytes()).hexdigest()[:16] == digest
    thirds = cv2.resize(image.astype(np.float32), (3, 2), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(thirds.mean(-1).ravel(), colors, atol=0.1)


@pytest.mark.parametrize("size", [(96, 64), (241, 161), (300, 400), (640, 200)])
def test_images_of_any_size_show_a_car(size: tuple[int, int]) -> None:
    image, mask = render_view(StudioSettings(width=size[0], height=size[1]), 0, 3)
    assert image.shape[:2] == mask.shape == size[::-1]
    assert 0.02 < mask.mean() < 0.6


OUT_OF_RANGE = [(16, 1, "car must"), (-1, 1, "car must"), (0, 0, "view must"), (0, 17, "view must")]


@pytest.mark.parametrize(("car", "view", "message"), OUT_OF_RANGE)
def test_cars_and_views_out_of_range_are_rejected(car: int, view: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_view(SETTINGS, car, view)


def test_twelve_cars_include_every_style_and_the_common_paints() -> None:
    for seed in (1, 2017, 31):
        cars = [design_car(StudioSettings(seed=seed), car) for car in range(12)]
        assert {car.style for car in cars} == set(STYLES)
        assert {"white", "silver", "black", "gray"} <= {car.paint_name for car in cars}
    assert sum(share for _, share, _, _ in PAINTS) == pytest.approx(1)


def test_ids_are_distinct_and_not_in_order() -> None:
    ids = [car_id(SETTINGS, car) for car in range(SETTINGS.cars)]
    assert len(set(ids)) == len(ids)
    assert ids != sorted(ids)
    assert ids != [car_id(StudioSettings(seed=1), car) for car in range(SETTINGS.cars)]


def test_masks_agree_across_sizes() -> None:
    """The mask of a larger image, reduced in size, is the mask of the smaller image."""
    _, small = render_view(SETTINGS, 6, 2)
    _, large = render_view(StudioSettings(width=1440, height=960), 6, 2)
    reduced = cv2.resize(large.astype(np.float32), (480, 320), interpolation=cv2.INTER_AREA) >= 0.5
    assert 2 * (reduced & (small > 0)).sum() / (reduced.sum() + small.sum()) > 0.995


def test_mask_is_the_projected_body_and_wheels() -> None:
    """The mask covers every point of the surface, and extends at most one pixel beyond them."""
    model = build_model(SETTINGS, 4)
    shot = Shot(SETTINGS, model, 4, 3)
    surfaces = (model.body, *model.wheels, *model.mirrors)
    points = np.concatenate([surface.points.reshape(-1, 3) for surface in surfaces]).astype(np.float64)
    image = points @ shot.to_image[:, :3].T + shot.to_image[:, 3]
    pixels = np.round(image[:, :2] / image[:, 2:]).astype(int)
    _, mask = render_view(SETTINGS, 4, 3)
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    assert grown[pixels[:, 1], pixels[:, 0]].all()
    top, bottom, left, right = extents(mask)
    np.testing.assert_allclose([left, top], pixels.min(0), atol=1)
    np.testing.assert_allclose([right, bottom], pixels.max(0), atol=1)


def test_the_mask_includes_glass_that_shows_the_wall() -> None:
    """In a side view, some pixels inside the mask resemble the empty studio behind the car."""
    for car in range(SETTINGS.cars):
        if not design_car(SETTINGS, car).dark_glass:
            break
    image, mask = render_view(SETTINGS, car, 5)
    top, bottom, *_ = extents(mask)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
    inside[(top + bottom) // 2 :] = False
    behind = render_background(SETTINGS, car).astype(float)
    difference = np.abs(image * (behind[:40].mean() / image[:40].mean()) * 1.3 - behind).max(-1)
    assert (difference[inside] < 40).mean() > 0.1


def test_the_mask_excludes_the_shadow() -> None:
    """The floor below the car is darker than in the empty studio, and outside the mask."""
    image, mask = render_view(SETTINGS, 0, 5)
    _, bottom, left, right = extents(mask)
    middle = (left + right) // 2
    below = np.flatnonzero(mask[:, middle])[-1] + 3
    empty = render_background(SETTINGS, 0)
    assert below < bottom
    assert mask[below, middle] == 0
    assert image[below, middle].mean() < 0.6 * empty[below, middle].mean()


@pytest.mark.parametrize("views", [(5, 13), (3, 15), (7, 11)])
def test_opposite_views_have_similar_outlines(views: tuple[int, int]) -> None:
    for car in (0, 5):
        first, second = (render_view(SETTINGS, car, view)[1] for view in views)
        a, b = extents(first), extents(second)
        assert abs((a[3] - a[2]) - (b[3] - b[2])) < 0.12 * (a[3] - a[2])
        assert abs((a[1] - a[0]) - (b[1] - b[0])) < 0.12 * (a[1] - a[0])


def test_side_views_are_wider_than_front_views() -> None:
    for car in range(7):
        front, side = (extents(render_view(SETTINGS, car, view)[1]) for view in (1, 5))
        assert side[3] - side[2] > 1.4 * (front[3] - front[2])
