import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.bodies import design_car
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.cars.bodies import Form, ShapedCar, shape_car
from carvana_kedro.studio.variety.cars.parts import STRIDE, attach_parts, tube
from carvana_kedro.studio.variety.cars.styles import ALL_STYLES, blend_style
from carvana_kedro.studio.variety.cars.wheels import _PATTERNS, Wheel, draw_tire

SETTINGS = StudioSettings()


def test_the_default_form_is_that_of_the_sample() -> None:
    plain = design_car(SETTINGS, 3)
    same = ShapedCar(**vars(plain), form=Form())
    points = generator(SETTINGS, 1).uniform((-2.5, -1, 0), (2.5, 1, 1.6), (500, 3)).T
    np.testing.assert_allclose(same.solid(*points), plain.solid(*points), atol=1e-6)


def test_blended_styles_are_drawable() -> None:
    for number in range(60):
        style = blend_style(generator(SETTINGS, number))
        line = np.array(style.roofline)
        assert line.shape[0] == 14
        assert (np.diff(line[:, 0]) > 0).all()
        assert 0.14 < line[4, 0] < 0.35  # the foot of the windscreen
        assert line[:, 1].max() == pytest.approx(1, abs=0.02)
        assert style.size[2] < 2.05  # the drawings of the sides are 2.1 m high


def test_cars_differ_in_size_and_kind() -> None:
    cars = [shape_car(SETTINGS, number) for number in range(80)]
    assert len({car.style.name for car in cars}) >= 6
    lengths = [car.length for car in cars]
    assert min(lengths) < 4.1
    assert max(lengths) > 5.6
    assert len(ALL_STYLES) == 20


def test_the_outside_of_a_tube_faces_outward() -> None:
    path = np.array(((0, 0, 0), (1, 0.2, 0), (2, 0, 0.5)), float)
    bar = tube(path, 0.1)
    points, normals = bar.points[::STRIDE], bar.normals[::STRIDE]
    away = points[1:-1] - path[:, None]
    np.testing.assert_allclose(np.linalg.norm(away, axis=-1), 0.1, atol=1e-5)
    np.testing.assert_allclose((away * normals[1:-1]).sum(-1), 0.1, atol=1e-5)
    down, around = points[2:-1, :-1] - points[1:-2, :-1], points[1:-2, 1:] - points[1:-2, :-1]
    assert ((np.cross(around, down) * normals[1:-2, :-1]).sum(-1) > 0).all()


def test_parts_touch_the_car() -> None:
    """All parts are near the body, and most cars have some."""
    count = 0
    for number in range(30):
        car = shape_car(SETTINGS, number)
        parts = attach_parts(car, generator(SETTINGS, number, 1))
        count += bool(parts)
        for part in parts:
            distance = car.solid(*np.moveaxis(part.surface.points.astype(float), -1, 0))
            assert distance.max() < 0.75
            assert part.surface.points[..., 2].min() > 0.02
            assert not any(seam % STRIDE for seam in part.surface.seams)
    assert count > 20


@pytest.mark.parametrize("pattern", _PATTERNS)
def test_rims_are_partly_open_and_tires_are_dark(pattern: str) -> None:
    color, metal = draw_tire(Wheel(0.65, 1.0, 0.0, pattern, 6, 0.8, 0.1), (0.42, 0.3, 0.2), 0.75)
    assert color.shape[:2] == metal.shape
    rim, tire = color[16 * 3 : 16 * 4], color[16 * 8 : 16 * 10]
    assert rim.max() > 120 > 60 > tire.max()
    assert rim.min() < 60
