"""Varied images have exact masks, and each kind of variety acts alone."""

import cv2
import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings, render_view
from carvana_kedro.studio.render import set_up_shot
from carvana_kedro.studio.settings import KINDS
from carvana_kedro.studio.surfaces import ellipsoid
from carvana_kedro.studio.variety import VariedShot, build_varied_model
from carvana_kedro.studio.variety.cars.parts import Part

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


def test_the_mask_is_the_projected_car_with_its_parts() -> None:
    """The mask covers every point of the surfaces, and extends at most one pixel beyond them."""
    chosen = settings("shape+paint+walls+light")
    for car in range(6):
        shot = set_up_shot(chosen, car, 3)
        assert isinstance(shot, VariedShot)
        model = shot.varied.model
        surfaces = (model.body, *model.wheels, *model.mirrors, *(part.surface for part in shot.varied.parts))
        points = np.concatenate([surface.points.reshape(-1, 3) for surface in surfaces]).astype(np.float64)
        image = points @ shot.to_image[:, :3].T + shot.to_image[:, 3]
        pixels = np.round(image[:, :2] / image[:, 2:]).astype(int)
        inside = (pixels >= 0).all(1) & (pixels < (240, 160)).all(1)
        _, mask = render_view(chosen, car, 3)
        # Bars that are thinner than half a pixel are not in the mask.
        grown = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        assert grown[pixels[inside, 1], pixels[inside, 0]].mean() > 0.995
        rows, columns = np.nonzero(mask)
        low, high = pixels.min(0), pixels.max(0)
        assert columns.min() >= low[0] - 1 and columns.max() <= high[0] + 1
        assert rows.min() >= low[1] - 1 and rows.max() <= high[1] + 1


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
