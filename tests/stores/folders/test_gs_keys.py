"""Where the keys of Google Cloud Storage come from. `make stores` runs these tests."""

import json
from pathlib import Path

import pytest

from carvana_kedro.stores.folders import Folder, open_folder
from standin_stores import NEEDS_GS, StandInGS, do_not_wait, fault_of

pytestmark = NEEDS_GS


def test_missing_keys_are_told(gs: StandInGS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")  # no machine of Google's
    monkeypatch.setenv("GCE_METADATA_DETECT_RETRIES", "1")
    folder = open_folder("gs://bucket/data", scratch=tmp_path, credentials={"endpoint_url": gs.url})
    assert "Anonymous caller does not have access, 401. Check the key" in fault_of(lambda: folder.read("a"))


def test_keys_of_the_environment_are_used(
    gs: StandInGS, in_gs: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_gs.put("a", b"content")
    key = tmp_path / "key.json"
    key.write_text(json.dumps(gs.options["token"]))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs.url)
    assert open_folder(str(in_gs), scratch=tmp_path / "other").read("a") == b"content"
    named = open_folder(str(in_gs), scratch=tmp_path / "other", credentials={"token": str(key)})
    assert named.read("a") == b"content"


def test_a_public_bucket_needs_no_key(gs: StandInGS, tmp_path: Path) -> None:
    options = {"token": "anon", "endpoint_url": gs.url}
    gs.bucket("public")
    folder = open_folder("gs://public/data", scratch=tmp_path, credentials=options)
    folder.put("a", b"content")
    assert folder.read("a") == b"content"


def test_a_key_that_is_not_valid_any_more_is_told(
    gs: StandInGS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_not_wait(monkeypatch)
    folder = open_folder("gs://bucket/data", scratch=tmp_path, credentials=gs.options_of("expired"))
    assert "Invalid Credentials, 401. Check the key, and what it may do." in fault_of(
        lambda: folder.read("a")
    )


def test_a_missing_file_with_a_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing leaves this machine
    key = tmp_path / "no-key.json"
    folder = open_folder("gs://bucket/data", scratch=tmp_path, credentials={"token": str(key)})
    assert "Check the key, and what it may do." in fault_of(lambda: folder.read("a"))
