import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.camera import distort, vary_camera


@settings(deadline=None)
@given(strength=st.floats(-0.08, 0.08), width=st.integers(20, 90), height=st.integers(20, 90))
def test_a_bent_image_needs_no_point_outside(strength: float, width: int, height: int) -> None:
    """Bent coordinates grow everywhere: points outside would repeat the border."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    bent_x, bent_y = distort(strength, [x, y])
    assert np.diff(bent_x, axis=1).min() > 0.7
    assert np.diff(bent_y, axis=0).min() > 0.7
    np.testing.assert_allclose(bent_x, width - 1 - bent_x[:, ::-1], atol=0.05)


def test_without_strength_nothing_moves() -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 46, 3)).astype(np.uint8)
    np.testing.assert_array_equal(distort(0.0, [image])[0], image)


@pytest.mark.parametrize(("strength", "sign"), [(0.08, 1), (-0.08, -1)])
def test_above_zero_a_line_bends_outward_as_in_a_barrel(strength: float, sign: int) -> None:
    """An upright line on the right is farther right in the middle than at the top, below zero less far."""
    image = np.zeros((200, 300), np.float32)
    image[:, 250] = 1
    bent = distort(strength, [cv2.GaussianBlur(image, (0, 0), 2)])[0]
    assert sign * (int(bent[100].argmax()) - int(bent[2].argmax())) >= 2


def test_cameras_look_at_the_car() -> None:
    studio = StudioSettings(width=480, height=320)
    for number in range(40):
        camera = vary_camera(studio, generator(studio, number))
        pixel, depth = camera.project(np.array([0, 0, 0.8]))
        assert depth > 4
        assert abs(pixel[0] - 240) < 120 and abs(pixel[1] - 160) < 90
        ray = camera.to_ray @ (*pixel, 1)
        toward = np.array([0, 0, 0.8]) - camera.position
        np.testing.assert_allclose(ray / np.linalg.norm(ray), toward / np.linalg.norm(toward), atol=1e-6)
