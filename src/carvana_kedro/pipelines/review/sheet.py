"""The review sheet: a web page of the masks that a person should look at, the unusual and doubtful ones first."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from carvana_kedro.results.embedding import embedded
from carvana_kedro.results.pages import templates
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.doubt import DOUBTFUL
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import PredictionShards
from carvana_kedro.stores.review.editable_masks import EditableMasks

from .nodes import predicted_masks

_SHOWN = 40
_LONGER_SIDE = 720  # of the pictures, in pixels


@dataclass(frozen=True)
class _Case:
    """A mask to look at.

    Attributes:
        row: Of the list.
        picture: The photograph with the mask's outline: webp in base64.
    """

    row: Any
    picture: str


def write_sheet(
    review_list: pd.DataFrame,
    predictions: dict[str, Any],
    prediction_shards: PredictionShards,
    test_images: ImageSource,
    editable_masks: EditableMasks,
) -> str:
    """Write the review sheet, from the template `sheet.html.j2`.

    Args:
        review_list: What `write_masks` returns. Masks that a person has changed or removed are listed, but not shown.
        predictions: The manifest of the predictions.
        prediction_shards: The predicted masks.
        test_images: The source of the images.
        editable_masks: The folder of the masks, beside which the page will be.

    Returns:
        The page as HTML.
    """
    shown = review_list[review_list["mask"] == "written"].head(_SHOWN)
    pictures = dict(_pictures(shown, predictions, prediction_shards, test_images))
    template = templates(__package__).get_template("sheet.html.j2")
    return template.render(
        cases=[_Case(row, pictures[str(row.image)]) for row in shown.itertuples()],
        masks=review_list,
        counts=Counter(review_list["mask"]),
        checkpoint=predictions.get("checkpoint"),
        run_id=predictions["run_id"],
        doubtful=DOUBTFUL,
        link=lambda file: f"{PurePath(str(editable_masks.folder)).name}/{quote(file)}",
    )


def _pictures(
    shown: pd.DataFrame,
    predictions: dict[str, Any],
    prediction_shards: PredictionShards,
    test_images: ImageSource,
) -> Iterator[tuple[str, str]]:
    for image_id, mask in predicted_masks(shown, predictions, prediction_shards):
        yield image_id, embedded(_outlined(test_images.read_image(image_id), mask))


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    scale = _LONGER_SIDE / max(mask.shape)
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    return visualization.spotlight(*(visualization.resized(array, height, width) for array in (image, mask)))
