"""Where the keys of Amazon S3 come from. `make stores` runs these tests."""

import os
from pathlib import Path

import pytest

from carvana_kedro.stores.folders import Folder, open_folder
from standin_stores import NEEDS_S3, SECRET, StandInS3, fault_of

pytestmark = NEEDS_S3


def test_missing_keys_are_told(s3: StandInS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"client_kwargs": s3.options["client_kwargs"]}
    folder = open_folder("s3://bucket/data", scratch=tmp_path, credentials=options)
    assert "Unable to locate credentials. Check the key" in fault_of(lambda: folder.read("a"))


def test_keys_of_the_environment_are_used(
    s3: StandInS3, in_s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_s3.put("a", b"content")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert open_folder(str(in_s3), scratch=tmp_path / "other").read("a") == b"content"
