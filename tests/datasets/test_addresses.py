"""Datasets in an object store: fsspec's store in the memory of this process."""

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
import yaml
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Node, Pipeline

from carvana_kedro import datasets
from carvana_kedro.errors import UserError
from carvana_kedro.hooks import CheckInputsHook, LockOutputsHook
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.folders import open_folder

PROJECT = Path(__file__).parents[2]
MODEL = TrainedModel.from_dict(
    {
        "architecture": "unet_small", "width_multiplier": 1.0, "input_size": [32, 48], "threshold": 0.5,
        "run_id": "a", "weights": {"a": torch.ones(2)},
    }
)  # fmt: skip
FILES: dict[str, Any] = {
    "CurveDataset": pd.DataFrame({"threshold": [0.25, 0.5], "dice": [0.5, 0.9]}),
    "FigureDataset": go.Figure(go.Scatter(x=[1, 2], y=[0.5, 0.75])),
    "HTMLDataset": "<header>a</header>",
    "ImageDataset": np.full((8, 10, 3), 7, np.uint8),
    "MarkdownDataset": "# a",
    "ModelDataset": MODEL,
    "RecordDataset": {"dice": 0.5},
    "SubmissionDataset": [("a_01", "1 2")],
    "TableDataset": pd.DataFrame({"image": ["120e45678901_01"], "dice": [0.5]}),
    "TextDataset": "a",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for local locks
    bucket = uuid4().hex
    yield f"memory://{bucket}/data"
    files = fsspec.filesystem("memory")
    if files.exists(bucket):
        files.rm(bucket, recursive=True)


@pytest.fixture
def storage(tmp_path: Path) -> dict[str, Any]:
    return {"path": str(tmp_path / "scratch"), "credentials": {}}


def _comparable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, TrainedModel):
        return value.digest()
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    return value if isinstance(value, str | dict | go.Figure) else list(value)


@pytest.mark.parametrize("name", FILES)
def test_a_dataset_keeps_its_file_at_an_address(name: str, root: str, storage: dict[str, Any]) -> None:
    dataset = getattr(datasets, name)(filepath=f"{root}/a/file", storage=storage)
    assert not dataset.exists()
    with pytest.raises((DatasetError, UserError), match=f"{root}/a/file"):
        _comparable(dataset.load())
    dataset.save(FILES[name])
    assert dataset.exists() and dataset.is_there()
    assert _comparable(dataset.load()) == _comparable(FILES[name])
    other = pickle.loads(pickle.dumps(dataset))
    assert _comparable(other.load()) == _comparable(FILES[name])
    if hasattr(dataset, "preview"):
        assert dataset.preview()
    assert dataset._describe()["filepath"] == f"{root}/a/file"
    assert dataset.filepath is None  # Kedro-Viz would ask for its size without the credentials
    assert [*open_folder(root).list("**/*")] == ["a/file"]


@pytest.mark.parametrize("name", FILES)
def test_credentials_are_not_shown(name: str, root: str, storage: dict[str, Any]) -> None:
    storage["credentials"] = {"secret": "s3cr3t"}
    dataset = getattr(datasets, name)(filepath=f"{root}/file", storage=storage)
    assert root in repr(dataset)
    assert "s3cr3t" not in f"{dataset!r} {dataset}"


def test_pictures_at_an_address_are_replaced(root: str, storage: dict[str, Any]) -> None:
    dataset = datasets.PicturesDataset(
        path=f"{root}/cutouts", dataset="carvana_kedro.datasets.ImageDataset", filename_suffix=".png",
        storage=storage,
    )  # fmt: skip
    assert not dataset.exists()
    picture = np.full((20, 30, 4), 100, np.uint8)
    dataset.save({"a": picture, "b/c": lambda: picture + 1})
    assert {name: int(load()[0, 0, 0]) for name, load in dataset.load().items()} == {"a": 100, "b/c": 101}
    assert dataset.preview()
    dataset.save({"d": picture})
    assert [*open_folder(root).list("**/*")] == ["cutouts/d.png"]


