"""Nodes of the reporting pipeline."""

import logging
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from carvana_kedro.errors import UserError
from carvana_kedro.provenance import check_predictions, check_run
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import SubmissionFile
from carvana_kedro.stores.tables import Row

logger = logging.getLogger(__name__)


def plot_learning_curves(training_history: pd.DataFrame, model: TrainedModel | None) -> go.Figure:
    """Plot the learning curves for Kedro-Viz: loss and Dice coefficient, in training and validation.

    Args:
        training_history: one row per epoch: epoch, train_loss, val_loss, train_dice_coeff, val_dice_coeff; with folds
            one row per fold and epoch, and a column fold.
        model: that the recipe has trained.

    Returns:
        A figure with one line per fold and side of the split.
    """
    require_run("training_history", training_history, model)
    figure = make_subplots(rows=1, cols=2, subplot_titles=("Loss", "Dice coefficient"))
    colors = {"train": "#0072b2", "val": "#d55e00"}
    folds = training_history.get("fold", pd.Series(0, index=training_history.index))
    for column, quantity in enumerate(("loss", "dice_coeff"), start=1):
        for (side, color), fold in product(colors.items(), folds.unique()):
            history = training_history[folds == fold]
            figure.add_trace(
                go.Scatter(
                    x=history["epoch"],
                    y=history[f"{side}_{quantity}"],
                    name={"train": "training", "val": "validation"}[side],
                    line={"color": color},
                    mode="lines+markers",
                    legendgroup=side,
                    showlegend=bool(column == 1 and fold == folds.iloc[0]),
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="epoch", dtick=max(1, training_history["epoch"].max() // 10))
    figure.update_layout(title="Learning curves", template="plotly_white", hovermode="x unified")
    return figure


def tabulate_scores(validation_scores: pd.DataFrame, model: TrainedModel | None) -> pd.DataFrame:
    """Summarize the scores of the validation images.

    Args:
        validation_scores: one row per image: image, car, run_id, and one column per measure.
        model: that the recipe has trained.

    Returns:
        One row per measure. Columns: measure, mean, median, min, max.
    """
    require_run("validation_scores", validation_scores, model)
    scores = validation_scores.drop(columns=["image", "car", "run_id"], errors="ignore")
    table = scores.agg(["mean", "median", "min", "max"]).T.round(5)
    return table.rename_axis("measure").reset_index()


def require_run(name: str, table: pd.DataFrame | dict[str, Any], model: TrainedModel | None) -> TrainedModel:
    """Check that a table or record belongs to the run of the model, and return the model.

    Raises:
        UserError: It belongs to another run, or there is no model.
    """
    if model is None:
        raise UserError(
            f"There is no model that {name} could belong to. Train one, with the same options: "
            "kedro run --pipelines model_training"
        )
    check_run(name, table, model.run_id)
    return model


def require_source(model: TrainedModel, training_images: ImageSource) -> None:
    """Check that a model was trained on the files of a source.

    Raises:
        UserError: It was trained on others.
    """
    if model.source != training_images.fingerprint():
        raise UserError(
            f"The model was trained on other files than those in {training_images.images}. Train a model on these "
            "files, or choose the model's source: --params source=..."
        )


def score_submission(
    submission: SubmissionFile,
    predictions: dict[str, Any],
    model: TrainedModel,
    solution: list[Row],
    test_images: ImageSource,
) -> dict[str, Any]:
    """Score a submission like the competition: by the mean Dice coefficient over the images.

    Args:
        submission: the (image id, run lengths) rows of the submission file.
        predictions: the manifest of the predictions.
        model: that predicted them.
        solution: the same of the true masks; empty if the source has no solution.
        test_images: the source's test side.

    Returns:
        `run_id` of the model, `images`, the number of scored images, and `dice`; with a solution also `dice_std`, the
        standard deviation over the images, and `lowest_dice`. Without a solution `images` is 0 and `dice` None.

    Raises:
        UserError: the submission and the solution do not have the same images, or the predictions were made with
            another model: see `check_predictions`.
    """
    check_predictions(predictions, submission, model)
    run_id = predictions["run_id"]
    if not solution:
        logger.info("The submission is not scored, because the source has no solution.")
        return {"run_id": run_id, "images": 0, "dice": None}
    predicted = dict(submission)
    if predicted.keys() != dict(solution).keys():
        raise UserError(
            "The submission and the solution do not have the same images. Create the submission again with the same "
            "options: kedro run --pipelines inference"
        )
    scores = []
    for image_id, runs in solution:
        height, width = test_images.size(image_id)
        masks = (run_lengths.decode(text, height, width) for text in (predicted[image_id], runs))
        scores.append(mask_scores.dice(*masks))
    logger.info("Score of the submission: Dice %.4f (%d images)", np.mean(scores), len(scores))
    return {
        "run_id": run_id,
        "images": len(scores),
        "dice": float(np.mean(scores)),
        "dice_std": float(np.std(scores)),
        "lowest_dice": float(min(scores)),
    }
