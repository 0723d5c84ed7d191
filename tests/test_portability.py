"""The package does not need the modules and functions that Windows lacks.

A process runs without them on the system of the test. This does not test Windows itself: its file locks (filelock
calls LockFileEx there), its paths, that it neither renames nor removes an open file, and the worker processes that
read images, which it starts with `spawn`.
"""

import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROGRAM = """
import importlib, os, pkgutil, signal, sys
import filelock  # here, its locks need fcntl

for name in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[name] = None
for module, names in (
    (os, ("O_DIRECTORY", "posix_fallocate", "sched_getaffinity", "sync")), (signal, ("SIGCHLD",))
):
    for name in names:
        delattr(module, name)

import carvana_kedro
for module in pkgutil.walk_packages(carvana_kedro.__path__, "carvana_kedro."):
    importlib.import_module(module.name)

from pathlib import Path
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.pipelines.model_training.nodes import train_model
from carvana_kedro.stores.archives import unpack
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.pixel_cache import PixelCache

archives, folder = map(Path, sys.argv[1:])
images, masks = (unpack(archives / f"{name}.zip", folder / "images") for name in ("train", "train_masks"))
store = ImageStore(images, masks)
index = index_images(store)
recipe = ModelTraining.model_validate({
    "architecture": "unet_small",
    "width_multiplier": 0.25,
    "input_size": {"width": 48, "height": 32},
    "batch_size": 4,
    "epochs": 1,
    "device": "cpu",
    "num_workers": 0,
    "cache": "memmap",
    "optimizer": {"name": "adamw", "learning_rate": 0.003},
})
checkpoints, pixels = CheckpointStore(DiskFolder(folder / "checkpoints")), PixelCache(folder / "pixels")
train_model(index[:12], index[12:], store, checkpoints, DiskFolder(folder / "events"), pixels, recipe)
"""


def test_the_package_runs_without_what_windows_lacks(archives: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(archives), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("images/train-*/*.jpg"))) == 16
    assert len(list(tmp_path.glob("pixels/*.npy"))) > 0
    (run,) = tmp_path.glob("checkpoints/*/run.json")
    assert list(run.parent.glob("last-*.pt"))
    assert not list(tmp_path.rglob("*.part"))
    (events,) = tmp_path.glob("events/*")
    scalars = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert "data/train_loss" in scalars
    assert "data/memory_gb" not in scalars  # which the module resource would tell
