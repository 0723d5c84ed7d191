"""Nodes of the evaluation pipeline."""

import logging
from typing import Any

import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images, usable_images
from carvana_kedro.parameters import Inference
from carvana_kedro.scoring import score_images
from carvana_kedro.stores.images.source import ImageSource

logger = logging.getLogger(__name__)


def select_unseen_images(training_images: ImageSource, model: dict[str, Any]) -> pd.DataFrame:
    """List the images with masks that a model was not trained on: all, if it was trained on another source.

    Args:
        training_images: the source.
        model: or several as its `members`.

    Raises:
        UserError: images cannot be used, or the model has seen them all.
    """
    advice = "Put these right or take them away, then run again."
    index = usable_images(index_images(training_images), "stop", advice)
    for member in model.get("members", [model]):
        if member["source"] == training_images.fingerprint():
            index = index[index["car"].isin(member["validation_cars"])]
    if index.empty:
        raise UserError(
            "There are no images that none of these models has seen: score them one by one. (What folds score on the "
            "cars they have not seen is in validation_scores.csv.)"
        )
    logger.info("Scoring %d images", len(index))
    return index


def score_model(
    model: dict[str, Any],
    evaluation_index: pd.DataFrame,
    training_images: ImageSource,
    parameters: Inference,
) -> tuple[pd.DataFrame, dict[str, float], pd.DataFrame]:
    """Score images at their original size, as training scores its validation images: see `score_images`."""
    return score_images([(model, evaluation_index)], training_images, parameters)
