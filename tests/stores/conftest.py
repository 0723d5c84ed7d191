"""Folders of each kind, for the tests of stores."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from carvana_kedro.stores.folders import DiskFolder, Folder, open_folder
from standin_s3 import NEEDS_S3, StandInS3


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
    return open_folder(f"s3://{s3.bucket()}/data", scratch=tmp_path / "scratch", credentials=s3.options)


@pytest.fixture(params=["on_disk", "in_memory", pytest.param("in_s3", marks=NEEDS_S3)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder of each kind."""
    if request.param == "on_disk":
        return DiskFolder(tmp_path / "folder")
    found: Folder = request.getfixturevalue(request.param)
    return found
