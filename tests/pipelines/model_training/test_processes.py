"""Several processes, some of which have other parameters or see other files. See `test_several_processes.py`, too."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.distributed import run_everywhere
from carvana_kedro.errors import UserError
from carvana_kedro.folds import Sides
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.pipelines.model_training import nodes
from carvana_kedro.segmentation.training.distributed import World
from carvana_kedro.stores.checkpoints import CheckpointStore, RunCheckpoints
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.pixel_cache import PixelCache
from models import RECIPE
from ranks import errors_of_runs

ON_CPU = RECIPE.model_copy(update={"device": "cpu", "keep_checkpoints": 9, "checkpoint_minutes": 1e-9})


@pytest.fixture
def sides(training_images: ImageStore) -> Sides:
    index = index_images(training_images)
    return index[:12], index[12:]


def _run(folder: Path) -> RunCheckpoints:
    (run,) = CheckpointStore(DiskFolder(folder / "checkpoints")).runs()
    return run


def test_processes_train_the_same_run_from_the_state_of_the_first_or_not_at_all(
    sides: Sides, training_images: ImageStore, tmp_path: Path
) -> None:
    def arguments(folder: str, recipe: ModelTraining = ON_CPU) -> tuple[Any, ...]:
        path = tmp_path / folder
        stores = (
            CheckpointStore(DiskFolder(path / "checkpoints")),
            DiskFolder(path / "events"),
            PixelCache(path / "pixels"),
        )
        return [sides], training_images, *stores, recipe

    def copied(folder: str) -> Path:
        return Path(shutil.copytree(tmp_path / "stopped", tmp_path / folder))

    optimizer = {"name": "adamw", "learning_rate": 0.001}
    other = ModelTraining.model_validate({**ON_CPU.model_dump(), "optimizer": optimizer})
    nodes.train_model(*sides, *arguments("stopped")[1:])
    *_, last = sorted(_run(tmp_path / "stopped").folder.path.glob("last-*.pt"))
    last.unlink()  # as if the training had been stopped before its end
    copied("whole")
    *_, newest = sorted(_run(copied("damaged")).folder.path.glob("last-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    copied("new")
    *_, newest = sorted(_run(copied("old")).folder.path.glob("last-*.pt"))
    newest.unlink()
    runs = [
        (arguments("unequal"), arguments("unequal", other)),
        (arguments("here"), arguments("there")),
        (arguments("whole"), arguments("whole")),
        (arguments("new"), arguments("old")),
        (arguments("damaged"), arguments("damaged")),
    ]
    first, second = run_everywhere(errors_of_runs, 2, runs)
    assert first == second and first[2:] == ["", "", ""]
    assert "parameters.optimizer.learning_rate: 0.003 -> 0.001" in first[0]
    assert f"does not see {tmp_path / 'there'}" in first[1]
    whole, new, damaged = (_run(tmp_path / name).newest("last") for name in ("whole", "new", "damaged"))
    assert whole and new and damaged and whole["finished"] and damaged["finished"]
    assert all(torch.equal(weights, new["network"][name]) for name, weights in whole["network"].items())
    assert len([*_run(tmp_path / "damaged").folder.path.glob("*.damaged")]) == 1


def test_processes_that_load_other_code_than_the_run_was_started_with_are_refused(
    sides: Sides, training_images: ImageStore, tmp_path: Path
) -> None:
    stores = CheckpointStore(tmp_path / "checkpoints"), tmp_path / "events", PixelCache(tmp_path / "pixels")
    with pytest.raises(UserError, match="code, parameters or images changed since this training was started"):
        nodes._train_splits(World(), [sides], training_images, *stores, ON_CPU, ["run that was started"])
    assert not [*tmp_path.iterdir()]


def test_a_machine_that_does_not_see_the_finished_run_neither_trains_nor_renames(
    sides: Sides, training_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "run_in_processes", lambda *arguments, **options: None)  # it trained elsewhere
    stores = (
        CheckpointStore(DiskFolder(tmp_path / "checkpoints")),
        DiskFolder(tmp_path / "events"),
        PixelCache(tmp_path / "pixels"),
    )
    arguments = *sides, training_images, *stores
    in_two = ON_CPU.model_copy(update={"devices": 2})
    with pytest.raises(UserError, match="has no finished run on this machine"):
        nodes.train_model(*arguments, in_two)
    assert not [*tmp_path.iterdir()]
    model, _ = nodes.train_model(*arguments, ON_CPU)
    assert nodes.train_model(*arguments, in_two)[0].run_id == model.run_id
    *_, last = sorted(_run(tmp_path).folder.path.glob("last-*.pt"))
    last.write_bytes(last.read_bytes()[:-1])
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="has no finished run on this machine"):
        nodes.train_model(*arguments, in_two)
    assert sorted(tmp_path.rglob("*")) == files
