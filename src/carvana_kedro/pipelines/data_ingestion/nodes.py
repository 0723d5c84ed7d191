"""Nodes of the data_ingestion pipeline."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_masks, index_images, usable_images
from carvana_kedro.parameters import DataIngestion
from carvana_kedro.stores.images.source import ImageSource

logger = logging.getLogger(__name__)


def index_training_images(training_images: ImageSource, parameters: DataIngestion) -> pd.DataFrame:
    """List every training image, with its size, mask area and problems.

    Args:
        training_images: the source's training side.
        parameters: `data_ingestion`.

    Returns:
        One row per image: see `index_images`.

    Raises:
        UserError: there are no images.
    """
    return index_images(training_images, parameters.mask_check_fraction)


def split_cars(
    training_image_index: pd.DataFrame, parameters: DataIngestion
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Split the images by car, stratified by mask area.

    All views of a car go to the same side, because they are similar. The cars are sorted by their mean mask area and
    divided into as many groups as there are validation cars; one random car of each group is for validation.

    Args:
        training_image_index: what `index_training_images` returns.
        parameters: `data_ingestion`.

    Returns:
        The rows of the index to train on, the rows to validate on, and the parameters, for the record.

    Raises:
        UserError: images cannot be used and `on_problem` is `stop`; fewer than two cars are left; or all masks to train
            on are empty, or all are full.
    """
    index = usable_images(
        training_image_index,
        parameters.on_problem,
        "Repair them, or leave them out: --params data_ingestion.on_problem=skip",
    )
    random = np.random.default_rng(parameters.seed)
    cars = index.groupby("car")["mask_area"].mean().sort_index()
    drawn = random.permutation(len(cars))[: max(2, round(parameters.sample_fraction * len(cars)))]
    cars = cars.iloc[np.sort(drawn)].sort_values(kind="stable")
    if len(cars) < 2:
        raise UserError(
            f"The split needs at least 2 cars with usable images, but there is {len(cars)}. (With source=folder, "
            "folder.group says which images show the same car.)"
        )
    count = min(max(1, round(parameters.validation_fraction * len(cars))), len(cars) - 1)
    chosen = [random.choice(group) for group in np.array_split(cars.index.to_numpy(), count)]
    used = index[index["car"].isin(cars.index)]
    validation = used["car"].isin(chosen)
    check_masks(used[~validation])
    if (used["mask_area"][validation] == 0).all():
        logger.warning(
            "All masks of the validation images are empty: the scores say nothing. Try another data_ingestion.seed."
        )
    logger.info(
        "%d cars to train on (%d images), %d to validate on (%d images)",
        len(cars) - count, (~validation).sum(), count, validation.sum(),
    )  # fmt: skip
    return used[~validation], used[validation], parameters.model_dump(mode="json")
