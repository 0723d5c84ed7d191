"""Faces cover the pixels that they should, and pixels do not depend on what else is drawn."""

import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.model import build_model
from carvana_kedro.studio.rasterize import _sample, extent, rasterize
from carvana_kedro.studio.render import Shot

SETTINGS = StudioSettings(width=480, height=320)


def planes(shot: Shot, wanted: np.ndarray | None) -> np.ndarray:
    """Return all values of the wheels' fragments as `(9, H * W)`, zero where there are none."""
    values = np.zeros((9, SETTINGS.height * SETTINGS.width), np.float32)
    for seen in rasterize(shot.model.wheels[0], shot.to_image, shot.size, wanted=wanted):
        rows = (seen.coverage, seen.row, seen.column, *seen.points, *seen.normals)
        values[:, seen.index] = np.concatenate(rows)
    return values


@pytest.mark.parametrize("view", [1, 3, 5])
def test_wanted_pixels_are_the_same_as_without_a_selection(view: int) -> None:
    shot = Shot(SETTINGS, build_model(SETTINGS, 1), 1, view)
    everything = planes(shot, None)
    assert everything[0].any()
    wanted = np.zeros(shot.size, bool)
    row = int(np.median(np.flatnonzero(everything[0]) // SETTINGS.width))
    wanted[row - 2 : row + 3] = True
    selected = planes(shot, wanted)
    assert selected[0].any()
    np.testing.assert_array_equal(selected, everything * wanted.reshape(-1))


def test_fragments_name_their_pixels() -> None:
    shot = Shot(SETTINGS, build_model(SETTINGS, 1), 1, 3)
    index = []
    for seen in rasterize(shot.model.body, shot.to_image, shot.size, stride=2):
        np.testing.assert_array_equal(seen.y[0] * SETTINGS.width + seen.x[0], seen.index)
        points = np.stack(seen.points, -1)[0].astype(np.float64)
        image = points @ shot.to_image[:, :3].T + shot.to_image[:, 3]
        distance = image[:, :2] / image[:, 2:] - np.stack((seen.x[0], seen.y[0]), -1)
        assert np.median(np.abs(distance)) < 0.1
        index.append(seen.index)
    pixels = np.concatenate(index)
    assert len(np.unique(pixels)) == len(pixels) > 16384  # more than one chunk


def test_a_surface_outside_the_image_has_no_pixels() -> None:
    shot = Shot(SETTINGS, build_model(SETTINGS, 1), 1, 3)
    beside = np.array([[1, 0, 5 * SETTINGS.width], [0, 1, 0], [0, 0, 1]]) @ shot.to_image
    for wanted in (None, np.ones(shot.size, bool)):
        assert list(rasterize(shot.model.body, beside, shot.size, wanted=wanted)) == []


def test_no_wanted_pixels_give_no_fragments() -> None:
    shot = Shot(SETTINGS, build_model(SETTINGS, 1), 1, 3)
    nothing = np.zeros(shot.size, bool)
    assert list(rasterize(shot.model.body, shot.to_image, shot.size, wanted=nothing)) == []


def test_samples_are_counted_and_the_center_decides() -> None:
    seen = np.random.default_rng(0).integers(0, 4, (15, 12), dtype=np.uint16) * 100
    seen *= np.random.default_rng(1).random(seen.shape) < 0.3
    covered, face = _sample(seen)
    for row in range(5):
        for column in range(4):
            block = seen[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert covered[row, column] == np.count_nonzero(block)
            assert face[row, column] == (block[1, 1] or block.max())


def test_the_extent_is_where_the_coverage_is_not_zero() -> None:
    coverage = np.zeros((20, 30), np.float32)
    assert extent(coverage) == (slice(0, 0), slice(0, 0))
    coverage[3, 5], coverage[7, 28] = 0.1, 1e-30
    assert extent(coverage) == (slice(3, 8), slice(5, 29))
    assert extent(coverage, 4) == (slice(0, 12), slice(1, 30))
