import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.pipelines.reporting.report import scores

TABLE = pd.DataFrame(
    {
        "image": ["a_1", "a_2", "b_1", "b_2"],
        "car": ["a", "a", "b", "b"],
        "dice": [0.9, 0.7, 0.6, 0.8],
        "boundary_error": [1.0, 2.0, 3.0, 4.0],
    }
)


def test_views_and_cars_are_summarized() -> None:
    index = pd.DataFrame({"image": ["a_1", "a_2", "b_1", "b_2"], "view": [1, 2, 1, 0]})
    views = scores.by_view(TABLE, index)
    assert views[["view", "images", "lowest", "highest"]].to_numpy().tolist() == [
        [1, 2, 0.6, 0.9],
        [2, 1, 0.7, 0.7],
    ]
    assert scores.by_view(TABLE, index.assign(view=0)).empty
    cars = scores.by_car(TABLE)
    assert cars["car"].tolist() == ["b", "a"]
    assert cars["mean"].tolist() == pytest.approx([0.7, 0.8])
    assert cars["boundary_error"].tolist() == [3.5, 1.5]


def _curve(pixels: list[int], cars: list[int]) -> pd.DataFrame:
    """The threshold curve of numbers of pixels, and of pixels of the car, in the 100 hundredths."""
    reaching = [np.cumsum(counts[::-1])[::-1] for counts in (pixels, cars)]
    return pd.DataFrame(
        {"threshold": np.arange(100) / 100, "positive": reaching[0], "true_positive": reaching[1]}
    )


@given(pixels=st.lists(st.integers(0, 1000), min_size=100, max_size=100).filter(any), data=st.data())
def test_the_tenths_of_the_probability_hold_all_pixels(pixels: list[int], data: st.DataObject) -> None:
    cars = [data.draw(st.integers(0, count)) for count in pixels]
    bins = scores.reliability(_curve(pixels, cars))
    assert bins is not None
    assert bins["pixels"].sum() == pytest.approx(1)
    assert (bins["pixels"] * bins["share"]).sum() == pytest.approx(sum(cars) / sum(pixels))
    assert bins["share"].between(0, 1).all()
    assert (bins["probability"].between(bins["low"], bins["high"])).all()
    assert 0 <= scores.calibration_error(bins) <= 1


def test_right_probabilities_have_no_calibration_error() -> None:
    # Of 2000 pixels with a probability of about 0.505, 1010 belong to the car.
    bins = scores.reliability(_curve([2000] * 100, [10 * (2 * percent + 1) for percent in range(100)]))
    assert bins is not None
    assert len(bins) == 10
    assert scores.calibration_error(bins) == pytest.approx(0, abs=1e-9)
    wrong = scores.reliability(_curve([2000] * 100, [1000] * 100))
    assert wrong is not None
    assert scores.calibration_error(wrong) == pytest.approx(0.25)


def test_a_curve_without_numbers_of_pixels_has_no_reliability() -> None:
    assert scores.reliability(pd.DataFrame({"threshold": [0.5], "dice": [0.9]})) is None


def test_a_curve_that_lacks_rows_is_told() -> None:
    curve = pd.DataFrame({"threshold": [0.0, 0.01], "positive": [2, 1], "true_positive": [1, 1]})
    with pytest.raises(UserError, match="2 rows instead of 100"):
        scores.reliability(curve)
