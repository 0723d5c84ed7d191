"""Shapes on a panel cover what their definitions say, over the whole panel."""

import cv2
import numpy as np
import pytest

from carvana_kedro.studio.canvas import CEILING, SCALE, Panel, grown, rounded

PANEL = Panel(-1.0, 2.0)


def scattered(*corners: tuple[int, int]) -> np.ndarray:
    coverage = np.zeros(PANEL.cover.shape, np.float32)
    for row, column in corners:
        coverage[row : row + 30, column : column + 40] = 1
    return coverage


@pytest.mark.parametrize(("x", "z"), [(0.1, 1.0), (-0.98, 0.02), (0.9, 2.05), (3.0, 1.0)])
def test_a_disc_covers_the_texels_within_its_radius(x: float, z: float) -> None:
    rows, columns = np.indices(PANEL.cover.shape)
    across, up = -1.0 + (columns + 0.5) / SCALE, CEILING - (rows + 0.5) / SCALE
    expected = np.clip((0.2 - np.hypot(across - x, up - z)) * SCALE + 0.5, 0, 1)
    np.testing.assert_allclose(PANEL.disc(x, z, 0.2), expected, atol=1e-4)


@pytest.mark.parametrize("corners", [[(200, 100)], [(0, 0)], [(490, 460), (100, 3)], []])
def test_only_the_surroundings_of_shapes_are_rounded_and_grown(corners: list[tuple[int, int]]) -> None:
    coverage = scattered(*corners)
    soft = cv2.GaussianBlur(coverage, (0, 0), 0.02 * SCALE)
    expected = np.clip((soft - 0.5) * 0.02 * SCALE * 2.2 + 0.5, 0, 1)
    np.testing.assert_allclose(rounded(coverage, 0.02), expected, atol=1e-5)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    np.testing.assert_array_equal(grown(coverage, 0.016), cv2.dilate(coverage, disc))


def test_paint_hides_what_is_below_it() -> None:
    panel = Panel(-1.0, 2.0)
    panel.paint(np.ones((1, 1), np.float32), (0.25, 0.5, 0.75))
    half = 0.5 * scattered((200, 100))
    panel.paint(half, (0.75, 0.5, 0.25), metal=1.0)
    np.testing.assert_array_equal(panel.color[:, 210, 110], (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(panel.color[:, 10, 10], (0.25, 0.5, 0.75))
    np.testing.assert_array_equal(panel.metal, half)
    assert (panel.cover == 1).all()
