import numpy as np

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.bodies import design_car
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.shadow import Shade, Shadow, vary_shadow

SETTINGS = StudioSettings()
CAR = design_car(SETTINGS, 0)


def test_shadows_are_fractions_and_fade_out_around_the_car() -> None:
    for number in range(40):
        light = vary_shadow(generator(SETTINGS, number)).below(CAR)
        assert 0 < light.min() <= light.max() <= 1 + 1e-6
        border = np.concatenate((light[0], light[-1], light[:, 0], light[:, -1]))
        assert border.min() > 0.9


def test_the_floor_below_a_car_is_anything_from_nearly_black_to_bright() -> None:
    shadows = [vary_shadow(generator(SETTINGS, number)).below(CAR) for number in range(100)]
    middle = np.array([light[light.shape[0] // 2, light.shape[1] // 2] for light in shadows])
    assert (middle < 0.1).sum() > 10
    assert (middle > 0.4).sum() > 10


def test_a_hard_shadow_has_the_outline_of_the_car_and_moves_with_its_lamp() -> None:
    widths = []
    for offset in ((0.0, 0.0), (0.0, 0.5)):
        shade = Shade(0.8, 0.01, 0.0, offset)
        light = Shadow((shade,), np.zeros((0, 6)), (0.0, 0.05), 0.0).below(CAR)
        rows, columns = np.nonzero(light < 0.6)
        widths.append(np.ptp(rows) / 50)
        assert abs(np.ptp(columns) / 50 - CAR.length) < 0.06
        assert abs((rows.mean() - (light.shape[0] - 1) / 2) / 50 - offset[1]) < 0.02
    np.testing.assert_allclose(widths, CAR.width, atol=0.06)
