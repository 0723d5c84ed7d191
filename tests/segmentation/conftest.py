from collections.abc import Callable
from functools import partial

import pytest
import torch

from carvana_kedro.segmentation.architectures import build
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.training.losses import segmentation_loss
from carvana_kedro.segmentation.training.optimizers import build_optimizer, build_schedule
from carvana_kedro.segmentation.training.state import Training
from carvana_kedro.stores.images.competition import ImageStore

Setup = tuple[Training, Batches, Batches]


@pytest.fixture
def setup(training_images: ImageStore) -> Callable[..., Setup]:
    """`setup(epochs=2, learning_rate=...)` gives a small run with its training and validation batches."""

    def make(epochs: int = 2, learning_rate: float = 0.003, seed: int = 1) -> Setup:
        torch.manual_seed(seed)
        hardware = Hardware.choose(device="cpu", precision="float32")
        network = hardware.place(build("unet_small", width_multiplier=0.5))
        geometry = Geometry.of(network, (32, 48))
        ids = training_images.ids()
        samples = CachedSamples(Samples(training_images, ids[:12], geometry))
        train_batches = Batches(samples, 4, seed=seed)
        validation_batches = Batches(Samples(training_images, ids[12:], geometry), 3)
        optimizer = build_optimizer(network.parameters(), name="adamw", learning_rate=learning_rate)
        run = Training(
            network=network,
            geometry=geometry,
            optimizer=optimizer,
            schedule=build_schedule(optimizer, name="constant", total_steps=epochs * len(train_batches)),
            loss=partial(segmentation_loss, bce_weight=1.0, dice_weight=1.0),
            augmentation=Augmentation(rotation=10.0),
            hardware=hardware,
            threshold=0.5,
            seed=seed,
            epochs=epochs,
            description={
                "architecture": "unet_small",
                "width_multiplier": 0.5,
                "input_size": [32, 48],
                "threshold": 0.5,
            },
        )
        return run, train_batches, validation_batches

    return make
