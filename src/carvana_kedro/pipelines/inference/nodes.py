"""Nodes of the inference pipeline."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from carvana_kedro import provenance
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source, first_few, index_images, usable_images
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.results.doubt import doubtful_masks
from carvana_kedro.segmentation.hardware import usable_workers
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.cutouts import alpha_of, cut_out
from carvana_kedro.segmentation.prediction.postprocessing import postprocess
from carvana_kedro.segmentation.prediction.prediction import Prediction, map_in_order
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import (
    KINDS,
    Kind,
    PredictedImages,
    PredictionShards,
    Seal,
    ShardRows,
)
from carvana_kedro.stores.tables import Row

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
    with prediction_shards.locked():
        shards = {
            number: shard
            for number, shard in prediction_shards.find(key).items()
            if number in jobs and predicted_images.are_intact(jobs[number].names, shard.images)
        }
        missing = {number: job for number, job in jobs.items() if number not in shards}
        if shards:
            logger.info("%d of %d shards of masks exist from an earlier run", len(shards), len(jobs))
        predictor = _build_predictor(model, parameters, trusted) if missing else None
        predicted_images.remove_others(
            kept={name for shard in shards.values() for name in shard.images},
            expected={name for job in jobs.values() for name in job.names},
            shards=prediction_shards,
        )
        if predictor:
            found = _predict_jobs(predictor, missing, test_images, predicted_images, parameters)
            for number, written in found:
                shards[number] = prediction_shards.write(key, number, *written)
            if test_images.fingerprint() != origin["source"]:
                prediction_shards.remove(key)  # some may be of the earlier contents, some of the new
                raise UserError(
                    f"Files in {test_images.images} changed while they were predicted. Run again."
                )
        names = [shards[number].name for number in jobs]
        return {
            **origin,
            "checkpoint": model.checkpoint,
            "images": len(test_index),
            "shards": names,
            "rows_sha256": prediction_shards.read(names).sha256(),
            "problems": {image: text for shard in shards.values() for image, text in shard.problems.items()},
        }


@dataclass(frozen=True)
class _Job:
    """The images of one shard.

    Attributes:
        image_ids: All of them, in order.
        readable: Those without a problem in the index.
        names: Of the image files that are written for them.
    """

    image_ids: Sequence[str]
    readable: Sequence[str]
    names: Sequence[str]


def _jobs(index: pd.DataFrame, predicted_images: PredictedImages, parameters: Inference) -> dict[int, _Job]:
    """Return the images of each shard by its number."""
    jobs = {}
    for number, start in enumerate(range(0, len(index), parameters.shard_size)):
        rows = index.iloc[start : start + parameters.shard_size]
        readable = rows.loc[rows["problems"] == "", "image"].tolist()
        names = [
            predicted_images.name(kind, image_id) for image_id in readable for kind in _kinds(parameters)
        ]
        jobs[number] = _Job(rows["image"].tolist(), readable, names)
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


def _build_predictor(model: TrainedModel, parameters: Inference, trusted: Sequence[str]) -> Predictor:
    """Build the predictor of a model, and log its threshold and hardware."""
    predictor = Predictor.from_model(
        model,
        threshold=model.threshold(parameters.threshold),
        trusted=trusted,
        flip=parameters.flip,
        device=parameters.device,
        precision=parameters.precision,
        compile=parameters.compile,
        engine=parameters.engine,
    )
    hardware = (
        predictor.hardware if parameters.engine == "torch" else f"{predictor.hardware.device} in ONNX Runtime"
    )
    logger.info("Predicting at a threshold of %.2f on %s", predictor.threshold, hardware)
    return predictor


def _predict_jobs(
    predictor: Predictor,
    jobs: Mapping[int, _Job],
    images: ImageSource,
    predicted_images: PredictedImages,
    parameters: Inference,
) -> Iterator[tuple[int, tuple[list[Row], dict[str, Seal], dict[str, str], dict[str, float]]]]:
    """Predict the images of shards, and write their image files in threads while the next images are predicted.

    Yields:
        The number of a shard, and its rows, the seals of its image files, its problems and its doubts.
    """
    readable = [image_id for job in jobs.values() for image_id in job.readable]
    predictions = predictor.predict(
        images,
        readable,
        batch_size=parameters.batch_size,
        num_workers=usable_workers(parameters.num_workers),
        threshold=None if _needs_masks(parameters) else predictor.threshold,
        shard_sizes=[len(job.readable) for job in jobs.values()],
        on_bad_image=parameters.on_bad_image,
    )
    write = partial(
        _write,
        threshold=predictor.threshold,
        images=images,
        predicted_images=predicted_images,
        parameters=parameters,
    )
    found = map_in_order(write, predictions)
    progress = iter(tqdm(found, "Predicting", len(readable), unit=" images", leave=False, disable=None))
    for number, job in jobs.items():
        rows = dict.fromkeys(job.image_ids, "")
        written: dict[str, Seal] = {}
        problems: dict[str, str] = {}
        doubts: dict[str, float] = {}
        for image_id in job.readable:
            rows[image_id], seals, problem, doubt = next(progress)
            if problem:
                logger.warning("The mask of %s is empty: %s", image_id, problem)
                problems[image_id] = problem
            else:
                doubts[image_id] = round(doubt, 2)
            written |= seals
        yield number, (list(rows.items()), written, problems, doubts)


def _write(
    prediction: Prediction,
    threshold: float,
    images: ImageSource,
    predicted_images: PredictedImages,
    parameters: Inference,
) -> tuple[str, dict[str, Seal], str, float]:
    """Write the image files that the parameters request.

    Returns:
        The run lengths of the mask, the seals of the files, and the problem and the doubt of the prediction.
    """
    image_id = prediction.image_id
    if prediction.problem:
        return "", {}, prediction.problem, 0.0
    try:
        if not _needs_masks(parameters):
            return run_lengths.format_runs(prediction.edges(threshold)), {}, "", prediction.doubt()
        mask = prediction.mask(threshold)
        mask = postprocess(mask, largest=parameters.keep_largest, filled=parameters.fill_holes)
        photograph = cache(partial(images.read_image, image_id))
        seals = {}
        for kind in _kinds(parameters):
            picture = _picture(kind, photograph, mask, prediction, threshold, parameters)
            seals[predicted_images.name(kind, image_id)] = predicted_images.write(kind, image_id, picture)
        return run_lengths.encode(mask), seals, "", prediction.doubt()
    except Exception as error:
        error.add_note(f"This happened while the prediction for {image_id} was written.")
        raise


def _needs_masks(parameters: Inference) -> bool:
    """Return whether the masks themselves are needed; otherwise their edges are enough, which a GPU finds."""
    return bool(_kinds(parameters)) or parameters.keep_largest or parameters.fill_holes


def _kinds(parameters: Inference) -> list[Kind]:
    """Return the kinds of images that the parameters request."""
    return [kind for kind in KINDS if getattr(parameters, kind) is True]


def _picture(
    kind: Kind,
    photograph: Callable[[], np.ndarray],
    mask: np.ndarray,
    prediction: Prediction,
    threshold: float,
    parameters: Inference,
) -> np.ndarray:
    """Return what the file of a kind shows. The photograph is read when it is needed."""
    if kind == "masks":
        return mask
    if kind == "overlays":
        return visualization.overlay(photograph(), mask)
    alpha = alpha_of(prediction.probabilities(), mask, threshold)
    return cut_out(photograph(), alpha, _color(parameters.background))


def _color(background: str) -> tuple[int, int, int] | None:
    """Return a color such as `#ff8000` as (red, green, blue); None for `transparent`."""
    if background == "transparent":
        return None
    red, green, blue = bytes.fromhex(background.removeprefix("#"))
    return red, green, blue


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
