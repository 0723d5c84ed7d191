"""Faults of the machine, injected below every dataset: one line with path, reason and advice; the old file stays."""

import builtins
import errno
import io
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from kedro.io import DatasetError

from carvana_kedro import datasets
from carvana_kedro.datasets.competition import SourceDataset
from carvana_kedro.datasets.handles import HandleDataset
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores import faults
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.pixel_cache import PixelCache
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards

FAULTS = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTSUP", "EIO", "EMFILE"]
CALLS = ["open", "replace", "fsync"]

MODEL = {
    "architecture": "unet_small", "width_multiplier": 1.0, "input_size": [32, 48], "threshold": 0.5, "run_id": "a",
    "source": "0123", "validation_cars": ["x"], "best_threshold": 0.4, "weights": {"a": torch.ones(2)},
}  # fmt: skip


def _model(content: float) -> TrainedModel:
    return TrainedModel.from_dict({**MODEL, "best_threshold": content})


# Of each dataset of a file: the constructor, and a value to save that depends on a number.
FILES: dict[str, tuple[Callable[[str], Any], Callable[[int], Any]]] = {
    "AnimationDataset": (
        datasets.AnimationDataset,
        lambda n: [np.full((16, 16, 3), 20 * n + shift, np.uint8) for shift in (0, 10)],
    ),
    "CurveDataset": (
        lambda path: datasets.CurveDataset(filepath=path, columns={"n": "number"}),
        lambda n: pd.DataFrame({"n": [n]}),
    ),
    "FigureDataset": (
        lambda path: datasets.FigureDataset(filepath=path),
        lambda n: go.Figure(layout={"title": f"{n}"}),
    ),
    "HTMLDataset": (lambda path: datasets.HTMLDataset(filepath=path), lambda n: f"<p>{n}</p>"),
    "ImageDataset": (datasets.ImageDataset, lambda n: np.full((4, 4, 3), n, np.uint8)),
    "MarkdownDataset": (lambda path: datasets.MarkdownDataset(filepath=path), lambda n: f"text {n}"),
    "ModelDataset": (datasets.ModelDataset, lambda n: _model(n / 10)),
    "ReceiptDataset": (
        lambda path: datasets.ReceiptDataset(filepath=path),
        lambda n: {"uploaded": True, "n": n},
    ),
    "RecordDataset": (lambda path: datasets.RecordDataset(filepath=path), lambda n: {"n": n}),
    "SubmissionDataset": (datasets.SubmissionDataset, lambda n: [(f"a_{n:02d}", "1 2")]),
    "TableDataset": (lambda path: datasets.TableDataset(filepath=path), lambda n: pd.DataFrame({"n": [n]})),
    "TextDataset": (lambda path: datasets.TextDataset(filepath=path), lambda n: f"text {n}"),
}


def _read(dataset: Any) -> Any:
    """Load all of it: a submission is read when it is iterated."""
    loaded = dataset.load()
    return list(loaded) if isinstance(dataset, datasets.SubmissionDataset) else loaded


def _message(action: Callable[[], object]) -> str:
    """Return the message that `kedro run` prints."""
    with pytest.raises((DatasetError, UserError)) as raised:
        action()
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    assert error is not None, f"no UserError, but {raised.value!r}"
    assert "\n" not in str(error)
    return str(error)


