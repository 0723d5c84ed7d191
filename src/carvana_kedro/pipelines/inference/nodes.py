"""Nodes of the inference pipeline."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from carvana_kedro import provenance
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.image_index import check_source, first_few, index_images, usable_images
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.segmentation.hardware import usable_workers
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.cutouts import alpha_of, cut_out
from carvana_kedro.segmentation.prediction.postprocessing import postprocess
from carvana_kedro.segmentation.prediction.predictor import Prediction, Predictor
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import Kind, PredictedImages, PredictionShards, ShardRows
from carvana_kedro.stores.tables import Row

logger = logging.getLogger(__name__)


def index_test_images(test_images: ImageSource) -> pd.DataFrame:
    """List every test image, including missing ones, in the order of the sample submission."""
    return index_images(test_images)


def select_test_images(test_image_index: pd.DataFrame, parameters: Inference) -> pd.DataFrame:
    """Check that every test image can be predicted. This is a separate node so that a run stops before training.

    Args:
        test_image_index: What `index_test_images` returns.
        parameters: `inference`.

    Returns:
        The index, unchanged.

    Raises:
        UserError: `on_bad_image` is `stop`, and an image is missing, damaged or not part of the competition.
    """
    advice = (
        "Every test image needs a mask. Correct these files (or remove them, if they are your own), then run again. To "
        "leave their masks empty instead: --params inference.on_bad_image=empty"
    )
    usable = usable_images(test_image_index, "skip" if parameters.on_bad_image == "empty" else "stop", advice)
    if len(usable) < len(test_image_index):
        bad = test_image_index[test_image_index["problems"] != ""]
        lines = [f"{row.image}: {row.problems}" for row in bad.itertuples()]
        logger.warning("%d masks will be empty:\n%s", len(bad), first_few(lines))
    return test_image_index


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
    """Predict the mask of every test image at its original size, and write the masks shard by shard.

    The images that the parameters request are written too: masks, cut-outs, overlays. Shards that an earlier run has
    written from the same model, images and parameters are not predicted again.

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
        The manifest of the shards: their names in order, the number of images, and what they were made from.

    Raises:
        UserError: The index was made from other files, the model cannot be built, or an image cannot be read.
    """
    check_source(test_index, test_images, "inference")
    parameters = parameters.with_images(source.writes_images)
    image_ids, size = test_index["image"].tolist(), parameters.shard_size
    trusted = model_training.trusted()
    origin = _origin(model, image_ids, test_images, parameters, trusted)
    key = provenance.run_id(origin)
    shards = {
        number: image_ids[start : start + size] for number, start in enumerate(range(0, len(image_ids), size))
    }
    with prediction_shards.locked(key):
        kinds = _kinds(parameters)
        names = {
            number: name
            for number, name in prediction_shards.find(key).items()
            if predicted_images.has(kinds, shards[number])
        }
        missing = {number: ids for number, ids in shards.items() if number not in names}
        if names:
            logger.info("%d of %d shards already exist", len(shards) - len(missing), len(shards))
        if missing:
            predictor = _build_predictor(model, parameters, trusted)
            write = partial(prediction_shards.write, key)
            names |= _predict_shards(predictor, missing, test_images, write, predicted_images, parameters)
    return {
        **origin,
        "images": len(image_ids),
        "shards": [names[number] for number in shards],
    }


def _origin(
    model: TrainedModel,
    image_ids: Sequence[str],
    images: ImageSource,
    parameters: Inference,
    trusted: Sequence[str],
) -> dict[str, Any]:
    """Return everything that decides the predicted masks."""
    return {
        "run_id": model.run_id,
        "model": model.digest(),
        "source": images.fingerprint(),
        "image_ids": provenance.images_digest(image_ids),
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


def _predict_shards(
    predictor: Predictor,
    shards: Mapping[int, Sequence[str]],
    images: ImageSource,
    write: Callable[[int, Sequence[Row]], str],
    predicted_images: PredictedImages,
    parameters: Inference,
) -> dict[int, str]:
    """Predict and write shards, each of them after its images; return their names by number."""
    image_ids = [image_id for shard in shards.values() for image_id in shard]
    predictions = predictor.predict(
        images,
        image_ids,
        batch_size=parameters.batch_size,
        num_workers=usable_workers(parameters.num_workers),
        shard_size=parameters.shard_size,
        on_bad_image=parameters.on_bad_image,
    )
    progress = tqdm(predictions, "Predicting", len(image_ids), unit=" images", leave=False, disable=None)
    rows = (
        _row(prediction, predictor.threshold, images, predicted_images, parameters) for prediction in progress
    )
    return {number: write(number, list(islice(rows, len(ids)))) for number, ids in shards.items()}


def _row(
    prediction: Prediction,
    threshold: float,
    images: ImageSource,
    predicted_images: PredictedImages,
    parameters: Inference,
) -> Row:
    """Return the row of an image in the submission. Write the images that the parameters request."""
    image_id, kinds = prediction.image_id, _kinds(parameters)
    if prediction.problem:
        logger.warning("The mask of %s is empty: %s", image_id, prediction.problem)
    elif kinds or parameters.keep_largest or parameters.fill_holes:
        mask = prediction.mask(threshold)
        mask = postprocess(mask, largest=parameters.keep_largest, filled=parameters.fill_holes)
        for kind in kinds:
            image = images.read_image(image_id)
            predicted_image = _predicted_image(kind, image, mask, prediction, threshold, parameters)
            predicted_images.write(kind, image_id, predicted_image)
        return image_id, run_lengths.encode(mask)
    # The mask itself is not needed, and a GPU finds its edges.
    return image_id, run_lengths.format_runs(prediction.edges(threshold))


def _kinds(parameters: Inference) -> list[Kind]:
    """Return the kinds of images that the parameters request."""
    kinds: tuple[Kind, ...] = ("masks", "cutouts", "overlays")
    return [kind for kind in kinds if getattr(parameters, kind) is True]


def _predicted_image(
    kind: Kind,
    image: np.ndarray,
    mask: np.ndarray,
    prediction: Prediction,
    threshold: float,
    parameters: Inference,
) -> np.ndarray:
    if kind == "masks":
        return mask
    if kind == "overlays":
        return visualization.overlay(image, mask)
    alpha = alpha_of(prediction.probabilities(), mask, threshold)
    return cut_out(image, alpha, _color(parameters.background))


def _color(background: str) -> tuple[int, int, int] | None:
    """Return a color such as `#ff8000` as (red, green, blue); None for `transparent`."""
    if background == "transparent":
        return None
    red, green, blue = bytes.fromhex(background.removeprefix("#"))
    return red, green, blue


def write_submission(predictions: dict[str, Any], prediction_shards: PredictionShards) -> ShardRows:
    """Return the rows of all shards in order. The dataset of the submission writes them to its file."""
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
        (number of runs of pixels in the submission), problems (problems of the file, from the index).
    """
    rows = []
    for image_id, runs in prediction_shards.read(predictions["shards"]):
        lengths = runs.split()[1::2]
        rows.append((image_id, sum(map(int, lengths)), len(lengths)))
    found = pd.DataFrame(rows, columns=["image", "covered", "runs"])
    summary = test_index[["image", "width", "height", "problems"]].merge(found, on="image", validate="1:1")
    # An image that cannot be read has no size and an empty mask.
    summary["covered"] /= (summary["width"] * summary["height"]).clip(lower=1)
    lines = [f"{len(summary)} images", f"empty masks: {(summary['runs'] == 0).sum()}"]
    shares = summary[summary["runs"] > 0].set_index("image")["covered"]
    if len(shares):
        lines.append(
            f"other masks cover {shares.mean():.1%} of the image on average, from {shares.min():.1%} "
            f"({shares.idxmin()}) to {shares.max():.1%} ({shares.idxmax()})"
        )
    if kinds := _kinds(parameters.with_images(source.writes_images)):
        lines.append(f"{', '.join(kinds)} are in {predicted_images.folder}")
    logger.info("Predicted: %s", "\n  ".join(lines))
    return summary[["image", "width", "height", "covered", "runs", "problems"]]