def test_handles_at_an_address(root: str, storage: dict[str, Any]) -> None:
    checkpoints = datasets.CheckpointsDataset(f"{root}/checkpoints", storage)
    images = datasets.PredictedImagesDataset(f"{root}/images", storage)
    assert checkpoints.exists() and not checkpoints.is_there()
    assert checkpoints.preview() is None and images.preview() is None
    content = {"weights": torch.ones(3), "history": [{"epoch": 2, "val_dice_coeff": 0.5}]}
    checkpoints.load().run("first").save("best", 40, content)
    images.load().write("cutouts", "b/a_01", np.full((20, 30, 4), (0, 0, 200, 255), np.uint8))
    assert checkpoints.is_there() and images.is_there() and images.preview()
    checkpoints.load().run("second").save("last", 80, content)
    newest, other = checkpoints.preview()["data"]
    assert newest[:4] == ["second", "last-000000080.pt", 2, "0.5000"]
    assert other[:4] == ["first", "best-000000040.pt", "", ""]  # it is not downloaded
    assert [path.name for path in Path(storage["path"]).rglob("*.pt")] == ["last-000000080.pt"]


def test_a_packaged_model_stands_in_for_one_at_an_address(root: str, storage: dict[str, Any]) -> None:
    dataset = datasets.ModelDataset(f"{root}/sample/model.pt", fallback="cars", storage=storage)
    assert (dataset.stand_in, dataset.exists(), dataset.is_there()) == ("cars", True, False)
    open_folder(f"{root}/sample/checkpoints/a").put("run.json", b"{}")
    assert (dataset.stand_in, dataset.exists()) == (None, False)
    dataset.save(MODEL)
    chosen = datasets.ModelDataset(
        "nowhere/model.pt", checkpoint=f"{root}/sample/model.pt", storage=storage
    ).load()
    assert chosen is not None and chosen.checkpoint == f"{root}/sample/model.pt"


def test_events_are_copied_when_their_writer_stops(
    root: str, storage: dict[str, Any], tmp_path: Path
) -> None:
    events = datasets.FolderDataset(f"{root}/tensorboard", storage).load()
    with pytest.raises(KeyboardInterrupt), events.folder("run").directory() as folder:
        (folder / "train").mkdir()
        (folder / "train/events").write_text("1")
        assert folder.is_relative_to(tmp_path / "scratch")
        raise KeyboardInterrupt
    assert [*events.list("**/*")] == ["run/train/events"]


def test_a_run_locks_the_folder_of_its_recipe_at_an_address(root: str, storage: dict[str, Any]) -> None:
    record = datasets.RecordDataset(filepath=f"{root}/06_models/mine/metrics.json", storage=storage)
    catalog = DataCatalog({"params:recipe": MemoryDataset("mine"), "metrics": record})
    pipeline = Pipeline([Node(lambda: 1, None, "metrics", name="measure")])
    hook = LockOutputsHook()
    hook.before_pipeline_run(pipeline=pipeline, catalog=catalog)
    assert open_folder(root).stat("06_models/.mine.lock")
    hook.on_pipeline_error()
    assert open_folder(root).list("**/*") == {}


def test_an_error_about_a_missing_input_names_its_address(root: str, storage: dict[str, Any]) -> None:
    catalog = DataCatalog(
        {"submission_score": datasets.RecordDataset(filepath=f"{root}/score.json", storage=storage)}
    )
    pipeline = Pipeline([Node(lambda score: "", "submission_score", "text", name="describe")])
    with pytest.raises(UserError, match=rf"submission_score \({root}/score.json\)\nCreate them first"):
        CheckInputsHook().before_pipeline_run({}, pipeline=pipeline, catalog=catalog)


def test_every_entry_below_data_root_knows_its_storage() -> None:
    entries: dict[str, Any] = {}
    for path in sorted((PROJECT / "conf/base").glob("catalog*.yml")):
        entries |= yaml.safe_load(path.read_text())
    below = {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, dict) and "${_data}" in str(entry.get("filepath") or entry.get("path"))
    }
    assert len(below) > 30
    assert {name for name, entry in below.items() if entry.get("storage") != "${_storage}"} == set()
