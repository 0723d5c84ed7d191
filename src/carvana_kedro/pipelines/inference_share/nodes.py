"""The node of the inference_share pipeline."""

import logging
from collections.abc import Mapping

import pandas as pd

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import are_unchanged
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.predicting import engine
from carvana_kedro.predicting.work import Job
from carvana_kedro.prediction_plan import PredictionPlan, check_images
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards

logger = logging.getLogger(__name__)


def predict_share(
    model: TrainedModel,
    test_index: pd.DataFrame,
    test_images: ImageSource,
    prediction_shards: PredictionShards,
    predicted_images: PredictedImages,
    parameters: Inference,
    model_training: ModelTraining,
    source: SourceDescription,
) -> None:
    """Predict a share of the shards, beside other hosts.

    Shards that exist are not predicted again, and only the images of the others are read. Nothing is locked, and
    nothing of other predictions is removed or replaced, so that many hosts can work at once. If two hosts predict the
    same shard, and their rows differ, each may remove the other's, and the shard may be missing. Then `predict_masks`
    of the inference pipeline checks all shards, and predicts those that are missing.

    Args:
        model: The model.
        test_index: What `select_test_images` returned before the first share.
        test_images: The test images.
        prediction_shards: Where shards are written.
        predicted_images: Where images are written.
        parameters: `inference`.
        model_training: `model_training`, which names the code outside this package that may be imported.
        source: The description of the source of the images.

    Raises:
        UserError: See `predict_masks`; or image files of another prediction would be replaced.
    """
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
    mine = {number: job for number, job in plan.jobs.items() if parameters.has_shard(number)}
    finished = plan.work.finished(mine).keys()
    missing = {number: job for number, job in mine.items() if number not in finished}
    readable = [image_id for job in missing.values() for image_id in job.readable]
    check_images(test_index, test_images, readable)
    _check_written(plan, missing)
    with engine.started(plan.work, missing, parameters.devices) as predicted:
        written = dict(predicted)
    assert written.keys() == missing.keys()
    if not are_unchanged(test_index, test_images, readable):
        for shard in written.values():
            predicted_images.remove(shard.images)
        prediction_shards.remove(plan.work.key, written.values())
        raise UserError(f"Files in {test_images.images} changed while they were predicted. Run again.")
    prediction_shards.keep_only(plan.work.key, written)
    logger.info(
        "Share %s has %d of %d shards: %d predicted now, %d before. When all shares are predicted, run the pipeline "
        "inference with the same options, but without inference.share.",
        parameters.share, len(mine), len(plan.jobs), len(written), len(finished),
    )  # fmt: skip


def _check_written(plan: PredictionPlan, jobs: Mapping[int, Job]) -> None:
    """Check that no image file of another prediction, which its manifest still describes, would be replaced."""
    images, names = plan.work.predicted_images, {name for job in jobs.values() for name in job.names}
    seals = plan.work.shards.images(but=plan.work.key) if names else {}
    there = images.list(plan.work.options.kinds) if seals else {}
    others = images.unchanged(seals, {name: stat for name, stat in there.items() if name in names})
    if others:
        raise UserError(
            f"{images.folder.address(min(others))} belongs to another prediction, which a share does not replace. "
            "Choose another data_root, or remove the images of that prediction (the folders masks, cutouts and "
            "overlays)."
        )
