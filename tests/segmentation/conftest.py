from collections.abc import Callable

import pytest
import torch

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples
from carvana_kedro.segmentation.training.build import Run, build_training, choose_hardware
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.stores.images.competition import ImageStore


@pytest.fixture
def setup(training_images: ImageStore) -> Callable[..., Run]:
    """`setup(epochs=2, learning_rate=...)` gives a small run with its training and validation batches."""

    def make(epochs: int = 2, learning_rate: float = 0.003, seed: int = 1) -> Run:
        recipe = Recipe(
            architecture="unet_small",
            width_multiplier=0.5,
            input_size=(32, 48),
            batch_size=4,
            epochs=epochs,
            seed=seed,
            optimizer={"name": "adamw", "learning_rate": learning_rate},
            augmentation={"rotation": 10.0},
            device="cpu",
            precision="float32",
            fused=False,
        )
        torch.manual_seed(seed)
        network = build_network(recipe.architecture, width_multiplier=recipe.width_multiplier)
        geometry = Geometry.of(network, recipe.input_size)
        ids = training_images.ids()
        train_batches = Batches(CachedSamples(Samples(training_images, ids[:12], geometry)), 4, seed=seed)
        validation_batches = Batches(Samples(training_images, ids[12:], geometry), 3)
        hardware = choose_hardware(recipe)
        steps = len(train_batches)
        origin = {"run_id": "run"}
        training = build_training(recipe, network, geometry, hardware, steps_per_epoch=steps, origin=origin)
        return Run(training, train_batches, validation_batches)

    return make
