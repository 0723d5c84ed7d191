"""Nodes of the inference pipeline."""

import logging
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pandas as pd
from tqdm import tqdm

from carvana_kedro import provenance
from carvana_kedro.image_index import check_source, index_images, usable_images
from carvana_kedro.parameters import Inference
from carvana_kedro.segmentation import rle
from carvana_kedro.segmentation.hardware import usable_workers
from carvana_kedro.segmentation.predictor import Predictor
from carvana_kedro.stores.images import Photographs
from carvana_kedro.stores.predictions import PredictionShards
from carvana_kedro.stores.tables import Row

logger = logging.getLogger(__name__)


def index_test_images(test_images: Photographs) -> pd.DataFrame:
    """List every test image and every one that should be there, in the order of the sample submission."""
    return index_images(test_images)


def select_test_images(test_image_index: pd.DataFrame) -> pd.DataFrame:
    """Make sure that every test image can be predicted. A node of its own, so that it stops before any training.

    Raises:
        UserError: an image is missing, damaged or not one of the competition's, since a submission must have a
            row for every one.
    """
    advice = "Every test image needs a mask. Put these right (or take them away, if they are yours), then run again."
    return usable_images(test_image_index, "stop", advice)


def predict_masks(
    model: dict[str, Any],
    test_index: pd.DataFrame,
    test_images: Photographs,
    prediction_shards: PredictionShards,
    parameters: Inference,
) -> dict[str, Any]:
    """Predict the mask of every test image at its original size, and write them away shard by shard.

    Returns:
        The manifest of the shards: their names in order, the number of images, and what they were made from.

    Raises:
        UserError: the index belongs to another source, or an image cannot be decoded.
    """
    check_source(test_index, test_images, "inference")
    image_ids = test_index["image"].tolist()
    predictor = Predictor.from_model(model, device=parameters.device, precision=parameters.precision)
    masks = predictor.predict(
        test_images,
        image_ids,
        threshold=parameters.threshold,
        batch_size=parameters.batch_size,
        workers=usable_workers(parameters.workers),
    )
    progress = tqdm(masks, "Predicting", len(image_ids), unit=" images", leave=False, disable=None)
    rows = ((image_id, rle.encode(mask)) for image_id, mask in progress)
    origin = {
        "run_id": model["run_id"],
        "source": test_images.fingerprint(),
        "parameters": parameters.model_dump(),
    }
    key = provenance.run_id(origin)
    names = [
        prediction_shards.write(key, number, shard)
        for number, shard in zip(count(), _shards(rows, parameters.shard_size))
    ]
    return {**origin, "images": len(image_ids), "shards": names}


def write_submission(predictions: dict[str, Any], prediction_shards: PredictionShards) -> Iterator[Row]:
    """Return the rows of all shards in order; the submission's dataset drains them into its file."""
    return prediction_shards.read(predictions["shards"])


def _shards(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while shard := list(islice(rows, size)):
        yield shard
