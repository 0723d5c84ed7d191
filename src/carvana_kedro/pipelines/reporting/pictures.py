"""Nodes of the reporting pipeline that draw pictures. All pictures are (H, W, 3) uint8 RGB."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from carvana_kedro.parameters import ModelTraining, Reporting
from carvana_kedro.provenance import check_predictions
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import gallery, plots, visualization
from carvana_kedro.segmentation.prediction.cutouts import cut_out
from carvana_kedro.segmentation.prediction.predictor import Prediction, Predictor
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import SubmissionFile

from .examples import first_rows, predict_examples
from .nodes import require_run, require_source

logger = logging.getLogger(__name__)

_THUMBNAIL_WIDTH = 400
_PREVIEW_TITLE = "Test images: what the model found is outlined, the rest is pale and gray."

Pictures = dict[str, Callable[[], np.ndarray]]
"""Functions that draw a picture, by its name."""


def draw_learning_curves(training_history: pd.DataFrame, model: TrainedModel | None) -> np.ndarray:
    """Draw the learning curves: loss and Dice coefficient. The arguments are those of `plot_learning_curves`."""
    require_run("training_history", training_history, model)
    by_fold_number = training_history.get("fold", pd.Series(0, index=training_history.index))
    histories = [history for _, history in training_history.groupby(by_fold_number)]

    def curves(column: str) -> list[plots.Curve]:
        return [(history["epoch"].to_numpy(), history[column].to_numpy(float)) for history in histories]

    return plots.learning_curves(
        {
            title: (curves(f"train_{quantity}"), curves(f"val_{quantity}"))
            for title, quantity in (("Loss", "loss"), ("Dice coefficient", "dice_coeff"))
        }
    )


def draw_threshold_curve(validation_threshold_curve: pd.DataFrame, model: TrainedModel | None) -> np.ndarray:
    """Draw the Dice coefficient over the threshold, as the mean of the validation images.

    Args:
        validation_threshold_curve: one row per threshold: threshold, and dice (the mean Dice coefficient).
        model: that the recipe has trained, whose threshold is marked.
    """
    model = require_run("validation_threshold_curve", validation_threshold_curve, model)
    thresholds, dice = (validation_threshold_curve[name].to_numpy() for name in ("threshold", "dice"))
    best = float(thresholds[dice.argmax()])
    return plots.threshold_curve(thresholds, dice, best, model.threshold(None))


def draw_gallery(
    model: TrainedModel | None,
    validation_scores: pd.DataFrame,
    training_images: ImageSource,
    model_training: ModelTraining,
    reporting: Reporting,
) -> np.ndarray:
    """Draw validation images with their errors: those with the worst, typical and best scores.

    Args:
        model: that the recipe has trained.
        validation_scores: one row per image: image, car, dice.
        training_images: the source that the model was trained on.
        model_training: the recipe of the model.
        reporting: how many images to draw.

    Returns:
        Three columns: see `carvana_kedro.segmentation.monitoring.gallery`.

    Raises:
        UserError: the scores are those of another run, the model was trained on another source, or its folds on other
            cars.
    """
    model = require_run("validation_scores", validation_scores, model)
    require_source(model, training_images)
    groups = _examples(validation_scores, reporting.gallery_size)
    drawn = {}
    for example in predict_examples(pd.concat(groups.values()), model, training_images, model_training):
        image_id, dice = example.scores["image"], example.scores["dice"]
        drawn[image_id] = gallery.example(
            example.image, example.found, example.target, image_id, f"Dice {dice:.4f}"
        )
    return gallery.page(
        {heading: [drawn[image_id] for image_id in group["image"]] for heading, group in groups.items()}
    )


def _examples(scores: pd.DataFrame, size: int) -> dict[str, pd.DataFrame]:
    """Return up to `size` rows of scores for each heading of the gallery. No row has two headings."""
    size = min(size, max(1, len(scores) // 3))
    from_median = (scores["dice"] - scores["dice"].median()).abs()
    orders = {
        "Worst": scores.sort_values("dice", kind="stable"),
        "Best": scores.sort_values("dice", kind="stable", ascending=False),
        "Typical": scores.loc[from_median.sort_values(kind="stable").index],
    }
    groups: dict[str, pd.DataFrame] = {}
    for heading, ranked in orders.items():
        taken = [image_id for group in groups.values() for image_id in group["image"]]
        left = ranked[~ranked["image"].isin(taken)]
        groups[heading] = first_rows(left, size)
    return {heading: groups[heading] for heading in ("Worst", "Typical", "Best")}


def preview_submission(
    submission: SubmissionFile,
    predictions: dict[str, Any],
    model: TrainedModel,
    test_images: ImageSource,
    model_training: ModelTraining,
    reporting: Reporting,
) -> tuple[np.ndarray, Pictures, Pictures]:
    """Draw some masks of the submission, and cut their images out.

    Args:
        submission: the (image id, run lengths) rows of the submission file.
        predictions: the manifest of the predictions.
        model: that predicted them.
        test_images: the source's test side.
        model_training: says where to compute, and which code outside this package may be imported.
        reporting: how many images to draw.

    Returns:
        A contact sheet of evenly spaced rows of the submission; and functions that draw the overlays and the cut-outs,
        (H, W, 4) uint8 RGBA, of those images that can be read.

    Raises:
        UserError: the predictions were made with another model: see `check_predictions`.
    """
    check_predictions(predictions, submission, model)
    wanted = set(np.linspace(0, predictions["images"] - 1, reporting.preview_size).astype(int).tolist())
    rows = dict(row for number, row in enumerate(submission) if number in wanted)
    made_with = predictions["parameters"]
    threshold = model.threshold(made_with["threshold"])
    predictor = Predictor.from_model(
        model,
        trusted=model_training.trusted(),
        device=model_training.device,
        precision=model_training.precision,
        threshold=threshold,
        flip=made_with["flip"],
    )
    sheet: list[np.ndarray] = []
    overlays: Pictures = {}
    cutouts: Pictures = {}
    for prediction in predictor.predict(test_images, [*rows], on_bad_image="empty"):
        image_id = prediction.image_id
        runs = rows[image_id]
        if prediction.problem:  # inference.on_bad_image=empty
            logger.warning("The preview shows an empty box for %s: %s", image_id, prediction.problem)
            drawn = np.zeros((2 * _THUMBNAIL_WIDTH // 3, _THUMBNAIL_WIDTH, 3), np.uint8)
        else:
            drawn = visualization.spotlight(*_photograph_and_mask(test_images, image_id, runs))
            overlays[image_id] = partial(_overlay, test_images, image_id, runs)
            cutouts[image_id] = partial(_cutout, test_images, prediction, runs, threshold)
        sheet.append(visualization.captioned(drawn, image_id, _THUMBNAIL_WIDTH))
    thumbnails = visualization.grid(sheet, columns=4)
    title = visualization.text_bar(_PREVIEW_TITLE, thumbnails.shape[1], visualization.MARGIN)
    return np.concatenate([title, thumbnails]), overlays, cutouts


def _photograph_and_mask(images: ImageSource, image_id: str, runs: str) -> tuple[np.ndarray, np.ndarray]:
    image = images.read_image(image_id)
    return image, run_lengths.decode(runs, *image.shape[:2]).astype(bool)


def _overlay(images: ImageSource, image_id: str, runs: str) -> np.ndarray:
    return visualization.overlay(*_photograph_and_mask(images, image_id, runs))


def _cutout(images: ImageSource, prediction: Prediction, runs: str, threshold: float) -> np.ndarray:
    """Cut out a mask of the submission, with the soft edge of the probabilities that it was made from."""
    image, mask = _photograph_and_mask(images, prediction.image_id, runs)
    return cut_out(image, prediction.alpha(mask, threshold))
