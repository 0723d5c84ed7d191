import numpy as np
import pytest

from carvana_kedro.segmentation.monitoring import plots


def test_a_threshold_curve_marks_the_best_and_the_used_threshold() -> None:
    thresholds = np.arange(1, 100) / 100
    dice = 0.99 - (thresholds - 0.3) ** 2
    result = plots.threshold_curve(thresholds, dice, best=0.3, used=0.7)
    assert result.shape == (640, 960, 3)
    positions = {}
    for name, color in (
        ("best", plots.BEST),
        ("used", plots.USED),
        ("curve", plots.CURVE),
    ):
        rows, columns = np.nonzero((result[130:520] == color).all(2))
        positions[name] = np.median(rows), np.median(columns)
        assert len(rows) > 800, name
    # The x axis maps [0, 1] to 800 pixels.
    assert positions["used"][1] - positions["best"][1] == pytest.approx(0.4 * 800, abs=2)
    best, used = (
        np.nonzero((result[130:520, round(128 + 800 * threshold)] == plots.CURVE).all(1))[0].mean()
        for threshold in (0.25, 0.65)
    )
    assert best < used  # a smaller row is higher up


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_threshold_curve_can_be_drawn(value: float) -> None:
    result = plots.threshold_curve(np.arange(1, 100) / 100, np.full(99, value), best=0.5, used=0.5)
    assert (result == plots.CURVE).all(2).any()


def test_the_axis_of_a_threshold_curve_is_that_of_the_middle_thresholds() -> None:
    thresholds = np.arange(1, 100) / 100
    dice = 0.98 - (thresholds - 0.5) ** 2 / 20
    plain = plots.threshold_curve(thresholds, dice, best=0.5, used=0.4)
    dice[[0, -1]] = 0.0  # left out
    steep = plots.threshold_curve(thresholds, dice, best=0.5, used=0.4)
    middle = np.s_[:, 128 + 40 : 128 + 760]
    assert (steep[middle] == plain[middle]).all()
    below = np.s_[540:, :]
    assert not (steep[below] == plots.CURVE).all(2).any()
    # A marked threshold is on the curve, wherever it is.
    dice[:] = np.linspace(0.5, 0.99, 99)
    for best, used in ((0.99, 0.5), (0.5, 0.01)):
        marked = plots.threshold_curve(thresholds, dice, best, used)
        color = plots.BEST if best > 0.9 else plots.USED
        rows = np.argwhere((marked[100:] == color).all(2))[:, 0] + 100
        assert rows.min() >= 108 and rows.max() <= 548


def test_a_used_threshold_that_is_the_best_is_marked_once() -> None:
    thresholds = np.arange(1, 100) / 100
    result = plots.threshold_curve(thresholds, 0.99 - (thresholds - 0.5) ** 2, best=0.5, used=0.5)
    assert (result == plots.BEST).all(2).any()
    assert not (result == plots.USED).all(2).any()


def _pixels(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return the rows and columns of pixels that are nearly of a color, below the legend."""
    near = np.abs(image.astype(int) - color).max(axis=2) < 12
    near[:75] = False
    return np.argwhere(near)


def test_learning_curves_have_a_panel_for_each_quantity_and_a_color_for_each_side() -> None:
    epochs = np.arange(1, 9)
    training, validation = 1 / epochs, 1 / epochs + 0.5
    result = plots.learning_curves(
        {
            "Loss": ([(epochs, training)], [(epochs, validation)]),
            "Dice coefficient": ([(epochs, 1 - training)], []),
        }
    )
    assert result.shape == (400, 1200, 3)
    left, right = result[:, :600], result[:, 600:]
    lower, higher = _pixels(left, plots.TRAINING), _pixels(left, plots.VALIDATION)
    assert lower[:, 0].mean() > higher[:, 0].mean()  # a larger row is further down
    assert len(_pixels(right, plots.TRAINING)) > 300
    assert not len(_pixels(right, plots.VALIDATION))
    # Both curves fall from the left end of the axis to its right end.
    for pixels in (lower, higher):
        assert np.ptp(pixels[:, 1]) == pytest.approx(500, abs=12)
        assert pixels[pixels[:, 1].argmin(), 0] < pixels[pixels[:, 1].argmax(), 0]


def test_every_fold_has_curves() -> None:
    epochs = np.arange(1, 4)
    one = plots.learning_curves({"Loss": ([(epochs, epochs * 0.1)], [])})
    two = plots.learning_curves({"Loss": ([(epochs, epochs * 0.1), (epochs, 0.4 - epochs * 0.1)], [])})
    assert len(_pixels(two, plots.TRAINING)) > 1.5 * len(_pixels(one, plots.TRAINING))


@pytest.mark.parametrize("values", [[0.5], [float("nan")], [float("nan"), 0.5, float("inf")], [2.0, 2.0]])
def test_values_that_are_not_finite_are_left_out_of_learning_curves(values: list[float]) -> None:
    curve = np.arange(1, len(values) + 1), np.array(values)
    result = plots.learning_curves({"Loss": ([curve], [])})
    assert bool(len(_pixels(result, plots.TRAINING))) == bool(np.isfinite(values).any())


def test_a_long_training_has_few_ticks() -> None:
    epochs = np.arange(1, 501)
    short, long = (
        plots.learning_curves({"Loss": ([(epochs[:last], 1 / epochs[:last])], [])}) for last in (8, 500)
    )
    labels = [(image[345:370] < 100).all(axis=2).sum() for image in (short, long)]
    assert labels[0] < labels[1] < 5 * labels[0]
