"""Images of single cases: what the model found in a photograph, and the place with the largest error."""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from carvana_kedro.parameters import ModelTraining
from carvana_kedro.results.embedding import embedded
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.stores.images.source import ImageSource

from ..examples import Example, first_rows, predict_examples

_WORST = 6
_CROP = 6  # a crop is one sixth as wide and as high as its image
_LONGER_SIDE = 720  # of the embedded images, in pixels

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True)
class Case:
    """One validation image.

    Attributes:
        image: Its id.
        car: Its car.
        dice: Its Dice coefficient.
        boundary_error: Mean distance between the edges, in pixels.
        missed: Number of pixels of the car that are not in the predicted mask.
        false_alarms: Number of other pixels that are in the predicted mask.
        found: The photograph, in color only within the predicted mask: webp in base64.
        framed: The same with a frame around the place with the largest error.
        crop: This place, enlarged, with the wrong pixels in color.
    """

    image: str
    car: str
    dice: float
    boundary_error: float
    missed: int
    false_alarms: int
    found: str
    framed: str
    crop: str


def choose(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the images to show: the one with the middle score, then the worst, at most two of a car."""
    ranked = scores.sort_values("dice", kind="stable")
    return pd.concat([ranked.iloc[[len(ranked) // 2]], first_rows(ranked, _WORST)])


def draw_cases(
    chosen: pd.DataFrame, model: TrainedModel, images: ImageSource, parameters: ModelTraining
) -> list[Case]:
    """Predict the masks of images, each with the model that was not trained on it, and draw them.

    Args:
        chosen: Rows of the scores: image, car, dice, boundary_error.
        model: Of the run.
        images: The source that it was trained on.
        parameters: The recipe.

    Returns:
        One case per row.

    Raises:
        UserError: The folds of the model do not fit the cars.
    """
    examples = predict_examples(chosen.drop_duplicates("image"), model, images, parameters)
    drawn = {case.image: case for case in map(_draw, examples)}
    return [drawn[image_id] for image_id in chosen["image"]]


def _draw(example: Example) -> Case:
    row, image, found, target = example.scores, example.image, example.found, example.target
    height, width = (max(side // _CROP, min(side, 8)) for side in target.shape)
    top, left = visualization.largest_error(found, target, height, width)
    part = np.s_[top : top + height, left : left + width]
    drawn = _resized(visualization.spotlight(image, found))
    framed = _framed(drawn, (left, top, width, height), drawn.shape[1] / image.shape[1])
    crop = visualization.errors(*(_resized(array[part]) for array in (image, found, target)))
    return Case(
        image=row["image"],
        car=row["car"],
        dice=row["dice"],
        boundary_error=row["boundary_error"],
        missed=int((target & ~found).sum()),
        false_alarms=int((found & ~target).sum()),
        found=embedded(drawn),
        framed=embedded(framed),
        crop=embedded(crop),
    )


def _framed(image: np.ndarray, box: Box, scale: float) -> np.ndarray:
    """Return a copy of an image with a frame around a box, whose coordinates are multiplied by a scale."""
    left, top, width, height = (round(scale * side) for side in box)
    drawn = image.copy()
    for color, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):  # seen on light and on dark images
        cv2.rectangle(drawn, (left, top, width, height), color, thickness)
    return drawn


def _resized(array: np.ndarray) -> np.ndarray:
    """Resize an image or a mask to the size at which it is embedded."""
    scale = _LONGER_SIDE / max(array.shape[:2])
    height, width = (max(1, round(scale * side)) for side in array.shape[:2])
    return visualization.resized(array, height, width)
