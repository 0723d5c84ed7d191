"""Nodes of the reporting pipeline."""

import logging
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from carvana_kedro.errors import UserError
from carvana_kedro.folds import by_fold
from carvana_kedro.parameters import ModelTraining, Reporting
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.tables import Row

logger = logging.getLogger(__name__)

_THUMBNAIL_WIDTH = 400


def plot_learning_curves(training_history: pd.DataFrame) -> go.Figure:
    """Plot loss and Dice coefficient over the epochs, training beside validation; of folds a line each."""
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


def tabulate_scores(validation_scores: pd.DataFrame) -> pd.DataFrame:
    """Summarize the scores: mean, median, lowest and highest of every measure over the validation images."""
    scores = validation_scores.drop(columns=["image", "car"])
    table = scores.agg(["mean", "median", "min", "max"]).T.round(5)
    return table.rename_axis("measure").reset_index()


def draw_gallery(
    model: TrainedModel,
    validation_scores: pd.DataFrame,
    training_images: ImageSource,
    model_training: ModelTraining,
    reporting: Reporting,
) -> np.ndarray:
    """Draw the worst and the best validation images: agreement, expected and predicted mask.

    Returns:
        (H, W, 3) uint8: a row an image, the worst first; each row shows the photograph, where both masks agree
        (light), where the car was missed (orange) or imagined (blue), the true and the predicted overlay.

    Raises:
        UserError: the model was trained on another source, or its folds on other cars.
    """
    if model.source != training_images.fingerprint():
        raise UserError(
            f"The model was trained on other files than those in {training_images.images}. Train it on these, or "
            "report on its own source: --params source=..."
        )
    ranked = validation_scores.sort_values("dice", kind="stable")
    size = min(reporting.gallery_size, len(ranked) // 2 or 1)
    chosen = pd.concat([ranked.head(size), ranked.tail(size)]).drop_duplicates("image")
    titles = ("photograph", "light: both, orange: missed, blue: imagined", "true mask", "predicted mask")
    rows = [np.concatenate([visualization.text_bar(title, _THUMBNAIL_WIDTH) for title in titles], axis=1)]
    pictures = {}
    for member, images in by_fold(model, chosen) if model_training.folds else [(model, chosen)]:
        predictor = Predictor.from_model(
            member,
            trusted=model_training.trusted(),
            device=model_training.device,
            precision=model_training.precision,
        )
        for image_id, dice in zip(images["image"], images["dice"], strict=True):
            image = training_images.read_image(image_id)
            target = training_images.read_mask(image_id)
            picture = visualization.comparison(image, predictor(image), target)
            caption = f"{image_id}   Dice {dice:.4f}"
            pictures[image_id] = visualization.captioned(picture, caption, 4 * _THUMBNAIL_WIDTH)
    return np.concatenate([*rows, *(pictures[image_id] for image_id in chosen["image"])])


def preview_submission(
    submission: Iterable[Row], predictions: dict[str, Any], test_images: ImageSource, parameters: Reporting
) -> np.ndarray:
    """Draw rows from all over the submission over their photographs, read back from the file itself."""
    wanted = set(np.linspace(0, predictions["images"] - 1, parameters.preview_size).astype(int).tolist())
    pictures = []
    for image_id, runs in (row for number, row in enumerate(submission) if number in wanted):
        image = test_images.read_image(image_id)
        mask = run_lengths.decode(runs, *image.shape[:2])
        pictures.append(
            visualization.captioned(visualization.overlay(image, mask), image_id, _THUMBNAIL_WIDTH)
        )
    return visualization.grid(pictures, columns=4)


def score_submission(
    submission: Iterable[Row], solution: list[Row], test_images: ImageSource
) -> dict[str, float | None]:
    """Score a finished submission as the competition does: the mean Dice coefficient over the images.

    Returns:
        `images`, the number scored, and `dice`; where the source has no solution 0 and None.

    Raises:
        UserError: the submission and the solution are not about the same images.
    """
    if not solution:
        logger.info("The source has no solution: the submission is not scored.")
        return {"images": 0, "dice": None}
    predicted = dict(submission)
    if predicted.keys() != dict(solution).keys():
        raise UserError(
            "The submission and the solution are not about the same images. Make the submission anew, with the same "
            "options: kedro run --pipelines inference"
        )
    scores = []
    for image_id, runs in solution:
        height, width = test_images.size(image_id)
        masks = (run_lengths.decode(text, height, width) for text in (predicted[image_id], runs))
        scores.append(mask_scores.dice(*masks))
    logger.info("Submission scored against the solution: Dice %.4f (%d images)", np.mean(scores), len(scores))
    return {"images": len(scores), "dice": float(np.mean(scores))}
