"""Folders of each kind, for the tests of stores."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from carvana_kedro.stores.folders import DiskFolder, Folder, open_folder
from standin_stores import NEEDS_GS, NEEDS_S3, SERVERS, StandInGS, StandInS3, StandInStore


@pytest.fixture
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep local locks of object stores out of the system's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def in_memory(tmp_path: Path, _own_temporary_folder: None) -> Iterator[Folder]:
    """An empty folder in fsspec's store in the memory of this process."""
    bucket = uuid4().hex
    yield open_folder(f"memory://{bucket}/data", scratch=tmp_path / "scratch")
    files = fsspec.filesystem("memory")
    if files.exists(bucket):
        files.rm(bucket, recursive=True)


@pytest.fixture
def in_s3(s3: StandInS3, tmp_path: Path, _own_temporary_folder: None) -> Folder:
    """An empty folder in a bucket of its own."""
    return _in_bucket(s3, tmp_path)


@pytest.fixture
def in_gs(gs: StandInGS, tmp_path: Path, _own_temporary_folder: None) -> Folder:
    """An empty folder in a bucket of its own."""
    return _in_bucket(gs, tmp_path)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> StandInStore:
    """Each stand-in."""
    found: StandInStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def in_store(server: StandInStore, tmp_path: Path, _own_temporary_folder: None) -> Folder:
    """An empty folder in a bucket of each stand-in."""
    return _in_bucket(server, tmp_path)


def _in_bucket(server: StandInStore, tmp_path: Path) -> Folder:
    address = f"{server.scheme}://{server.bucket()}/data"
    return open_folder(address, scratch=tmp_path / "scratch", credentials=server.options)


KINDS = [
    "on_disk", "in_memory", pytest.param("in_s3", marks=NEEDS_S3), pytest.param("in_gs", marks=NEEDS_GS)
]  # fmt: skip


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder of each kind."""
    if request.param == "on_disk":
        return DiskFolder(tmp_path / "folder")
    found: Folder = request.getfixturevalue(request.param)
    return found
