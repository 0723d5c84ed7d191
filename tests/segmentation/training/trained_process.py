"""A process that trains, to be killed: python trained_process.py IMAGES MASKS CHECKPOINTS WORKERS EPOCHS

It goes on wherever the checkpoints say, and prints a line a step. Nothing of Kedro is in it.
"""

import logging
import sys
from functools import partial
from pathlib import Path

import torch

from carvana_kedro.segmentation.architectures import build
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import Samples
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import Interrupts
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.losses import segmentation_loss
from carvana_kedro.segmentation.training.optimizers import build_ema, build_optimizer, build_schedule
from carvana_kedro.segmentation.training.state import Step, Training
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.images.competition import ImageStore


class TellSteps(Callback):
    def on_step_end(self, run: Training, step: Step) -> None:
        print(f"step {run.steps}", flush=True)  # noqa: T201


def main(images: Path, masks: Path, folder: Path, num_workers: int, epochs: int) -> None:
    logging.basicConfig(level="INFO")
    torch.set_num_threads(1)  # a network this small gains nothing from more, and loses where cores are shared
    torch.manual_seed(0)
    store = ImageStore(images, masks)
    network = build("unet_small", width_multiplier=0.5)
    geometry = Geometry.of(network, (64, 96))
    ids = store.ids()
    train_batches = Batches(Samples(store, ids[:12], geometry), 2, seed=3, num_workers=num_workers)
    validation_batches = Batches(Samples(store, ids[12:], geometry), 3, num_workers=num_workers)
    hardware = Hardware.choose("cpu")
    network = hardware.place(network)
    optimizer = build_optimizer(
        network.parameters(), name="adamw", learning_rate=0.01, weight_decay=0.01, fused=True
    )
    run = Training(
        network=network,
        geometry=geometry,
        optimizer=optimizer,
        schedule=build_schedule(
            optimizer, name="one_cycle", total_steps=epochs * len(train_batches), warmup_steps=10
        ),
        loss=partial(segmentation_loss, border_weight=1.0),
        augmentation=Augmentation(hue=10.0, brightness=0.1),
        hardware=hardware,
        seed=3,
        epochs=epochs,
        description={},
        ema=build_ema(network, 0.99),
        clip_gradient_norm=1.0,
    )
    checkpoints = CheckpointStore(folder).run("run")
    with checkpoints.locked(), Interrupts() as run.interrupted:
        if state := checkpoints.newest("last"):
            run.restore(state)
        train(run, train_batches, validation_batches, [TellSteps(), CheckpointSaver(checkpoints, minutes=0)])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:]))
