from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import DataIngestion
from carvana_kedro.pipelines.model_training.nodes import describe_run, evaluate_model
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.source import ImageSource
from finished_run import HISTORY
from models import RECIPE, changed


@pytest.fixture
def predicted() -> dict[str, Any]:
    """Arguments of `write_report` after inference."""
    return {
        "submission_score": {"run_id": "run", "images": 7, "dice": 0.91234},
        "cutouts": {f"car_{n}": partial(np.full, (40, 60, 4), 50 * n, np.uint8) for n in range(5)},
        "turntables": {"car": list},
    }


@pytest.fixture
def inputs(model: TrainedModel) -> Callable[..., dict[str, Any]]:
    """`inputs(images)` scores the untrained model on images, and returns all arguments of `write_report`."""

    def call(images: ImageSource, validation_cars: int = 2, folds: int = 0) -> dict[str, Any]:
        index = index_images(images)
        cars = sorted(index["car"].unique())
        recipe = RECIPE.model_copy(update={"folds": folds})
        validated = [cars[fold::folds] for fold in range(folds)] or [cars[:validation_cars]]
        members = [
            changed(model, source=images.fingerprint(), validation_cars=tuple(part), parameters=None)
            for part in validated
        ]
        trained = TrainedModel.join(members)
        is_validation = index["car"].isin(cars[:validation_cars])
        sides = index[~is_validation], index[is_validation]
        scores, metrics, curve = evaluate_model(trained, *sides, images, recipe)
        history = pd.concat([HISTORY.assign(fold=fold) for fold in range(folds)]) if folds else HISTORY
        history = history.assign(run_id=trained.run_id)
        split = DataIngestion().model_dump(mode="json")
        return {
            "trained_model": trained,
            "run_manifest": describe_run(trained, *sides, history, metrics, "mine", split, recipe),
            "training_history": history,
            "validation_scores": scores,
            "validation_threshold_curve": curve,
            "train_index": sides[0],
            "validation_index": sides[1],
            "training_images": images,
            "submission_score": None,
            "cutouts": {},
            "turntables": {},
            "source": SourceDescription(name="toys", limits=("It knows nothing of boats & ships.",)),
            "recipes": {"mine": recipe.model_dump(mode="json")},
            "model_training": recipe,
        }

    return call
