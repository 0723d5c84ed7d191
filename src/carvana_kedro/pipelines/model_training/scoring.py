"""How good a model is, at the photographs' own size."""

import logging
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.segmentation import metrics
from carvana_kedro.segmentation.cleaning import clean
from carvana_kedro.segmentation.curves import ThresholdCurve
from carvana_kedro.segmentation.hardware import usable_workers
from carvana_kedro.segmentation.predictor import Predictor, best_threshold
from carvana_kedro.stores.images import Photographs

logger = logging.getLogger(__name__)


def score_images(
    model: dict[str, Any],
    index: pd.DataFrame,
    images: Photographs,
    parameters: ModelTraining | Inference,
) -> tuple[pd.DataFrame, dict[str, float], pd.DataFrame]:
    """Score images with masks at their original size.

    Args:
        model: or several as its `members`.
        index: images that the model has not seen.
        images: their source.
        parameters: threshold, hardware and batches; those of inference mend masks and mirror images besides.

    Returns:
        A row an image, worst first (image, dice, iou, pixel_accuracy, boundary_dice of a rim of 3 pixels,
        boundary_error in pixels); the means over the images, with the lowest Dice coefficient; and the mean Dice
        coefficient at every hundredth as the threshold.

    Raises:
        UserError: the index belongs to another source, or the model was trained on some of these images.
    """
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
    threshold = best_threshold(model) if parameters.threshold == "auto" else parameters.threshold
    predictions = predictor.predict(
        images,
        index["image"].tolist(),
        batch_size=parameters.batch_size,
        workers=usable_workers(parameters.workers),
    )
    rows, curve = [], ThresholdCurve()
    for prediction in tqdm(predictions, "Evaluating", len(index), unit=" images", leave=False, disable=None):
        mask = clean(prediction.mask(threshold), largest=inference.keep_largest, filled=inference.fill_holes)
        target = images.read_mask(prediction.image_id)
        logits = prediction.enlarged()[None]
        curve.add(logits, torch.from_numpy(target).to(logits.device)[None])
        rows.append(
            {
                "image": prediction.image_id,
                "dice": metrics.dice(mask, target),
                "iou": metrics.iou(mask, target),
                "pixel_accuracy": metrics.pixel_accuracy(mask, target),
                "boundary_dice": metrics.boundary_dice(mask, target, width=3),
                "boundary_error": metrics.boundary_error(mask, target),
            }
        )
    scores = pd.DataFrame(rows).sort_values("dice", kind="stable")
    means = {name: float(scores[name].mean()) for name in scores.columns.drop("image")}
    logger.info(
        "Dice at original size: %.4f (%d images); lowest %.4f; the outline is %.1f pixels off",
        means["dice"], len(scores), scores["dice"].min(), means["boundary_error"],
    )  # fmt: skip
    by_threshold = pd.DataFrame({"threshold": curve.thresholds, "dice": curve.dice()})
    summary = {
        "images": len(scores),
        "threshold": threshold,
        **means,
        "lowest_dice": float(scores["dice"].min()),
    }
    return scores, summary, by_threshold
