import numpy as np
import pytest

from carvana_kedro.segmentation.monitoring import visualization

PREDICTION, TARGET = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
PREDICTION[10:30, 10:30] = TARGET[10:30, 20:40] = True


def test_agreement_has_one_color_per_case() -> None:
    result = visualization.agreement(PREDICTION, TARGET)
    assert tuple(result[20, 25]) == visualization.HIT
    assert tuple(result[20, 35]) == visualization.MISS
    assert tuple(result[20, 15]) == visualization.FALSE_ALARM
    assert not result[0, 0].any()


def test_an_overlay_changes_only_the_masked_area() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    result = visualization.overlay(image, TARGET)
    assert np.array_equal(result[~TARGET], image[~TARGET])
    assert (result[TARGET] != 200).any(axis=1).all()
    assert (image == 200).all()


def test_images_are_arranged_side_by_side_and_in_a_grid() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    result = visualization.comparison(image, PREDICTION, TARGET)
    assert result.shape == (40, 240, 3)
    assert np.array_equal(result[:, 180:], visualization.overlay(image, PREDICTION))
    caption = visualization.captioned(image, "name", width=120)
    assert caption.shape == (108, 120, 3)
    assert (caption[:28] < 100).any()
    sheet = visualization.grid([caption, image, image], columns=2)
    assert sheet.shape == (2 * 116, 2 * 128, 3)
    assert np.array_equal(sheet[116:156, :60], image)
    with pytest.raises(ValueError, match="at least one image"):
        visualization.grid([], 2)


def test_a_threshold_curve_marks_the_best_and_the_used_threshold() -> None:
    thresholds = np.arange(1, 100) / 100
    dice = 0.99 - (thresholds - 0.3) ** 2
    result = visualization.threshold_curve(thresholds, dice, best=0.3, used=0.7)
    assert result.shape == (640, 960, 3)
    positions = {}
    for name, color in (
        ("best", visualization.CAR),
        ("used", visualization.MISS),
        ("curve", visualization.FALSE_ALARM),
    ):
        rows, columns = np.nonzero((result[130:520] == color).all(2))
        positions[name] = np.median(rows), np.median(columns)
        assert len(rows) > 800, name
    # The x axis maps [0, 1] to 800 pixels.
    assert positions["used"][1] - positions["best"][1] == pytest.approx(0.4 * 800, abs=2)
    best, used = (
        np.nonzero((result[130:520, round(128 + 800 * threshold)] == visualization.FALSE_ALARM).all(1))[
            0
        ].mean()
        for threshold in (0.25, 0.65)
    )
    assert best < used  # a smaller row is higher up


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_threshold_curve_can_be_drawn(value: float) -> None:
    result = visualization.threshold_curve(np.arange(1, 100) / 100, np.full(99, value), best=0.5, used=0.5)
    assert (result == visualization.FALSE_ALARM).all(2).any()
