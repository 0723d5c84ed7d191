"""A training process for tests to kill: python trained_process.py IMAGES MASKS CHECKPOINTS WORKERS EPOCHS

It resumes from the newest checkpoint, and prints a line after every step. It does not use Kedro.
"""

import logging
import sys
from pathlib import Path

import torch

from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.training.build import build_run
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import Interrupts
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Step, Training
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore


class PrintSteps(Callback):
    def on_step_end(self, run: Training, step: Step) -> None:
        print(f"step {run.steps}", flush=True)  # noqa: T201


def main(images: Path, masks: Path, folder: Path, num_workers: int, epochs: int) -> None:
    logging.basicConfig(level="INFO")
    torch.set_num_threads(1)  # more threads do not make such a small network faster
    store = ImageStore(images, masks)
    recipe = Recipe(
        architecture="unet_small",
        width_multiplier=0.5,
        input_size=(64, 96),
        batch_size=2,
        epochs=epochs,
        seed=3,
        optimizer={"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.01},
        schedule={"name": "one_cycle", "warmup_fraction": 0.2},
        loss={"border_weight": 1.0},
        augmentation={"hue": 10.0, "brightness": 0.1},
        ema_decay=0.99,
        clip_gradient_norm=1.0,
        num_workers=num_workers,
        device="cpu",
    )
    ids = store.ids()
    run, train_batches, validation_batches = build_run(
        recipe, store, [ids[:12], ids[12:]], origin={}, about={}
    )
    checkpoints = CheckpointStore(DiskFolder(folder)).run("run")
    saver = CheckpointSaver(checkpoints, minutes=0)
    with checkpoints.locked(), Interrupts() as run.interrupted, saver:
        if state := checkpoints.newest("last"):
            run.restore(state)
        train(run, train_batches, validation_batches, [PrintSteps(), saver])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:]))
