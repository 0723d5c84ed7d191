import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.bodies import design_car
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.surfaces import wrap_body
from carvana_kedro.studio.variety.paint import mix_paint, second_tone

SETTINGS = StudioSettings()
FINISHES = [mix_paint(generator(SETTINGS, number)) for number in range(300)]


def test_paints_are_colors_and_the_common_ones_are_common() -> None:
    paints = np.array([finish.paint for finish in FINISHES])
    assert paints.min() >= 0
    assert paints.max() <= 1
    assert 0.15 < (paints.min(1) > 0.5).mean() < 0.45  # white
    assert 0.12 < (paints.max(1) < 0.02).mean() < 0.35  # black
    assert 0.1 < (paints.max(1) > 2 * paints.min(1) + 0.03).mean() < 0.5  # colored


@pytest.mark.parametrize(
    ("region", "low", "high"),
    [
        ("roof", 0.02, 0.5),
        ("hood", 0.02, 0.4),
        ("lower", 0.1, 0.6),
        ("upper", 0.2, 0.8),
        ("stripes", 0.02, 0.4),
    ],
)
def test_a_second_color_covers_part_of_the_body(region: str, low: float, high: float) -> None:
    finish = next(finish for finish in FINISHES if finish.region == region)
    car = design_car(SETTINGS, 0)
    body = wrap_body(car)
    points, normals = (tuple(np.moveaxis(grid, -1, 0)) for grid in (body.points, body.normals))
    found = second_tone(finish, car, points, normals)
    assert found is not None
    assert low < found.mean() < high


def test_a_body_of_one_color_has_no_second() -> None:
    plain = next(finish for finish in FINISHES if finish.region is None)
    assert second_tone(plain, design_car(SETTINGS, 0), (), ()) is None