class Broken:
    """A system call that fails for all paths below a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, number: int, folder: Path) -> None:
        self.calls, self._number, self._folder = 0, number, folder
        if call == "open":
            for module in (builtins, io, os):
                monkeypatch.setattr(module, "open", self._around(module.open))
        else:
            monkeypatch.setattr(os, call, self._around(getattr(os, call)))

    def _around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def fail(path: Any, *arguments: Any, **options: Any) -> Any:
            inside = isinstance(path, int) or str(path).startswith(str(self._folder))
            if not inside:
                return real(path, *arguments, **options)
            self.calls += 1
            name = None if isinstance(path, int) else str(path)
            raise OSError(self._number, os.strerror(self._number), name)

        return fail


def test_every_dataset_that_writes_a_file_is_tested() -> None:
    # The others load a store, whose errors are tested below, a source of images, or a folder of such files.
    stores = {
        name
        for name in datasets.__all__
        if issubclass(getattr(datasets, name), HandleDataset | SourceDataset | datasets.PicturesDataset)
    }
    assert {*datasets.__all__} - stores == set(FILES)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_fault_while_saving_leaves_the_old_file(
    name: str, fault: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, value = FILES[name]
    path = tmp_path / "folder" / "file"
    dataset = build(str(path))
    dataset.save(value(1))
    old = path.read_bytes()
    number = getattr(errno, fault)
    with monkeypatch.context() as patch:
        broken = Broken(patch, call, number, tmp_path)
        message = _message(lambda: dataset.save(value(2)))
    assert broken.calls
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]
    assert str(path) in message
    assert os.strerror(number) in message
    assert message.endswith(faults._ADVICE[number]) or "resume" in message
    dataset.save(value(2))  # after the fault is mended
    assert path.read_bytes() != old


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_fault_while_loading_names_the_file(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, value = FILES[name]
    path = tmp_path / "file"
    dataset = build(str(path))
    dataset.save(value(1))
    number = getattr(errno, fault)
    with monkeypatch.context() as patch:
        broken = Broken(patch, "open", number, tmp_path)
        message = _message(lambda: _read(dataset))
    assert broken.calls
    assert str(path) in message
    assert os.strerror(number) in message
    _read(dataset)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_cannot_be_created_is_named(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, value = FILES[name]
    path = tmp_path / "folder" / "file"
    number = getattr(errno, fault)
    Broken(monkeypatch, "mkdir", number, tmp_path)
    message = _message(lambda: build(str(path)).save(value(1)))
    assert f"{path} cannot be written: {path.parent}: {os.strerror(number)}." in message


@pytest.mark.parametrize("name", FILES)
def test_a_write_that_fails_in_the_middle_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    build, value = FILES[name]
    path = tmp_path / "file"
    dataset = build(str(path))
    dataset.save(value(1))
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))  # a real fault: the fourth byte is one too many
    try:
        with pytest.raises(DatasetError) as raised:
            dataset.save(value(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def again() -> None:
        raise raised.value

    message = _message(again)
    assert str(path) in message
    assert "File too large" in message
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_named(name: str, tmp_path: Path) -> None:
    build, value = FILES[name]
    path = tmp_path / "file"
    (path / "inside").mkdir(parents=True)
    dataset = build(str(path))
    for action in (lambda: dataset.save(value(1)), lambda: _read(dataset)):
        message = _message(action)
        assert str(path) in message
        assert "s a directory" in message
        assert "A folder is where a file should be. Move the folder away." in message
    assert [found.name for found in tmp_path.rglob("*")] == ["file", "inside"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_place_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    build, value = FILES[name]
    (tmp_path / "folder").write_text("a file")
    for path in (tmp_path / "folder" / "file", tmp_path / "folder" / "deeper" / "file"):
        message = _message(lambda path=path: build(str(path)).save(value(1)))
        assert str(tmp_path / "folder") in message
        assert "A file is where a folder should be. Move the file away." in message


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00binary\x80", b"[" * 100_000, b"\x1f\x8b\x08\x00cut"]
)
@pytest.mark.parametrize("name", sorted(set(FILES) - {"HTMLDataset", "MarkdownDataset", "TextDataset"}))
def test_damaged_content_names_the_file(name: str, content: bytes, tmp_path: Path) -> None:
    build, _ = FILES[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    options = {"columns": {"n": "number"}} if name == "TableDataset" else {}
    dataset = datasets.TableDataset(filepath=str(path), **options) if options else build(str(path))
    message = _message(lambda: _read(dataset))
    assert str(path) in message
    assert len(message) < 1000


def test_text_that_is_not_utf_8_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_bytes(b"\xff\xfe")
    message = _message(datasets.TextDataset(filepath=str(tmp_path / "card.md")).load)
    assert "card.md is damaged: 'utf-8' codec can't decode" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("car,width\na,1\n", "it has no column image"),
        ("image,width\n", "it has no rows"),
        ("image,width\na,1\nb,wide\n", "column width holds other values than numbers"),
        ("image,width\na,1\nb\n", "column width holds other values than numbers"),
        ("image,width\na,1\nb,1", "its last line is cut short"),
    ],
)
def test_a_table_with_the_wrong_content_is_damaged(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text(content)
    dataset = datasets.TableDataset(filepath=str(path), columns={"image": "string", "width": "number"})
    assert f"{path} is damaged: {expected}. {faults.CREATE_AGAIN}" == _message(dataset.load)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "it holds a list instead of named values"),
        ("null", "it holds a NoneType instead of named values"),
        ("{}", "it should hold shards, of type array"),
        ('{"shards": "a"}', "it should hold shards, of type array"),
    ],
)
def test_a_record_with_the_wrong_content_is_damaged(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(content)
    dataset = datasets.RecordDataset(filepath=str(path), fields={"shards": "array"})
    assert f"{path} is damaged: {expected}. {faults.CREATE_AGAIN}" == _message(dataset.load)


# Of each store: an action that writes, and the file that the message should name.
STORES: dict[str, Callable[[Path], object]] = {
    "shards": lambda folder: PredictionShards(DiskFolder(folder)).write("key", 0, [("a", "1 2")]),
    "pictures": lambda folder: PredictedImages(DiskFolder(folder)).write("masks", "a", np.ones((2, 2), bool)),
    "cache": lambda folder: PixelCache(folder).rows("a", "b", (2, 3), lambda rows: None),
    "checkpoint": lambda folder: CheckpointStore(DiskFolder(folder)).run("a").save("last", 1, {"a": 1}),
    "facts": lambda folder: CheckpointStore(DiskFolder(folder)).run("a").begin({"a": 1}),
}


@pytest.mark.parametrize("call", ["open", "mkdir"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("store", STORES)
def test_a_fault_below_a_store_names_the_file(
    store: str, fault: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(errno, fault)
    with monkeypatch.context() as patch:
        Broken(patch, call, number, tmp_path)
        message = _message(lambda: STORES[store](tmp_path / "folder"))
    assert str(tmp_path / "folder") in message
    assert os.strerror(number) in message or "does not support" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    STORES[store](tmp_path / "folder")


@pytest.mark.parametrize("name", ["\u8eca" * 80 + ".png", "a" * 251 + ".png"])
def test_the_longest_names_can_be_written_and_locked(name: str, tmp_path: Path) -> None:
    with locked(tmp_path / name), atomic_path(tmp_path / name) as part:
        part.write_text("content")
    assert (tmp_path / name).read_text() == "content"
    PredictedImages(DiskFolder(tmp_path)).write(
        "cutouts", name.removesuffix(".png"), np.ones((2, 2, 4), np.uint8)
    )


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    dataset = datasets.TextDataset(filepath=str(tmp_path / ("x" * 256)))
    message = _message(lambda: dataset.save("text"))
    assert "cannot be written: File name too long. Shorten the name of the file or folder" in message
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_in_the_block_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic_path(tmp_path / "file"):
        (tmp_path / "other").read_bytes()


def test_errors_that_are_no_faults_of_the_machine_are_not_explained() -> None:
    assert faults.explain(OSError("no number")) is None
    assert faults.explain(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    full = OSError(errno.ENOSPC, "No space left on device", "/data/a")
    assert faults.explain(full) == f"/data/a: No space left on device. {faults._ADVICE[errno.ENOSPC]}"
