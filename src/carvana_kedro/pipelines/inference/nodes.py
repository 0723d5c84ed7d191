"""Nodes of the inference pipeline."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from carvana_kedro import provenance
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source, first_few, index_images, usable_images
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.predicting import engine
from carvana_kedro.predicting.work import Job, Options, Work
from carvana_kedro.results.doubt import doubtful_masks
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import KINDS, Kind, PredictedImages, PredictionShards, ShardRows

logger = logging.getLogger(__name__)


def index_test_images(test_images: ImageSource) -> pd.DataFrame:
    """List every test image, including missing ones, in the order of the sample submission."""
    return index_images(test_images)


def select_test_images(
    test_image_index: pd.DataFrame, test_images: ImageSource, parameters: Inference
) -> pd.DataFrame:
    """Check that every test image can be predicted. This is a separate node so that a run stops before training.

    Args:
        test_image_index: What `index_test_images` returns.
        test_images: The test images.
        parameters: `inference`.

    Returns:
        The rows of the images that get a mask. The masks of images with problems will be empty. With `on_bad_image`
        `empty`, images that are not in the sample submission are left out.

    Raises:
        UserError: `on_bad_image` is `stop`, and an image is missing, damaged or not part of the competition.
    """
    advice = (
        "Every test image needs a mask. Correct these files (or remove them, if they are your own), then run again. To "
        "leave their masks empty instead: --params inference.on_bad_image=empty"
    )
    usable_images(test_image_index, "skip" if parameters.on_bad_image == "empty" else "stop", advice)
    wanted = _in_sample_submission(test_image_index, test_images)
    if others := test_image_index.loc[~wanted, "image"].tolist():
        logger.warning(
            "%d images are not in sample_submission.csv. They are left out:\n%s",
            len(others),
            first_few(others),
        )
    index = test_image_index[wanted]
    bad = index[index["problems"] != ""]
    if len(bad):
        lines = [f"{row.image}: {row.problems}" for row in bad.itertuples()]
        logger.warning("%d masks will be empty:\n%s", len(bad), first_few(lines))
    return index


def _in_sample_submission(index: pd.DataFrame, images: ImageSource) -> "pd.Series[bool]":
    """Return which images need a row in the submission: all of them if there is no sample submission."""
    expected = images.expected if isinstance(images, ImageStore) else None
    return index["image"].isin(index["image"] if expected is None else list(expected))


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
    check_source(test_index, test_images, "inference")
    parameters = parameters.with_images(source.writes_images)
    jobs = _jobs(test_index, predicted_images, parameters)
    trusted = model_training.trusted()
    origin = _origin(model, test_index, test_images, parameters, trusted)
    key = provenance.run_id(origin)
    work = _work(model, trusted, test_images, predicted_images, prediction_shards, key, parameters)
    with prediction_shards.locked():
        shards = {
            number: shard
            for number, shard in prediction_shards.find(key).items()
            if number in jobs and predicted_images.are_intact(jobs[number].names, shard.images)
        }
        missing = {number: job for number, job in jobs.items() if number not in shards}
        if shards:
            logger.info("%d of %d shards of masks exist from an earlier run", len(shards), len(jobs))
        with engine.started(work, missing) as predicted:
            predicted_images.remove_others(
                kept={name for shard in shards.values() for name in shard.images},
                expected={name for job in jobs.values() for name in job.names},
                shards=prediction_shards,
            )
            shards |= predicted
        if missing and test_images.fingerprint() != origin["source"]:
            prediction_shards.remove(key)  # some may be of the earlier contents, some of the new
            raise UserError(f"Files in {test_images.images} changed while they were predicted. Run again.")
        names = [shards[number].name for number in jobs]
        return {
            **origin,
            "checkpoint": model.checkpoint,
            "images": len(test_index),
            "shards": names,
            "rows_sha256": prediction_shards.read(names).sha256(),
            "problems": {image: text for shard in shards.values() for image, text in shard.problems.items()},
        }


def _jobs(index: pd.DataFrame, predicted_images: PredictedImages, parameters: Inference) -> dict[int, Job]:
    """Return the images of each shard by its number."""
    jobs = {}
    for number, start in enumerate(range(0, len(index), parameters.shard_size)):
        rows = index.iloc[start : start + parameters.shard_size]
        readable = rows.loc[rows["problems"] == "", "image"].tolist()
        names = [
            predicted_images.name(kind, image_id) for image_id in readable for kind in _kinds(parameters)
        ]
        jobs[number] = Job(rows["image"].tolist(), readable, names)
    return jobs


def _origin(
    model: TrainedModel,
    index: pd.DataFrame,
    images: ImageSource,
    parameters: Inference,
    trusted: Sequence[str],
) -> dict[str, Any]:
    """Return everything that decides the predicted masks."""
    bad = index["problems"] != ""
    return {
        "run_id": model.run_id,
        "model": model.digest(),
        "source": images.fingerprint(),
        "image_ids": provenance.images_digest(index["image"].tolist(), index.loc[bad, "image"].tolist()),
        "parameters": parameters.decisive(),
        "code": provenance.predicting_digest(model.extensions(trusted)),
    }


def _work(
    model: TrainedModel,
    trusted: Sequence[str],
    images: ImageSource,
    predicted_images: PredictedImages,
    shards: PredictionShards,
    key: str,
    parameters: Inference,
) -> Work:
    """Return everything that a process needs to predict shards."""
    predictor = {
        "threshold": model.threshold(parameters.threshold),
        "flip": parameters.flip,
        "device": parameters.device,
        "precision": parameters.precision,
        "compile": parameters.compile,
        "engine": parameters.engine,
    }
    options = Options(
        kinds=_kinds(parameters),
        keep_largest=parameters.keep_largest,
        fill_holes=parameters.fill_holes,
        background=parameters.background,
        on_bad_image=parameters.on_bad_image,
        batch_size=parameters.batch_size,
        num_workers=parameters.num_workers,
    )
    return Work(model, trusted, predictor, images, predicted_images, shards, key, options)


def _kinds(parameters: Inference) -> list[Kind]:
    """Return the kinds of images that the parameters request."""
    return [kind for kind in KINDS if getattr(parameters, kind) is True]


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
    if kinds := _kinds(parameters.with_images(source.writes_images)):
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
