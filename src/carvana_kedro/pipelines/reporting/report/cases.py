"""Images of single cases: what the model found in a photograph, and the place with the largest error."""

import base64
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from carvana_kedro.folds import by_fold
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.source import ImageSource

_WORST = 6
_VIEWS_OF_A_CAR = 2
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
    worst = ranked[ranked.groupby("car").cumcount() < _VIEWS_OF_A_CAR].head(_WORST)
    return pd.concat([ranked.iloc[[len(ranked) // 2]], worst])


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
    drawn = {}
    unique = chosen.drop_duplicates("image")
    for member, rows in by_fold(model, unique) if len(model.members) > 1 else [(model, unique)]:
        predictor = Predictor.from_model(
            member,
            trusted=parameters.trusted(),
            device=parameters.device,
            precision=parameters.precision,
        )
        for _, row in rows.iterrows():
            image, target = images.read_image(row["image"]), images.read_mask(row["image"])
            drawn[row["image"]] = _draw(row, image, predictor(image) > 0, target > 0)
    return [drawn[image_id] for image_id in chosen["image"]]


def _draw(row: pd.Series, image: np.ndarray, found: np.ndarray, target: np.ndarray) -> Case:
    height, width = (max(side // _CROP, min(side, 8)) for side in target.shape)
    top, left = visualization.largest_error(found, target, height, width)
    part = np.s_[top : top + height, left : left + width]
    drawn = _resized(spotlight(image, found))
    return Case(
        image=row["image"],
        car=row["car"],
        dice=row["dice"],
        boundary_error=row["boundary_error"],
        missed=int((target & ~found).sum()),
        false_alarms=int((found & ~target).sum()),
        found=_embedded(drawn),
        framed=_embedded(_framed(drawn, (left, top, width, height), drawn.shape[1] / image.shape[1])),
        crop=_embedded(visualization.errors(*(_resized(array[part]) for array in (image, found, target)))),
    )


def spotlight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image whose colors remain within a mask; the rest is pale and gray.

    Unlike a tint, this shows the mask on a car of any color.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mask: `(H, W)` bool.
    """
    drawn = np.where(mask[..., None], image, _pale(image))
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, outlines, -1, visualization.CAR, max(1, round(image.shape[1] / 480)))


def _pale(image: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.cvtColor(gray // 2 + 112, cv2.COLOR_GRAY2RGB)


def _framed(image: np.ndarray, box: Box, scale: float) -> np.ndarray:
    """Return a copy of an image with a frame around a box, whose coordinates are multiplied by a scale."""
    left, top, width, height = (round(scale * side) for side in box)
    drawn = image.copy()
    for color, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):  # seen on light and on dark images
        cv2.rectangle(drawn, (left, top, width, height), color, thickness)
    return drawn


def _resized(image: np.ndarray) -> np.ndarray:
    """Resize an image, or a mask, whose outline gets smooth."""
    if image.dtype == bool:
        return _resized(image.astype(np.float32)) > 0.5
    scale = _LONGER_SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    size, smaller = (width, height), scale < 1
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _embedded(image: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(image).save(file, "webp", quality=75)
    return base64.b64encode(file.getvalue()).decode()
