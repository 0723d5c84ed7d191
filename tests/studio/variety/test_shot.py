"""Varied images have exact masks, and each kind of variety acts alone."""

import dataclasses
from itertools import pairwise

import cv2
import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings, render_view
from carvana_kedro.studio.lighting import SHADOW_SCALE
from carvana_kedro.studio.rasterize import rasterize
from carvana_kedro.studio.render import set_up_shot
from carvana_kedro.studio.settings import KINDS
from carvana_kedro.studio.surfaces import Surface, ellipsoid
from carvana_kedro.studio.variety import VariedShot, build_varied_model
from carvana_kedro.studio.variety.cars.parts import STRIDE, Part

SIZE = {"width": 240, "height": 160}
ALL = StudioSettings(**SIZE, variety="all")


def settings(variety: str) -> StudioSettings:
    return StudioSettings(**SIZE, variety=variety)


def test_rendering_gives_an_image_and_a_mask_and_is_deterministic() -> None:
    image, mask = render_view(ALL, 3, 2)
    assert (image.shape, image.dtype) == ((160, 240, 3), np.uint8)
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((160, 240), np.uint8, {0, 1})
    render_view(ALL, 5, 1)
    build_varied_model.cache_clear()
    for left, right in zip(render_view(ALL, 3, 2), (image, mask), strict=True):
        np.testing.assert_array_equal(left, right)


def test_cars_views_and_seeds_differ() -> None:
    shots = [render_view(ALL, car, view)[0] for car, view in ((0, 1), (0, 2), (1, 1))]
    shots.append(render_view(StudioSettings(**SIZE, variety="all", seed=1), 0, 1)[0])
    for index, image in enumerate(shots):
        assert all((image != other).mean() > 0.5 for other in shots[:index])


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone_changes_images(kind: str) -> None:
    plain, varied = render_view(settings("none"), 2, 3)[0], render_view(settings(kind), 2, 3)[0]
    assert (np.abs(plain.astype(int) - varied) > 8).mean() > 0.02


@pytest.mark.parametrize("kind", ["walls", "paint", "light"])
def test_kinds_without_geometry_keep_the_mask(kind: str) -> None:
    for view in (1, 4):
        _, plain = render_view(settings("none"), 2, view)
        np.testing.assert_array_equal(render_view(settings(kind), 2, view)[1], plain)


@pytest.mark.parametrize(
    ("alone", "without"), [("shape", "shape+paint+walls"), ("camera", "light+camera+paint+walls")]
)
def test_other_kinds_do_not_change_the_numbers_of_a_kind(alone: str, without: str) -> None:
    """The mask depends on shape and camera only."""
    np.testing.assert_array_equal(
        render_view(settings(alone), 4, 3)[1], render_view(settings(without), 4, 3)[1]
    )


def drawn(surface: Surface, shot: VariedShot, stride: int = 1) -> np.ndarray:
    """Draw each grid of a surface alone, with all its faces. Return which pixels it covers by half."""
    starts, found = (0, *surface.seams, len(surface.points)), np.zeros(shot.size, bool)
    for start, end in pairwise(starts):
        alone = Surface(surface.points[start:end], surface.normals[start:end])
        for seen in rasterize(alone, shot.to_image, shot.size, stride=stride):
            found.reshape(-1)[seen.index] |= seen.coverage[0] >= 0.5
    return found


