"""Nodes of the evaluation pipeline."""

import logging
from typing import Any

import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images, usable_images
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.scoring import score_images, seen_in_training
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.source import ImageSource

logger = logging.getLogger(__name__)


def select_unseen_images(training_images: ImageSource, model: TrainedModel) -> pd.DataFrame:
    """List images that the model was not trained on, and no others of their cars. They have masks.

    Args:
        training_images: Images with masks.
        model: The model to score.

    Returns:
        The rows of the index, see `index_images`, of the images to score.

    Raises:
        UserError: Images cannot be used, or the model was trained on all of them.
    """
    advice = "Correct or remove these files, then run again."
    index = usable_images(index_images(training_images), "stop", advice)
    images, cars = seen_in_training(model, index)
    reason = (
        f"the model was trained on {images.sum()} of them, and {(cars & ~images).sum()} show the same cars"
    )
    if cars.all():
        raise UserError(
            f"No image is left to score. There are {len(index)} images: {reason}. Add images of other cars. If this is "
            "a mean of several models, score them one by one. (The out-of-fold scores of folds are in "
            "validation_scores.csv.)"
        )
    if cars.any():
        logger.info("%d of %d images are left out: %s", cars.sum(), len(index), reason)
    logger.info("Scoring %d images", (~cars).sum())
    return index[~cars]


def score_model(
    model: TrainedModel,
    evaluation_index: pd.DataFrame,
    training_images: ImageSource,
    parameters: Inference,
    model_training: ModelTraining,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Score the model on images at their original size: see `score_images`."""
    return score_images(
        [(model, evaluation_index)],
        training_images,
        parameters,
        model_training.trusted(),
        run_id=model.run_id,
    )
