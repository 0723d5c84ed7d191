"""Models and a recipe for several tests."""

from dataclasses import replace
from typing import Any

from carvana_kedro.parameters import ModelTraining
from carvana_kedro.segmentation.model import TrainedModel

RECIPE = ModelTraining.model_validate(
    {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": {"width": 48, "height": 32},
        "batch_size": 4,
        "epochs": 2,
        "optimizer": {"name": "adamw", "learning_rate": 0.003},
    }
)


def changed(model: TrainedModel, **values: Any) -> TrainedModel:
    """Return the model with these values changed in every member."""
    return TrainedModel(tuple(replace(member, **values) for member in model.members))


def blind(model: TrainedModel) -> TrainedModel:
    """Return the model, changed so that its masks are empty."""
    weights = dict(model.members[0].weights)
    return changed(model, weights={**weights, "head.bias": weights["head.bias"] - 100})
