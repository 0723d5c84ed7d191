"""The report as one web page."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.provenance import check_run
from carvana_kedro.results.pages import templates
from carvana_kedro.results.summary import RunSummary
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.source import ImageSource

from ..nodes import require_run, require_source
from . import cases, charts, scores
from .car_names import car_names
from .cutouts import choose_cutouts

_MOST_CARS = 20  # in the table; the score file has all


def write_report(
    trained_model: TrainedModel | None,
    run_manifest: dict[str, Any],
    training_history: pd.DataFrame,
    validation_scores: pd.DataFrame,
    validation_threshold_curve: pd.DataFrame,
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_images: ImageSource,
    submission_score: dict[str, Any] | None,
    cutouts: dict[str, Callable[[], np.ndarray]],
    turntables: dict[str, Callable[[], list[np.ndarray]]],
    source: SourceDescription,
    recipes: dict[str, Any],
    model_training: ModelTraining,
) -> str:
    """Write the report of a run, from the template `report.html.j2`.

    Args:
        trained_model: That the recipe has trained.
        run_manifest: What `describe_run` returns.
        training_history: One row per epoch, and per fold if there are folds.
        validation_scores: One row per image: image, car, and the measures.
        validation_threshold_curve: One row per threshold: threshold, dice, positive, true_positive.
        train_index: Images to train on.
        validation_index: Images to validate on.
        training_images: The source that the model was trained on.
        submission_score: What `score_submission` returns; None if nothing was predicted yet.
        cutouts: Functions that load the cut-outs of test images; those of another model are left out.
        turntables: The same of the turntables, to which the page links.
        source: The description of the source.
        recipes: All recipes by name.
        model_training: The recipe.

    Returns:
        The page as HTML.

    Raises:
        UserError: There is no model, or a table belongs to another run, or the model to another source or split.
    """
    summary = RunSummary(run_manifest, validation_scores, validation_threshold_curve, recipes, source)
    check_run("training_history", training_history, run_manifest["run_id"])
    model = require_run("run_manifest", run_manifest, trained_model)
    require_source(model, training_images)
    index = pd.concat([train_index, validation_index])
    if {*validation_scores["image"]} != {*(index if summary.folds else validation_index)["image"]}:
        raise UserError(
            "The images were split again after the training: validation_scores has other images than validation_index. "
            "Train a model on this split, or split them as before: kedro run --pipelines data_ingestion,model_training"
        )
    is_predicted = submission_score is not None and submission_score["run_id"] == model.run_id
    by_view = scores.by_view(validation_scores, index)
    bins = scores.reliability(validation_threshold_curve)
    typical, *worst = cases.draw_cases(
        cases.choose(validation_scores), model, training_images, model_training
    )
    return templates(__package__).get_template("report.html.j2").render(
        summary=summary,
        run=run_manifest,
        source=source,
        index=index,
        history=training_history,
        test=submission_score,
        is_predicted=is_predicted,
        cutouts=choose_cutouts(cutouts) if is_predicted else [],
        has_turntables=bool(turntables),
        charts={
            "loss": charts.learning_curve(training_history, "loss", "Loss"),
            "dice": charts.learning_curve(training_history, "dice_coeff", "Dice coefficient"),
            "distribution": charts.distribution(validation_scores["dice"]),
            "views": charts.views(by_view) if len(by_view) else None,
            "threshold": charts.threshold_curve(summary),
            "reliability": charts.reliability(bins) if bins is not None else None,
        },
        cars=scores.by_car(validation_scores),
        car_names=car_names(training_images),
        most_cars=_MOST_CARS,
        bins=bins,
        certain=bins.loc[bins["low"].isin([0, 0.9]), "pixels"].sum() if bins is not None else None,
        calibration_error=scores.calibration_error(bins) if bins is not None else None,
        typical=typical,
        worst=worst,
    )  # fmt: skip
