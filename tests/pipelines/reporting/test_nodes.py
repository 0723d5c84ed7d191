from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Reporting
from carvana_kedro.pipelines.reporting.nodes import plot_learning_curves, score_submission, tabulate_scores
from carvana_kedro.pipelines.reporting.pictures import (
    draw_gallery,
    draw_learning_curves,
    draw_threshold_curve,
    preview_submission,
)
from carvana_kedro.pipelines.reporting.turntables import draw_turntables
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import write_submission
from carvana_kedro.stores.tables import Row
from finished_run import HISTORY
from models import RECIPE, blind, changed


def test_the_learning_curves_plot_the_history(model: TrainedModel) -> None:
    figure = plot_learning_curves(HISTORY, model)
    assert [list(trace.y) for trace in figure.data] == [[1.0, 0.5], [1.1, 0.6], [0.5, 0.8], [0.4, 0.7]]
    folds = plot_learning_curves(pd.concat([HISTORY.assign(fold=1), HISTORY.assign(fold=2)]), model)
    assert [list(trace.y) for trace in folds.data[:4]] == [[1.0, 0.5], [1.0, 0.5], [1.1, 0.6], [1.1, 0.6]]
    assert [trace.showlegend for trace in folds.data] == [True, False, True, False, *[False] * 4]


def test_the_score_table_has_one_row_per_measure(model: TrainedModel) -> None:
    scores = pd.DataFrame(
        {"image": ["a", "b", "c"], "car": ["x", "x", "y"], "dice": [0.9, 1.0, 0.5], "iou": [0.8, 1.0, 0.3]}
    )
    table = tabulate_scores(scores.assign(run_id="run"), model).set_index("measure")
    assert table.loc["dice"].to_dict() == {"mean": 0.8, "median": 0.9, "min": 0.5, "max": 1.0}
    assert list(table.index) == ["dice", "iou"]


def test_the_solution_has_a_perfect_score(
    archives: Path, test_images: ImageStore, predict: Callable[[Iterable[Row]], tuple[Any, ...]]
) -> None:
    solution = open_side(archives, archives, "solution")
    found = score_submission(*predict(solution), solution, test_images)
    assert found == {"run_id": "run", "images": 4, "dice": 1.0, "dice_std": 0.0, "lowest_dice": 1.0}
    (first, _), *others = solution
    found = score_submission(*predict([(first, ""), *others]), solution, test_images)
    assert found["lowest_dice"] == 0.0 and found["dice_std"] == pytest.approx(0.75**0.5 / 2)
    empty = [(image_id, "") for image_id, _ in solution]
    assert score_submission(*predict(empty), solution, test_images)["dice"] == 0
    assert score_submission(*predict(solution), [], test_images) == {
        "run_id": "run",
        "images": 0,
        "dice": None,
    }
    with pytest.raises(UserError, match="do not have the same images"):
        score_submission(*predict(solution[1:]), solution, test_images)


def test_results_of_another_run_are_not_reported(
    archives: Path,
    test_images: ImageStore,
    model: TrainedModel,
    predict: Callable[[Iterable[Row]], tuple[Any, ...]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    solution = open_side(archives, archives, "solution")
    submission, predictions, _ = predict(solution)
    later = changed(blind(model), run_id="later")
    table = pd.DataFrame({"image": ["a"], "car": ["x"], "epoch": 1, "dice": 0.5, "run_id": "run"})
    for report in (
        lambda: score_submission(submission, predictions, later, solution, test_images),
        lambda: score_submission(submission, predictions, later, [], test_images),
        lambda: preview_submission(submission, predictions, later, test_images, RECIPE, Reporting()),
        lambda: draw_turntables(submission, predictions, later, table, test_images, Reporting()),
    ):
        with pytest.raises(
            UserError, match=r"predicted with: run run, .*\n  used now: run later, .*\nPredict again"
        ):
            report()
    for report in (
        lambda: plot_learning_curves(table, later),
        lambda: tabulate_scores(table, later),
        lambda: draw_learning_curves(table, later),
        lambda: draw_threshold_curve(table, later),
        lambda: draw_gallery(later, table, test_images, RECIPE, Reporting()),
    ):
        with pytest.raises(UserError, match="belongs to run run, but the model to run later"):
            report()
    with pytest.raises(UserError, match="There is no model that validation_scores could belong to"):
        tabulate_scores(table, None)
    tabulate_scores(table.drop(columns="run_id"), later)
    assert "does not say which run it belongs to" in caplog.text
    write_submission(submission.folder, submission.name, solution[1:])
    with pytest.raises(UserError, match="does not have the rows of the predictions beside it"):
        score_submission(submission, predictions, model, solution, test_images)