def dilated(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


@pytest.mark.parametrize("car", range(8))
def test_the_mask_is_that_of_all_surfaces_drawn_one_by_one(car: int) -> None:
    """Nothing joins two parts, and no part loses a face."""
    chosen = StudioSettings(width=480, height=320, variety="shape+paint+walls+light")
    shot = set_up_shot(chosen, car, 3 + car)
    assert isinstance(shot, VariedShot)
    model = shot.varied.model
    mask = shot.render()[1] >= 0.5
    parts = [drawn(mirror, shot) for mirror in model.mirrors]
    parts += [drawn(part.surface, shot, STRIDE) for part in shot.varied.parts]
    body, *wheels = (drawn(surface, shot) for surface in (model.body, *model.wheels))
    assert not (mask & ~dilated(np.logical_or.reduce([body, *wheels, *parts]))).any()
    assert (np.logical_or.reduce(parts) & ~np.logical_or.reduce([body, *wheels]) & ~dilated(mask)).sum() <= 8
    # Between spokes, and between a wheel and its arch, there is a view through the body.
    assert (body & ~dilated(mask)).sum() < 0.04 * mask.sum()


def test_a_part_inside_the_body_is_hidden_and_one_beside_it_is_seen() -> None:
    chosen, shots = settings("shape"), []
    for offset in ((0.0, 0.0, 0.6), (0.0, 0.0, 2.4)):
        shot = set_up_shot(chosen, 2, 4)
        assert isinstance(shot, VariedShot)
        plain = set_up_shot(chosen, 2, 4)
        added = Part(ellipsoid((0.1, 0.1, 0.1)).moved(offset), (0.9, 0.0, 0.0))
        object.__setattr__(shot.varied, "parts", (*shot.varied.parts, added))
        with_part = shot.render()
        build_varied_model.cache_clear()
        assert isinstance(plain, VariedShot)
        object.__setattr__(plain.varied, "parts", plain.varied.parts[:-1])
        shots.append([(left != right).sum() for left, right in zip(with_part, plain.render(), strict=True)])
    (hidden, _), (seen, covered) = shots
    assert hidden < 60 < seen
    assert covered > 20


@pytest.mark.parametrize("car", range(6))
def test_the_tail_has_no_hole_in_the_middle(car: int) -> None:
    shot = set_up_shot(StudioSettings(width=480, height=320, variety="shape"), car, 9)
    coverage = shot.render()[1]
    x, y, depth = shot.to_image @ (*shot.model.body.points[-1, 0], 1)
    column, row = round(x / depth), round(y / depth)
    assert (coverage[row - 3 : row + 4, column - 3 : column + 4] == 1).all()


def test_the_edge_of_the_body_shows_the_part_behind_it() -> None:
    shot = set_up_shot(settings("shape"), 2, 4)
    assert isinstance(shot, VariedShot)
    place = (0, 0, 1.2) - 4 * shot.eye * (1, 1, 0) / np.hypot(*shot.eye[:2])
    ball = Part(ellipsoid((1.5, 1.5, 1.5)).moved(tuple(place)), (0.9, 0.0, 0.0))
    shot.varied = dataclasses.replace(shot.varied, parts=(ball,))
    covered = shot.render()[1] > 0.99
    within = cv2.erode(drawn(ball.surface, shot, STRIDE).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert within.sum() > 300
    assert covered[within].all()


def test_matt_paint_leaves_glass_as_it_is() -> None:
    shot, bodies = set_up_shot(settings("shape"), 2, 4), []
    for coat in (1.0, 0.0):
        shot.look = dataclasses.replace(shot.look, coat=coat)
        seen = rasterize(shot.model.body, shot.to_image, shot.size, stride=2)
        bodies.append([shot._shade_body(part) for part in seen])
    for glossy, matt in zip(*bodies, strict=True):
        same = (glossy.pixels == matt.pixels).all(-1)
        assert same[glossy.glass == 1].all()
    assert not all((glossy.pixels == matt.pixels).all() for glossy, matt in zip(*bodies, strict=True))


@pytest.mark.parametrize("view", [1, 4, 9])
def test_a_shadow_that_reaches_behind_the_camera_is_whole(view: int) -> None:
    """Each pixel has the light of the point of the floor that it shows."""
    shot = set_up_shot(settings("camera"), 0, view)
    shadow = np.linspace(0.2, 0.9, 1300, dtype=np.float32)[:, None] * np.ones(1300, np.float32)
    shot._shadow = lambda: shadow  # type: ignore[method-assign]
    shot.image = np.full((*shot.size, 3), 255, np.uint8)
    shot._cast_shadow()
    x, y = np.meshgrid(np.arange(shot.size[1]), np.arange(shot.size[0]))
    to_floor = np.linalg.inv(shot.to_image[:, [0, 1, 3]])
    along, across, scale = np.moveaxis(np.dstack((x, y, np.ones_like(x))) @ to_floor.T, -1, 0)
    u, v = (
        (place / scale * SHADOW_SCALE + size / 2 - 0.5).astype(np.float32)
        for place, size in ((along, shadow.shape[1]), (across, shadow.shape[0]))
    )
    light = cv2.remap(shadow, u, v, cv2.INTER_LINEAR, borderValue=1.0)
    light[scale < 0] = 1  # above the horizon
    assert np.abs(shot.image[..., 0] - 255 * light).max() < 6


def test_the_lens_bends_image_and_mask_alike() -> None:
    """A car brighter than everything else is still where its mask is."""
    for view in range(1, 9):
        shot = set_up_shot(settings("camera"), 1, view)
        original = shot._compose

        def paint_white(shot: object = shot, compose: object = original) -> None:
            compose()  # type: ignore[operator]
            covered = shot.coverage.reshape(shot.size)[..., None]  # type: ignore[attr-defined]
            shot.image[:] = 30 + 190 * covered  # type: ignore[attr-defined]

        shot._compose = paint_white  # type: ignore[method-assign]
        image, coverage = shot.render()
        bright, mask = image.mean(-1) > 110, coverage >= 0.5
        assert 2 * (bright & mask).sum() / (bright.sum() + mask.sum()) > 0.985


@pytest.mark.parametrize("size", [(96, 64), (241, 161), (300, 400), (640, 200)])
def test_images_of_any_size_show_a_car(size: tuple[int, int]) -> None:
    for view in (1, 5, 9):
        image, mask = render_view(StudioSettings(width=size[0], height=size[1], variety="all"), 0, view)
        assert image.shape[:2] == mask.shape == size[::-1]
        assert 0.01 < mask.mean() < 0.7


def test_masks_of_many_cars_have_plausible_sizes_and_are_connected() -> None:
    area = []
    for car in range(16):
        _, mask = render_view(ALL, car, 1 + car)
        _, _, statistics, _ = cv2.connectedComponentsWithStats(mask)
        assert statistics[1:, cv2.CC_STAT_AREA].max() >= 0.97 * mask.sum()
        area.append(mask.mean())
    assert min(area) > 0.05 and max(area) < 0.6
    assert 0.12 < np.mean(area) < 0.33
