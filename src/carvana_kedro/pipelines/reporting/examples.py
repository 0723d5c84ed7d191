"""Examples of validation images: which ones a picture or page shows, and what the model finds in them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from carvana_kedro.folds import by_fold
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.source import ImageSource

_VIEWS_OF_A_CAR = 2


def first_rows(ranked: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the first rows of a ranking of images, at most two of a car.

    Args:
        ranked: One row per image: car, and any others.
        count: Number of rows, if there are that many.
    """
    return ranked.groupby("car", sort=False).head(_VIEWS_OF_A_CAR).head(count)


@dataclass(frozen=True)
class Example:
    """A validation image, and what a model finds in it.

    Attributes:
        scores: Its row of the scores.
        image: `(H, W, 3)` uint8 RGB.
        target: `(H, W)` bool, the true mask.
        found: `(H, W)` bool, the predicted mask.
    """

    scores: "pd.Series"
    image: np.ndarray
    target: np.ndarray
    found: np.ndarray


def predict_examples(
    chosen: pd.DataFrame, model: TrainedModel, images: ImageSource, parameters: ModelTraining
) -> Iterator[Example]:
    """Predict the masks of validation images, each with the model that was not trained on it.

    Args:
        chosen: Rows of the scores, one per image: image, car, and the measures.
        model: Of the run.
        images: The source that it was trained on.
        parameters: Say where to compute, and which code outside this package may be imported.

    Raises:
        UserError: The folds of the model do not fit the cars.
    """
    for member, rows in by_fold(model, chosen) if len(model.members) > 1 else [(model, chosen)]:
        predictor = Predictor.from_model(
            member,
            trusted=parameters.trusted(),
            device=parameters.device,
            precision=parameters.precision,
        )
        for _, row in rows.iterrows():
            image, target = images.read_image(row["image"]), images.read_mask(row["image"])
            yield Example(row, image, target > 0, predictor(image) > 0)
