"""Nodes of the inference pipeline."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import TEST_INDEX_OPTIONS, check_source, index_images
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.predicting import engine
from carvana_kedro.prediction_plan import PredictionPlan, requested_kinds
from carvana_kedro.results.doubt import doubtful_masks
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards, ShardRows

logger = logging.getLogger(__name__)


def index_test_images(test_images: ImageSource) -> pd.DataFrame:
    """List every test image, including missing ones, in the order of the sample submission."""
    return index_images(test_images)


def predict_masks(
    model: TrainedModel,
    test_index: pd.DataFrame,
    test_images: ImageSource,
    prediction_shards: PredictionShards,
    predicted_images: PredictedImages,
    parameters: Inference,
    model_training: ModelTraining,
    source: SourceDescription,
) -> dict[str, Any]:
    """Predict the mask of every test image, at its original size, and write the masks shard by shard.

    The mask of an image with a problem in the index is empty. The images that the parameters request are written too:
    masks, cut-outs, overlays. Shards that an earlier run has written from the same model, images and parameters are
    not predicted again, if the images that belong to them are still there and unchanged. Images of other predictions
    are removed: see `PredictedImages.remove_others`.

    Args:
        model: The model.
        test_index: What `select_test_images` returns.
        test_images: The test images.
        prediction_shards: Where shards are written.
        predicted_images: Where images are written.
        parameters: `inference`.
        model_training: `model_training`, which names the code outside this package that may be imported.
        source: The description of the source of the images.

    Returns:
        The manifest: the names of the shards in order, the number of images, the hash of their rows, problems by image
        id, and what the predictions were made from.

    Raises:
        UserError: The index was made from other files, files change during the prediction, the model cannot be built,
            or an image cannot be read.
    """
    check_source(test_index, test_images, TEST_INDEX_OPTIONS)
    plan = PredictionPlan.make(
        model,
        test_index,
        test_images,
        prediction_shards,
        predicted_images,
        parameters,
        model_training,
        source,
    )
    with prediction_shards.locked():
        shards = plan.work.finished(plan.jobs)
        missing = {number: job for number, job in plan.jobs.items() if number not in shards}
        if shards:
            logger.info("%d of %d shards of masks exist from an earlier run", len(shards), len(plan.jobs))
        with engine.started(plan.work, missing, parameters.devices, parameters.cluster) as predicted:
            predicted_images.remove_others(
                kept={name for shard in shards.values() for name in shard.images},
                expected={name for job in plan.jobs.values() for name in job.names},
                shards=prediction_shards,
            )
            shards |= predicted
        assert shards.keys() == plan.jobs.keys()
        if missing and test_images.fingerprint() != plan.origin["source"]:
            prediction_shards.remove(plan.work.key)  # some may be of the earlier contents, some of the new
            raise UserError(f"Files in {test_images.images} changed while they were predicted. Run again.")
        prediction_shards.keep_only(plan.work.key, shards)
        names = [shards[number].name for number in plan.jobs]
        return {
            **plan.origin,
            "checkpoint": model.checkpoint,
            "images": len(test_index),
            "shards": names,
            "rows_sha256": prediction_shards.read(names).sha256(),
            "problems": {image: text for shard in shards.values() for image, text in shard.problems.items()},
        }


def write_submission(predictions: dict[str, Any], prediction_shards: PredictionShards) -> ShardRows:
    """Join the rows of all shards, in order. The dataset of the submission writes them to its file."""
    return prediction_shards.read(predictions["shards"])


def summarize_predictions(
    predictions: dict[str, Any],
    test_index: pd.DataFrame,
    prediction_shards: PredictionShards,
    predicted_images: PredictedImages,
    parameters: Inference,
    source: SourceDescription,
) -> pd.DataFrame:
    """Summarize the masks of all images. An empty mask, or one much larger than the others, may be wrong.

    Returns:
        One row per image: image, width, height, covered (share of the image that the mask covers, in [0, 1]), runs
        (number of runs of pixels in the submission), doubt (how unsure the network is: see
        `segmentation.prediction.doubt`), problems (of the file: from the index, or from reading it).
    """
    rows = []
    for image_id, runs in prediction_shards.read(predictions["shards"]):
        lengths = np.fromstring(runs, np.int64, sep=" ")[1::2]
        rows.append((image_id, int(lengths.sum()), len(lengths)))
    found = pd.DataFrame(rows, columns=["image", "covered", "runs"])
    summary = test_index[["image", "width", "height", "problems"]].merge(found, on="image", validate="1:1")
    summary["doubt"] = summary["image"].map(prediction_shards.doubts(predictions["shards"])).astype(float)
    unreadable = predictions.get("problems", {})  # missing in manifests of earlier versions
    summary["problems"] = [
        unreadable.get(image_id, problems)
        for image_id, problems in zip(summary["image"], summary["problems"], strict=True)
    ]
    # An image that cannot be read has no size and an empty mask.
    summary["covered"] /= (summary["width"] * summary["height"]).clip(lower=1)
    bad = (summary["problems"] != "").sum()
    lines = [f"{len(summary)} images", f"empty masks: {(summary['runs'] == 0).sum()}"]
    if bad:
        lines[-1] += f", {bad} of them because of a problem with the image"
    shares = summary[summary["runs"] > 0].set_index("image")["covered"]
    if len(shares):
        lines.append(
            f"other masks cover {shares.mean():.1%} of the image on average,"
            f"\n    from {shares.min():.1%} ({shares.idxmin()}) to {shares.max():.1%} ({shares.idxmax()})"
        )
    if kinds := requested_kinds(parameters.with_images(source.writes_images)):
        lines.append(f"{', '.join(kinds)} are in {predicted_images.folder}")
    logger.info("Predicted: %s", "\n  ".join(lines))
    constant = {0.0: "empty", 1.0: "full"}.get(summary["covered"].mean() if len(summary) else -1.0)
    if constant:
        logger.warning("All %d masks are %s: the model may not be trained enough.", len(summary), constant)
    if doubtful := doubtful_masks(summary):
        logger.warning(
            "Doubtful: %s. Look at them: the images may be unlike those that the network was trained on.",
            doubtful,
        )
    return summary[["image", "width", "height", "covered", "runs", "doubt", "problems"]]
