"""Car folds: one model per fold, trained without a part of the cars and validated on that part."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from carvana_kedro.errors import UserError

if TYPE_CHECKING:
    from carvana_kedro.segmentation.model import TrainedModel

Sides = tuple[pd.DataFrame, pd.DataFrame]


def split_folds(
    train_index: pd.DataFrame, validation_index: pd.DataFrame, folds: int, seed: int
) -> list[Sides]:
    """Return the training and validation images of each model.

    The cars are sorted by mean mask area and cut into groups of `folds`; each fold gets one car of each group.

    Args:
        train_index: Images to train on.
        validation_index: Images to validate on; the folds treat them like the others.
        folds: Number of folds; 0 keeps the two sides as they are, for one model.
        seed: Of the split.

    Raises:
        UserError: There are fewer cars than folds.
    """
    if not folds:
        return [(train_index, validation_index)]
    index = pd.concat([train_index, validation_index]).sort_values("image")
    cars = index.groupby("car")["mask_area"].mean().sort_values(kind="stable").index
    if len(cars) < folds:
        raise UserError(f"{len(cars)} cars cannot be split into {folds} folds: lower model_training.folds.")
    random = np.random.default_rng(seed)
    groups = -(-len(cars) // folds)
    # The first group is whole, so no fold is empty.
    folds_in_order = np.concatenate([random.permutation(folds) for _ in range(groups)])
    fold = index["car"].map(dict(zip(cars, folds_in_order, strict=False)))
    return [(index[fold != number], index[fold == number]) for number in range(folds)]


def by_fold(model: "TrainedModel", index: pd.DataFrame) -> list[tuple["TrainedModel", pd.DataFrame]]:
    """Pair each fold's model with the images of the cars that only this model was not trained on.

    Args:
        model: Of folds.
        index: Images, with their cars.

    Returns:
        Models of one member, each with its rows of the index; models without rows are left out.

    Raises:
        UserError: For some car, not exactly one member was trained without it.
    """
    members = [replace(model, members=(member,)) for member in model.members]
    parts = [index[index["car"].isin(member.members[0].validation_cars)] for member in members]
    if sorted(image for part in parts for image in part["image"]) != sorted(index["image"]):
        raise UserError(
            "The model's folds do not fit these cars: each car must be a validation car of exactly one fold. "
            "Train it again, with the same options: kedro run --pipelines model_training"
        )
    return [(member, part) for member, part in zip(members, parts, strict=True) if len(part)]
