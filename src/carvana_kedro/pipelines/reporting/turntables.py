"""Turntables: the views of a car as an animation, each photograph beside its cut-out."""

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Reporting
from carvana_kedro.provenance import check_predictions
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring.visualization import fitted
from carvana_kedro.segmentation.prediction.cutouts import cut_out
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import SubmissionFile

logger = logging.getLogger(__name__)

_SIDE = 480  # pixels of the longer side of a photograph
_BACKGROUND = (208, 221, 232)  # cars of any color stand out from it


def draw_turntables(
    submission: SubmissionFile,
    predictions: dict[str, Any],
    model: TrainedModel,
    test_index: pd.DataFrame,
    test_images: ImageSource,
    reporting: Reporting,
) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Draw the views of some cars, each photograph beside its cut-out.

    The cut-outs show the masks of the submission. Reduced to the size of a frame, these have soft edges.

    Args:
        submission: the (image id, run lengths) rows of the submission file.
        predictions: the manifest of the predictions.
        model: that predicted them.
        test_index: the images of each car.
        test_images: the source's test side.
        reporting: how many cars to draw.

    Returns:
        Functions that draw the frames of a car, (H, W, 3) uint8 RGB of one size, by the name of the car. Cars with one
        readable view have none.

    Raises:
        UserError: the predictions were made with another model (see `check_predictions`), or of other images.
    """
    check_predictions(predictions, submission, model)
    cars = _views(test_index, set(predictions.get("problems", {})))
    count = len(cars) if reporting.turntables is None else min(reporting.turntables, len(cars))
    if not cars:
        logger.info("No turntables: no car of the test images has two views that can be read.")
    names = [list(cars)[number] for number in np.linspace(0, len(cars) - 1, count).astype(int)]
    wanted = {image_id for name in names for image_id in cars[name]}
    runs = {image_id: text for image_id, text in submission if image_id in wanted}
    if wanted - runs.keys():
        raise UserError(
            f"{submission} lacks images of test_index, such as {min(wanted - runs.keys())}: the test images were "
            "listed again since. Predict again, with the same options: kedro run --pipelines inference"
        )
    return {name: partial(_frames, test_images, {view: runs[view] for view in cars[name]}) for name in names}


def _views(index: pd.DataFrame, unreadable: set[str]) -> dict[str, list[str]]:
    """Return the images of each car that has several, in the order of their numbers."""
    usable = index[(index["problems"] == "") & ~index["image"].isin(unreadable)]
    views = {str(car): sorted(images, key=_in_order) for car, images in usable.groupby("car")["image"]}
    return {car: images for car, images in views.items() if len(images) > 1}


def _in_order(name: str) -> list[str | int]:
    """Return a key that sorts `car_2` before `car_10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _frames(images: ImageSource, masks: Mapping[str, str]) -> list[np.ndarray]:
    """Draw the frames of a car. Images of another shape than the largest are centered."""
    pairs = [_pair(images, image_id, runs) for image_id, runs in masks.items()]
    height, width = np.max([photograph.shape[:2] for photograph, _ in pairs], axis=0)
    box = height, width, _BACKGROUND
    return [np.concatenate([fitted(half, *box)[0] for half in pair], axis=1) for pair in pairs]


def _pair(images: ImageSource, image_id: str, runs: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a photograph at the size of a frame, and its cut-out on a plain background."""
    size = images.size(image_id)
    scale = min(1.0, _SIDE / max(size))
    height, width = (max(1, round(scale * length)) for length in size)
    photograph = images.read_image(image_id, at_least=(height, width))
    small = np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    mask = run_lengths.decode(runs, *size).astype(np.float32)
    alpha = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).clip(0, 1)
    return small, cut_out(small, alpha, _BACKGROUND)
