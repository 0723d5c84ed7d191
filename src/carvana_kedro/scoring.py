"""Scores of a model at the images' original size."""

import logging
from collections.abc import Iterable, Iterator, Sequence
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
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.segmentation.prediction.postprocessing import postprocess
from carvana_kedro.segmentation.prediction.prediction import Prediction, map_in_order
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.source import ImageSource

logger = logging.getLogger(__name__)


def score_images(
    pairs: Sequence[tuple[TrainedModel, pd.DataFrame]],
    images: ImageSource,
    parameters: ModelTraining | Inference,
    trusted: Iterable[str] = (),
    *,
    run_id: str,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Score images with masks at their original size.

    Args:
        pairs: Models, each with an index of images that it was not trained on.
        images: The source of these images.
        parameters: Threshold, hardware and batches. Those of inference also define postprocessing and flipping.
        trusted: Dotted paths of networks that may be imported: see `Member.build_network`.
        run_id: Of the model. All results carry it.

    Returns:
        One row per image, worst first (image, car, dice, iou, pixel_accuracy, boundary_dice of a band of 3 pixels,
        boundary_error in pixels); the threshold (the mean, of several models) and the means over the images, with the
        lowest Dice coefficient; and at thresholds 0.00, 0.01, ..., 0.99 the mean Dice coefficient, the number of pixels
        of all images whose probability reaches the threshold (positive), and how many of them are pixels of the car
        (true_positive).

    Raises:
        UserError: An index belongs to another source, or a model was trained on some of its images.
    """
    rows: list[dict[str, Any]] = []
    curve = ThresholdCurve()
    for model, index in pairs:
        rows += _score_model(model, index, images, parameters, curve, trusted)
    scores = pd.DataFrame(rows).sort_values("dice", kind="stable")
    means = {name: float(scores[name].mean()) for name in scores.columns.drop(["image", "car"])}
    logger.info(
        "Dice %.4f (%d images), lowest %.4f; boundary error %.1f pixels",
        means["dice"], len(scores), scores["dice"].min(), means["boundary_error"],
    )  # fmt: skip
    summary = {
        "run_id": run_id,
        "images": len(scores),
        "threshold": float(np.mean([model.threshold(parameters.threshold) for model, _ in pairs])),
        **means,
        "lowest_dice": float(scores["dice"].min()),
    }
    thresholds = pd.DataFrame(
        {
            "threshold": curve.thresholds,
            "dice": curve.dice(),
            "positive": curve.positive.sum(0),
            "true_positive": curve.true_positive.sum(0),
        }
    )
    return scores.assign(run_id=run_id), summary, thresholds.assign(run_id=run_id)


def _score_model(
    model: TrainedModel,
    index: pd.DataFrame,
    images: ImageSource,
    parameters: ModelTraining | Inference,
    curve: ThresholdCurve,
    trusted: Iterable[str],
) -> Iterator[dict[str, Any]]:
    """Yield one row per image, and add the image to the curve."""
    check_source(index, images, "--pipelines data_ingestion")
    _check_split(model, index)
    inference = parameters if isinstance(parameters, Inference) else Inference()
    predictor = Predictor.from_model(
        model,
        trusted=trusted,
        flip=inference.flip,
        device=parameters.device,
        precision=parameters.precision,
        compile=inference.compile,
        engine=inference.engine,
    )
    threshold = model.threshold(parameters.threshold)
    predictions = predictor.predict(
        images,
        index["image"].tolist(),
        batch_size=parameters.batch_size,
        num_workers=usable_workers(parameters.num_workers),
    )
    car_of = dict(zip(index["image"], index["car"], strict=True))

    def score(prediction: Prediction) -> tuple[dict[str, Any], ThresholdCurve]:
        image_id = prediction.image_id
        target = images.read_mask(image_id)
        mask = postprocess(
            prediction.mask(threshold), largest=inference.keep_largest, filled=inference.fill_holes
        )
        one = ThresholdCurve()
        try:
            with prediction.computing():
                logits = prediction.enlarged()[None]
                one.add(logits, torch.from_numpy(target).to(logits.device)[None])
            return {"image": image_id, "car": car_of[image_id], **mask_scores.scores(mask, target)}, one
        except Exception as error:
            raise UserError(f"{image_id} cannot be scored: {type(error).__name__}: {error}") from error

    scored = map_in_order(score, predictions)
    for row, one in tqdm(scored, "Evaluating", len(index), unit=" images", leave=False, disable=None):
        curve.extend(one)
        yield row


def seen_in_training(model: TrainedModel, index: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return which images a model was trained on, and which show a car of such an image.

    Images are known by their digests, so that a copy with another name is the same image. A model of an earlier version
    has no digests: if it was trained on this source, or on one with the same cars, its validation cars are unseen.

    Args:
        model: One or several networks. What one of them has seen counts.
        index: What `index_images` returns, or some of its rows.

    Returns:
        Two columns of bools. The second includes the first.
    """
    images = pd.Series(False, index=index.index)
    for member in model.members:
        seen = _seen_by(member, index)
        if seen is not None:
            images |= seen
        else:
            logger.warning(
                "The model %s does not say which images it was trained on, because an earlier version wrote it. If "
                "images of this source are among them, the scores are too high.", member.run_id,
            )  # fmt: skip
    return images, index["car"].isin(index.loc[images, "car"])


def _seen_by(member: Member, index: pd.DataFrame) -> pd.Series | None:
    """Return which images a network was trained on, or None if it does not say that."""
    if member.trained_on:
        return index["digest"].isin(member.trained_on)
    unseen = index["car"].isin(member.validation_cars)
    return ~unseen if member.source == index["source"].iat[0] or unseen.any() else None


def _check_split(model: TrainedModel, index: pd.DataFrame) -> None:
    """Check that no member of the model was trained on these images."""
    found = [seen.sum() for member in model.members if (seen := _seen_by(member, index)) is not None]
    if any(found):
        raise UserError(
            f"The model was trained with another split: it was trained on {max(found)} of these {len(index)} images. "
            "Train it again, with the same options: kedro run --pipelines model_training"
        )
