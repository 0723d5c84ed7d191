import numpy as np
import pytest

from carvana_kedro.segmentation.monitoring import visualization

PREDICTION, TARGET = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
PREDICTION[10:30, 10:30] = TARGET[10:30, 20:40] = True


def test_agreement_has_a_color_for_each_case() -> None:
    picture = visualization.agreement(PREDICTION, TARGET)
    assert tuple(picture[20, 25]) == visualization.HIT
    assert tuple(picture[20, 35]) == visualization.MISS
    assert tuple(picture[20, 15]) == visualization.FALSE_ALARM
    assert not picture[0, 0].any()


def test_an_overlay_changes_the_car_alone() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    picture = visualization.overlay(image, TARGET)
    assert np.array_equal(picture[~TARGET], image[~TARGET])
    assert (picture[TARGET] != 200).any(axis=1).all()
    assert (image == 200).all()


def test_pictures_are_set_side_by_side() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    picture = visualization.comparison(image, PREDICTION, TARGET)
    assert picture.shape == (40, 240, 3)
    assert np.array_equal(picture[:, 180:], visualization.overlay(image, PREDICTION))
    caption = visualization.captioned(image, "name", width=120)
    assert caption.shape == (108, 120, 3)
    assert (caption[:28] < 100).any()
    sheet = visualization.grid([caption, image, image], columns=2)
    assert sheet.shape == (2 * 116, 2 * 128, 3)
    assert np.array_equal(sheet[116:156, :60], image)
    with pytest.raises(ValueError, match="at least one picture"):
        visualization.grid([], 2)


def test_a_threshold_curve_marks_the_best_and_the_used_one() -> None:
    thresholds = np.arange(1, 100) / 100
    dice = 0.99 - (thresholds - 0.3) ** 2
    picture = visualization.threshold_curve(thresholds, dice, best=0.3, used=0.7)
    assert picture.shape == (640, 960, 3)
    places = {}
    for name, color in (
        ("best", visualization.CAR),
        ("used", visualization.MISS),
        ("curve", visualization.FALSE_ALARM),
    ):
        rows, columns = np.nonzero((picture[130:520] == color).all(2))
        places[name] = np.median(rows), np.median(columns)
        assert len(rows) > 800, name
    # 800 pixels of width for [0, 1]
    assert places["used"][1] - places["best"][1] == pytest.approx(0.4 * 800, abs=2)
    best, used = (
        np.nonzero((picture[130:520, round(128 + 800 * threshold)] == visualization.FALSE_ALARM).all(1))[
            0
        ].mean()
        for threshold in (0.25, 0.65)
    )
    assert best < used  # higher up


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_threshold_curve_can_be_drawn(value: float) -> None:
    picture = visualization.threshold_curve(np.arange(1, 100) / 100, np.full(99, value), best=0.5, used=0.5)
    assert (picture == visualization.FALSE_ALARM).all(2).any()
