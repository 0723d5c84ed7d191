"""Car folds: as many models as folds, each validated on the cars that the others have seen."""

from typing import Any

import numpy as np
import pandas as pd

from carvana_kedro.errors import UserError

Sides = tuple[pd.DataFrame, pd.DataFrame]


def split_folds(
    train_index: pd.DataFrame, validation_index: pd.DataFrame, folds: int, seed: int
) -> list[Sides]:
    """Return what each model is trained and validated on.

    All cars are put in order of their mean mask area, and of every `folds` that follow one another each fold gets one.

    Args:
        train_index: images to train on.
        validation_index: images to validate on; among the folds they are as good as the others.
        folds: how many; 0 keeps the two sides as they are, for one model.
        seed: of the split.

    Raises:
        UserError: there are fewer cars than folds.
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


def by_fold(model: dict[str, Any], index: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return each fold's model with the images of the cars that it alone has not seen.

    Args:
        model: of folds, as its `members`.
        index: images, with their cars.

    Raises:
        UserError: not every car is one that exactly one of them has not seen.
    """
    members = model.get("members", [model])
    parts = [index[index["car"].isin(member["validation_cars"])] for member in members]
    if sorted(image for part in parts for image in part["image"]) != sorted(index["image"]):
        raise UserError(
            "The model is not of folds of these cars: some were unseen by none of its members, or by several. Train it "
            "anew, with the same options: kedro run --pipelines model_training"
        )
    return [(member, part) for member, part in zip(members, parts, strict=True) if len(part)]
