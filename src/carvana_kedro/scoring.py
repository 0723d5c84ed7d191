"""How good a model is, at the photographs' own size."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.segmentation.hardware import usable_workers
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.prediction.postprocessing import clean
from carvana_kedro.segmentation.prediction.predictor import Predictor, best_threshold
from carvana_kedro.stores.images.source import ImageSource

logger = logging.getLogger(__name__)


def score_images(
    pairs: Sequence[tuple[dict[str, Any], pd.DataFrame]],
    images: ImageSource,
    parameters: ModelTraining | Inference,
) -> tuple[pd.DataFrame, dict[str, float], pd.DataFrame]:
    """Score images with masks at their original size.

    Args:
        pairs: models, or several as the `members` of one; each with an index of images that it has not seen.
        images: their source.
        parameters: threshold, hardware and batches; those of inference mend masks and mirror images besides.

    Returns:
        A row an image, worst first (image, car, dice, iou, pixel_accuracy, boundary_dice of a rim of 3 pixels,
        boundary_error in pixels); the threshold (of several the mean) and the means over the images, with the lowest
        Dice coefficient; and the mean Dice coefficient at every hundredth as the threshold.

    Raises:
        UserError: an index belongs to another source, or a model was trained on some of its images.
    """
    rows: list[dict[str, Any]] = []
    curve = ThresholdCurve()
    for model, index in pairs:
        rows += _scored(model, index, images, parameters, curve)
    scores = pd.DataFrame(rows).sort_values("dice", kind="stable")
    means = {name: float(scores[name].mean()) for name in scores.columns.drop(["image", "car"])}
    logger.info(
        "Dice at original size: %.4f (%d images); lowest %.4f; the outline is %.1f pixels off",
        means["dice"], len(scores), scores["dice"].min(), means["boundary_error"],
    )  # fmt: skip
    summary = {
        "images": len(scores),
        "threshold": float(np.mean([_threshold(model, parameters) for model, _ in pairs])),
        **means,
        "lowest_dice": float(scores["dice"].min()),
    }
    return scores, summary, pd.DataFrame({"threshold": curve.thresholds, "dice": curve.dice()})


def _threshold(model: dict[str, Any], parameters: ModelTraining | Inference) -> float:
    return best_threshold(model) if parameters.threshold == "auto" else parameters.threshold


def _scored(
    model: dict[str, Any],
    index: pd.DataFrame,
    images: ImageSource,
    parameters: ModelTraining | Inference,
    curve: ThresholdCurve,
) -> Iterator[dict[str, Any]]:
    """Yield a row an image, and add it to the curve."""
    check_source(index, images, "data_ingestion")
    members = model.get("members", [model])
    cars = sorted(index["car"].unique())
    if any(
        member["source"] == images.fingerprint() and not {*cars} <= {*member["validation_cars"]}
        for member in members
    ):
        raise UserError(
            "The model was trained with another split: some of these validation cars may be among those it has seen. "
            "Train it anew, with the same options: kedro run --pipelines model_training"
        )
    inference = parameters if isinstance(parameters, Inference) else Inference()
    predictor = Predictor.from_model(
        model,
        flip=inference.flip,
        device=parameters.device,
        precision=parameters.precision,
        compile=inference.compile,
        engine=inference.engine,
    )
    threshold = _threshold(model, parameters)
    predictions = predictor.predict(
        images,
        index["image"].tolist(),
        batch_size=parameters.batch_size,
        num_workers=usable_workers(parameters.num_workers),
    )
    car_of = dict(zip(index["image"], index["car"], strict=True))
    for prediction in tqdm(predictions, "Evaluating", len(index), unit=" images", leave=False, disable=None):
        mask = clean(prediction.mask(threshold), largest=inference.keep_largest, filled=inference.fill_holes)
        target = images.read_mask(prediction.image_id)
        logits = prediction.enlarged()[None]
        curve.add(logits, torch.from_numpy(target).to(logits.device)[None])
        yield {
            "image": prediction.image_id,
            "car": car_of[prediction.image_id],
            "dice": mask_scores.dice(mask, target),
            "iou": mask_scores.iou(mask, target),
            "pixel_accuracy": mask_scores.pixel_accuracy(mask, target),
            "boundary_dice": mask_scores.boundary_dice(mask, target, width=3),
            "boundary_error": mask_scores.boundary_error(mask, target),
        }
