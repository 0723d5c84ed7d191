from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import ModelTraining, Reporting
from carvana_kedro.pipelines.reporting.nodes import (
    draw_gallery,
    plot_learning_curves,
    preview_submission,
    score_submission,
    tabulate_scores,
)
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictionShards, SubmissionFile, write_submission
from carvana_kedro.stores.tables import Row
from models import RECIPE, blind, changed


def test_the_learning_curves_plot_the_history(model: TrainedModel) -> None:
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_loss": [1.0, 0.5],
            "val_loss": [1.1, 0.6],
            "train_dice_coeff": [0.5, 0.8],
            "val_dice_coeff": [0.4, 0.7],
        }
    )
    figure = plot_learning_curves(history, model)
    assert [list(trace.y) for trace in figure.data] == [[1.0, 0.5], [1.1, 0.6], [0.5, 0.8], [0.4, 0.7]]
    folds = plot_learning_curves(pd.concat([history.assign(fold=1), history.assign(fold=2)]), model)
    assert [list(trace.y) for trace in folds.data[:4]] == [[1.0, 0.5], [1.0, 0.5], [1.1, 0.6], [1.1, 0.6]]
    assert [trace.showlegend for trace in folds.data] == [True, False, True, False, *[False] * 4]


def test_the_score_table_has_one_row_per_measure(model: TrainedModel) -> None:
    scores = pd.DataFrame(
        {"image": ["a", "b", "c"], "car": ["x", "x", "y"], "dice": [0.9, 1.0, 0.5], "iou": [0.8, 1.0, 0.3]}
    )
    table = tabulate_scores(scores.assign(run_id="run"), model).set_index("measure")
    assert table.loc["dice"].to_dict() == {"mean": 0.8, "median": 0.9, "min": 0.5, "max": 1.0}
    assert list(table.index) == ["dice", "iou"]


def test_the_gallery_shows_worst_and_best(training_images: ImageStore) -> None:
    torch.manual_seed(0)
    content = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "threshold": 0.5,
        "source": training_images.fingerprint(),
        "weights": build_network("unet_small", width_multiplier=0.25).state_dict(),
        "run_id": "run",
    }
    model = TrainedModel.from_dict(content)
    recipe = ModelTraining.model_validate(
        {
            "architecture": "unet_small",
            "input_size": {"width": 48, "height": 32},
            "batch_size": 1,
            "epochs": 1,
            "optimizer": {"name": "adamw", "learning_rate": 0.1},
        }
    )
    ids = training_images.ids()
    cars = [image_id.partition("_")[0] for image_id in ids]
    model = changed(model, validation_cars=tuple({*cars}))
    scores = pd.DataFrame({"image": ids, "car": cars, "dice": [n / len(ids) for n in range(len(ids))]})
    gallery = draw_gallery(model, scores, training_images, recipe, Reporting(gallery_size=2))
    row = draw_gallery(model, scores[:1], training_images, recipe, Reporting(gallery_size=2))
    # A line of titles, then one row per image.
    assert gallery.shape == (28 + 4 * (row.shape[0] - 28), row.shape[1], 3)
    assert (gallery[: row.shape[0]] == row).all()
    # With folds, the model that was not trained on the car of an image predicts it.
    in_folds = recipe.model_copy(update={"folds": 2})
    scores = scores.assign(run_id="run+run")
    folds = TrainedModel.join([blind(model), changed(model, validation_cars=())])
    assert (draw_gallery(folds, scores[:1], training_images, in_folds, Reporting()) != row).any()
    folds = TrainedModel.join([changed(blind(model), validation_cars=()), model])
    assert (draw_gallery(folds, scores[:1], training_images, in_folds, Reporting()) == row).all()
    with pytest.raises(UserError, match="folds do not fit these cars"):
        draw_gallery(
            changed(model, validation_cars=()),
            scores.assign(run_id="run"),
            training_images,
            in_folds,
            Reporting(),
        )
    with pytest.raises(UserError, match="trained on other files"):
        draw_gallery(
            changed(model, source="another"),
            scores.assign(run_id="run"),
            training_images,
            recipe,
            Reporting(),
        )


@pytest.fixture
def predict(model: TrainedModel, tmp_path: Path) -> Callable[[Iterable[Row]], tuple[Any, ...]]:
    """`predict(rows)` writes rows as if the model had predicted them: submission, manifest and model."""

    def call(rows: Iterable[Row]) -> tuple[SubmissionFile, dict[str, Any], TrainedModel]:
        shards = PredictionShards(tmp_path / "shards")
        found = shards.read([shards.write("key", 0, list(rows)).name])
        count = write_submission(tmp_path / "submit.csv.gz", found)
        made_from = {"run_id": model.run_id, "model": model.digest()}
        predictions = {**made_from, "images": count, "rows_sha256": found.sha256()}
        return SubmissionFile(tmp_path / "submit.csv.gz"), predictions, model

    return call


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


def test_the_preview_takes_evenly_spaced_rows(
    archives: Path, test_images: ImageStore, predict: Callable[[Iterable[Row]], tuple[Any, ...]]
) -> None:
    found = predict(open_side(archives, archives, "solution"))
    every = preview_submission(*found, test_images, Reporting(preview_size=4))
    two = preview_submission(*found, test_images, Reporting(preview_size=2))
    width = every.shape[1] // 4
    assert (two[:, :width] == every[:, :width]).all()
    assert (two[:, width : 2 * width] == every[:, 3 * width : 4 * width]).all()


def test_the_preview_has_an_empty_box_for_an_image_that_cannot_be_read(
    broken: Path, archives: Path, predict: Callable[[Iterable[Row]], tuple[Any, ...]]
) -> None:
    store = ImageStore(broken / "test")
    found = predict(open_side(archives, archives, "solution"))
    whole = preview_submission(*found, store, Reporting(preview_size=4))
    store.image_path(store.ids()[0]).write_bytes(b"no image")
    preview = preview_submission(*found, store, Reporting(preview_size=4))
    width = whole.shape[1] // 4
    assert preview.shape[1] == whole.shape[1]
    middle = whole.shape[0] // 2, slice(width // 3, width // 2)
    assert not preview[middle].any()
    assert whole[middle].any()


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
        lambda: preview_submission(submission, predictions, later, test_images, Reporting()),
    ):
        with pytest.raises(
            UserError, match=r"predicted with: run run, .*\n  used now: run later, .*\nPredict again"
        ):
            report()
    for report in (
        lambda: plot_learning_curves(table, later),
        lambda: tabulate_scores(table, later),
        lambda: draw_gallery(later, table, test_images, RECIPE, Reporting()),
    ):
        with pytest.raises(UserError, match="belongs to run run, but the model to run later"):
            report()
    with pytest.raises(UserError, match="There is no model that validation_scores could belong to"):
        tabulate_scores(table, None)
    tabulate_scores(table.drop(columns="run_id"), later)
    assert "does not say which run it belongs to" in caplog.text
    write_submission(submission.path, solution[1:])
    with pytest.raises(UserError, match="does not have the rows of the predictions beside it"):
        score_submission(submission, predictions, model, solution, test_images)
