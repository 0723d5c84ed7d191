import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.pipelines.reporting.report import charts
from carvana_kedro.pipelines.reporting.report.charts import Axis
from carvana_kedro.results.summary import RunSummary

NUMBERS = st.floats(-1e6, 1e6).map(lambda number: round(number, 4))


@given(values=st.lists(NUMBERS, min_size=1, max_size=20))
def test_an_axis_holds_its_values_between_two_ticks(values: list[float]) -> None:
    axis = Axis.over(values, 0, 300)
    ticks = [position for position, _ in axis.ticks]
    assert ticks[0] == 0 and ticks[-1] == 300
    assert 2 <= len(ticks) <= 8
    assert len({label for _, label in axis.ticks}) == len(ticks)
    assert all(-0.1 <= axis.at(value) <= 300.1 for value in values)


@given(first=st.integers(0, 1000), count=st.integers(1, 1000))
def test_an_axis_of_numbers_labels_whole_numbers(first: int, count: int) -> None:
    axis = Axis.of_numbers(range(first, first + count), 0, 300)
    labels = [int(label) for _, label in axis.ticks]
    assert labels and set(labels) <= set(range(first, first + count))
    assert [axis.at(label) for label in labels] == [position for position, _ in axis.ticks]


def test_an_axis_without_finite_values_can_be_drawn() -> None:
    assert Axis.over([math.nan, math.inf], 0, 100).ticks[0] == (0.0, "0.0")


def _history(epochs: int) -> pd.DataFrame:
    numbers = range(1, epochs + 1)
    return pd.DataFrame(
        {"epoch": numbers, "train_loss": [1 / n for n in numbers], "val_loss": [2 / n for n in numbers]}
    )


def test_a_learning_curve_has_a_line_per_fold_and_side() -> None:
    one = charts.learning_curve(_history(3), "loss", "Loss")
    assert [line.kind for line in one.lines] == ["train", "validation"]
    assert one.description == "Loss over 3 epochs; at the end 0.3333 in training and 0.6667 in validation."
    folds = pd.concat([_history(3).assign(fold=0), _history(3).assign(fold=1)])
    two = charts.learning_curve(folds, "loss", "Loss")
    assert [line.kind for line in two.lines] == ["train", "train", "validation", "validation"]
    assert len(charts.learning_curve(_history(1), "loss", "Loss").lines[0].pieces[0]) == 1


def test_a_line_has_a_gap_where_the_loss_is_not_finite() -> None:
    history = _history(5)
    history.loc[2, "train_loss"] = math.nan
    train, validation = charts.learning_curve(history, "loss", "Loss").lines
    assert [len(piece) for piece in train.pieces] == [2, 2]
    assert [len(piece) for piece in validation.pieces] == [5]


def test_the_best_threshold_is_within_the_chart_wherever_it_is() -> None:
    curve = pd.DataFrame({"threshold": [n / 100 for n in range(100)]})
    curve["dice"] = 0.9 + curve["threshold"] / 10
    run = {"run_id": "run", "validation": {"threshold": 0.5}, "data_ingestion": {}}
    chart = charts.threshold_curve(RunSummary(run, pd.DataFrame(), curve, {}, SourceDescription(name="toys")))
    _, top, _, bottom = chart.frame
    points = [y for line in chart.lines for piece in line.pieces for _, y in piece]
    assert top <= min(points) and max(points) <= bottom


def test_long_lines_have_no_dots() -> None:
    short, long = (charts.learning_curve(_history(epochs), "loss", "Loss").lines[0] for epochs in (40, 41))
    assert short.dotted and not long.dotted


@given(dice=st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_bars_of_the_distribution_count_every_image(dice: list[float]) -> None:
    chart = charts.distribution(pd.Series(dice))
    heights = [bar.height for bar in chart.bars]
    bottom, top = chart.y_ticks[0], chart.y_ticks[-1]
    image = (bottom[0] - top[0]) / int(top[1])
    assert sum(heights) / image == pytest.approx(len(dice), abs=0.1 * len(dice))
    assert all(bar.top + bar.height == pytest.approx(bottom[0]) for bar in chart.bars)


def test_the_views_have_their_range_and_mean() -> None:
    table = pd.DataFrame({"view": [1, 3], "lowest": [0.8, 0.6], "mean": [0.9, 0.7], "highest": [1.0, 0.8]})
    chart = charts.views(table)
    assert [label for _, label in chart.x_ticks] == ["1", "3"]
    assert all(line.highest < line.mean < line.lowest for line in chart.ranges)
    many = pd.DataFrame({**dict.fromkeys(("lowest", "mean", "highest"), 0.9), "view": range(1, 17)})
    labels = charts.views(many).x_ticks
    assert [label for _, label in labels] == [str(number) for number in range(1, 17, 2)]
    assert chart.description == "Dice coefficient of 2 views. View 3 has the lowest mean, 0.7000."
