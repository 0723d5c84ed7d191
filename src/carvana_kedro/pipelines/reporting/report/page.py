"""The report as one web page."""

import math
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError, shown
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.provenance import check_run
from carvana_kedro.results.summary import RunSummary
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.source import ImageSource

from ..nodes import require_run, require_source
from . import cases, charts, scores
from .car_names import car_names

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
    by_view = scores.by_view(validation_scores, index)
    bins = scores.reliability(validation_threshold_curve)
    typical, *worst = cases.draw_cases(
        cases.choose(validation_scores), model, training_images, model_training
    )
    return _templates().get_template("report.html.j2").render(
        summary=summary,
        run=run_manifest,
        source=source,
        index=index,
        history=training_history,
        test=submission_score,
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


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(shown=_shown, fixed=_fixed, percent=_percent, duration=_duration)
    return templates


def _shown(value: object) -> str:
    """Return a name from outside as it can be shown in one line."""
    return shown(str(value))


def _fixed(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of digits, or n/a if there is none.

    >>> _fixed(0.98838), _fixed(None), _fixed(float("nan"))
    ('0.9884', 'n/a', 'n/a')
    """
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else "n/a"


def _percent(share: float | None, digits: int = 0) -> str:
    """Return a share in percent.

    >>> _percent(0.2134), _percent(0.2134, 1), _percent(None)
    ('21%', '21.3%', 'n/a')
    """
    number = _fixed(share if share is None else 100 * share, digits)
    return number if number == "n/a" else f"{number}%"


def _duration(seconds: float) -> str:
    """Return a duration in the unit in which it is easiest to read.

    >>> _duration(47.8), _duration(1325), _duration(86400)
    ('47.8 s', '22.1 min', '24.0 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
