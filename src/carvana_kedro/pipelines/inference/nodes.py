"""Nodes of the inference pipeline."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    """List every test image and every one that should be there, in the order of the sample submission."""
    return index_images(test_images)


def select_test_images(test_image_index: pd.DataFrame, parameters: Inference) -> pd.DataFrame:
    """Make sure that every test image can be predicted. A node of its own, so that it stops before any training.

    Raises:
        UserError: an image is missing, damaged or not one of the competition's, since a submission must have a
            row for every one; unless `on_bad_image` is `empty`.
    """
    advice = (
        "Every test image needs a mask. Put these right (or take them away, if they are yours), then run again; or "
        "leave their masks empty: --params inference.on_bad_image=empty"
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
    """Predict the mask of every test image at its original size, and write them away shard by shard.

    With them go the pictures that are asked for: masks, cut-outs, overlays. Shards that an earlier run has left, of the
    same model, images and parameters, are not predicted again.

    Returns:
        The manifest of the shards: their names in order, the number of images, and what they were made from.

    Raises:
        UserError: the index belongs to another source, or an image cannot be decoded.
    """
    check_source(test_index, test_images, "inference")
    parameters = parameters.with_images(source.writes_images)
    image_ids, size = test_index["image"].tolist(), parameters.shard_size
    trusted = model_training.trusted()
    origin = {
        "run_id": model.run_id,
        "model": model.digest(),
        "source": test_images.fingerprint(),
        "image_ids": provenance.images_digest(image_ids),
        "parameters": parameters.decisive(),
        "code": provenance.predicting_digest(model.extensions(trusted)),
    }
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
        left = {number: ids for number, ids in shards.items() if number not in names}
        if names:
            logger.info("%d of %d shards are there already", len(shards) - len(left), len(shards))
        if left:
            write = partial(prediction_shards.write, key)
            names |= _predict_shards(model, left, test_images, write, predicted_images, parameters, trusted)
    return {
        **origin,
        "images": len(image_ids),
        "shards": [names[number] for number in shards],
    }


def _predict_shards(
    model: TrainedModel,
    shards: Mapping[int, Sequence[str]],
    images: ImageSource,
    write: Callable[[int, Sequence[Row]], str],
    pictures: PredictedImages,
    parameters: Inference,
    trusted: Sequence[str],
) -> dict[int, str]:
    """Predict and write some shards, their pictures first; return their names by number."""
    predictor = Predictor.from_model(
        model,
        trusted=trusted,
        flip=parameters.flip,
        device=parameters.device,
        precision=parameters.precision,
        compile=parameters.compile,
        engine=parameters.engine,
    )
    threshold = model.threshold(parameters.threshold)
    how = (
        predictor.hardware if parameters.engine == "torch" else f"{predictor.hardware.device} in ONNX Runtime"
    )
    logger.info("Predicting at a threshold of %.2f on %s", threshold, how)
    kinds = _kinds(parameters)
    image_ids = [image_id for shard in shards.values() for image_id in shard]
    predictions = predictor.predict(
        images,
        image_ids,
        batch_size=parameters.batch_size,
        num_workers=usable_workers(parameters.num_workers),
        shard_size=parameters.shard_size,
        on_bad_image=parameters.on_bad_image,
    )
    progress = iter(
        tqdm(predictions, "Predicting", len(image_ids), unit=" images", leave=False, disable=None)
    )

    def row(prediction: Prediction) -> Row:
        image_id = prediction.image_id
        if prediction.problem:
            logger.warning("The mask of %s is empty: %s", image_id, prediction.problem)
        elif kinds or parameters.keep_largest or parameters.fill_holes:
            mask = postprocess(
                prediction.mask(threshold), largest=parameters.keep_largest, filled=parameters.fill_holes
            )
            for kind in kinds:
                image = images.read_image(image_id)
                pictures.write(kind, image_id, _picture(kind, image, mask, prediction, threshold, parameters))
            return image_id, run_lengths.encode(mask)
        return image_id, run_lengths.format_runs(prediction.edges(threshold))

    return {number: write(number, [row(next(progress)) for _ in ids]) for number, ids in shards.items()}


def _kinds(parameters: Inference) -> list[Kind]:
    """Return the kinds of pictures that are asked for."""
    kinds: tuple[Kind, ...] = ("masks", "cutouts", "overlays")
    return [kind for kind in kinds if getattr(parameters, kind) is True]


def _picture(
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
    color = parameters.background.removeprefix("#")
    red, green, blue = bytes.fromhex(color) if color != "transparent" else (0, 0, 0)
    return cut_out(image, alpha, None if color == "transparent" else (red, green, blue))


def write_submission(predictions: dict[str, Any], prediction_shards: PredictionShards) -> ShardRows:
    """Return the rows of all shards in order; the submission's dataset drains them into its file."""
    return prediction_shards.read(predictions["shards"])


def summarize_predictions(
    predictions: dict[str, Any],
    test_index: pd.DataFrame,
    prediction_shards: PredictionShards,
    predicted_images: PredictedImages,
    parameters: Inference,
    source: SourceDescription,
) -> pd.DataFrame:
    """Say what was found in every image: a mask that is empty, or covers far more than the others, is worth a look.

    Returns:
        A row an image: image, width, height, covered (share of the picture that is car), runs (of pixels, in the
        submission), problems (what the index says is wrong with the file).
    """
    rows = []
    for image_id, runs in prediction_shards.read(predictions["shards"]):
        lengths = runs.split()[1::2]
        rows.append((image_id, sum(map(int, lengths)), len(lengths)))
    found = pd.DataFrame(rows, columns=["image", "covered", "runs"])
    summary = test_index[["image", "width", "height", "problems"]].merge(found, on="image", validate="1:1")
    # Of a photograph without a size nothing was predicted.
    summary["covered"] /= (summary["width"] * summary["height"]).clip(lower=1)
    lines = [f"{len(summary)} images", f"{(summary['runs'] == 0).sum()} masks are empty"]
    shares = summary[summary["runs"] > 0].set_index("image")["covered"]
    if len(shares):
        lines.append(
            f"where there is a car, it covers {shares.mean():.1%} of the picture, from {shares.min():.1%} "
            f"({shares.idxmin()}) to {shares.max():.1%} ({shares.idxmax()})"
        )
    if kinds := _kinds(parameters.with_images(source.writes_images)):
        lines.append(f"{', '.join(kinds)} are in {predicted_images.folder}")
    logger.info("Predicted: %s", "\n  ".join(lines))
    return summary[["image", "width", "height", "covered", "runs", "problems"]]
