import hashlib
import os
import re
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.stores import checkpoints
from carvana_kedro.stores.checkpoints import (
    CheckpointStore,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from carvana_kedro.stores.folders import DiskFolder, Folder


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of a checkpoint was executed')",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with 30,000 numbers. Read only."""
    path = tmp_path_factory.mktemp("checkpoint") / "whole.pt"
    save_checkpoint(path, {"weights": torch.arange(30_000), "epoch": 2, "name": "unet"})
    return path


def test_a_saved_checkpoint_is_loaded(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert (loaded["epoch"], loaded["name"]) == (2, "unet")
    assert torch.equal(loaded["weights"], torch.arange(30_000))
    assert [path.name for path in checkpoint.parent.iterdir()] == ["whole.pt"]


def test_torch_and_zip_can_read_a_checkpoint(checkpoint: Path) -> None:
    assert torch.equal(torch.load(checkpoint, weights_only=True)["weights"], torch.arange(30_000))
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None
        digest = archive.comment.removeprefix(b"sha256:").decode()
    body = checkpoint.read_bytes()[: -2 - len(b"sha256:") - 64] + b"\0\0"
    assert hashlib.sha256(body).hexdigest() == digest


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_and_every_truncation_is_detected(checkpoint: Path, data: st.DataObject) -> None:
    content = bytearray(checkpoint.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="size")]
    else:
        bit = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
    damaged = checkpoint.with_name("damaged.pt")
    damaged.write_bytes(content)
    try:
        with pytest.raises(UserError, match=r"damaged\.pt is (truncated|damaged)"):
            load_checkpoint(damaged)
    finally:
        damaged.unlink()


def test_errors_name_the_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(UserError, match=r"The checkpoint .*model\.pt does not exist"):
        load_checkpoint(path)
    for content in (b"", b"text", os.urandom(5000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.pt is truncated, or is not a carvana-kedro checkpoint"):
            load_checkpoint(path)
    torch.save({"weights": torch.zeros(3)}, path)  # without a checksum
    with pytest.raises(UserError, match=r"model\.pt is truncated, or is not a carvana-kedro checkpoint"):
        load_checkpoint(path)


def test_no_code_of_a_checkpoint_is_executed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "evil.pt", {"weights": Evil()})
    with pytest.raises(UserError, match=r"evil\.pt is not a carvana-kedro checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")


def test_the_newest_checkpoints_of_each_series_are_kept(folder: Folder) -> None:
    run = CheckpointStore(folder).run("run", keep=2)
    for step in (8, 9, 10, 11):
        run.save("last", step, {"step": step})
    run.save("best", 9, {"step": 9})
    assert [*run.folder.list("*")] == ["best-000000009.pt", "last-000000010.pt", "last-000000011.pt"]
    assert run.newest("last") == {"step": 11}
    assert run.newest("best") == {"step": 9}
    assert run.newest("skipped") is None


def test_the_previous_checkpoint_replaces_a_damaged_one(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    run = CheckpointStore(folder).run("run", keep=2)
    for step in (1, 2):
        run.save("last", step, {"step": step})
    run.folder.put("last-000000002.pt", run.folder.read("last-000000002.pt")[:-100])
    assert run.newest("last") == {"step": 1}
    assert f"{run.folder.address('last-000000002.pt')} is truncated" in caplog.text
    assert "It was renamed to last-000000002.damaged" in caplog.text
    # The damaged file does not count: the next checkpoint does not replace the intact one.
    run.save("last", 2, {"step": 2})
    assert [*run.folder.list("*")] == ["last-000000001.pt", "last-000000002.damaged", "last-000000002.pt"]
    for name in run.folder.list("*.pt"):
        run.folder.put(name, b"")
    assert run.newest("last") is None


def test_partial_files_are_removed_under_the_lock(tmp_path: Path) -> None:
    run = CheckpointStore(DiskFolder(tmp_path)).run("run")
    run.save("last", 1, {})
    (run.folder.path / "last-000000002.pt.1a2b3c4d.part").write_bytes(b"half")
    with run.locked():
        assert [path.name for path in run.folder.path.iterdir()] == ["last-000000001.pt"]


def test_partial_files_of_other_runs_are_removed_too(tmp_path: Path) -> None:
    left = tmp_path / "other" / ".1a2b3c4d.part"
    left.parent.mkdir()
    left.touch()
    with CheckpointStore(DiskFolder(tmp_path)).run("run").locked():
        assert not left.exists()


@pytest.mark.parametrize("content", [b"", b'{"number"', b"\xff\xfe", b"[1]", b"null", b"[" * 100_000])
def test_damaged_facts_are_logged_and_can_be_written_again(
    folder: Folder, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    run = CheckpointStore(folder).run("run")
    run.begin({"number": 1})
    run.folder.put("run.json", content)
    assert run.facts is None
    assert f"{run.folder.address('run.json')} is damaged: " in caplog.text
    run.begin({"number": 2})
    assert run.facts == {"number": 2}


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    store = CheckpointStore(DiskFolder(tmp_path))
    assert list(store.runs()) == []
    for number, name in enumerate(("b", "c", "a")):
        run = store.run(name)
        assert run.facts is None
        run.begin({"number": number})
        os.utime(run.folder.path / "run.json", (number, number))
    assert [run.run_id for run in store.runs()] == ["a", "c", "b"]
    assert [run.facts for run in store.runs()] == [{"number": number} for number in (2, 1, 0)]


def test_a_checkpoint_stays_if_it_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CheckpointStore(DiskFolder(tmp_path)).run("run")
    for step in (1, 2):
        run.save("last", step, {"step": step})

    def no_memory(*args: Any, **options: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.torch, "load", no_memory)
        with pytest.raises(MemoryError):
            run.newest("last")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *args, **options: os.open(tmp_path / "run" / "nowhere" / "x", 0))
        with pytest.raises(UserError, match=r"The checkpoint .* does not exist"):
            run.newest("last")
    assert run.newest("last") == {"step": 2}


def test_the_log_says_that_all_checkpoints_are_damaged(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    run = CheckpointStore(folder).run("run")
    for step in (1, 2):
        run.save("last", step, {"step": step})
        run.folder.put(f"last-{step:09d}.pt", b"")
    assert run.newest("last") is None
    first, second = (record.message for record in caplog.records)
    assert first.endswith("It was renamed to last-000000002.damaged. The previous checkpoint is used.")
    assert second.endswith("It was renamed to last-000000001.damaged. There is no earlier checkpoint.")


def test_checkpoints_of_repeated_steps_are_renamed(folder: Folder) -> None:
    run = CheckpointStore(folder).run("run", keep=3)
    for step in (3, 80, 100):
        run.save("best", step, {"step": step})
    run.supersede("best", after=80)
    assert run.newest("best") == {"step": 80}
    run.supersede("best", after=0)
    run.save("best", 3, {"step": "3 again"})
    assert run.newest("best") == {"step": "3 again"}
    assert len(run.folder.list("best-*.superseded")) == 3


def test_a_run_is_found_locked_and_resumed_in_any_folder(folder: Folder) -> None:
    store = CheckpointStore(folder)
    assert list(store.runs()) == []
    for name in ("a", "b"):
        run = store.run(name)
        with run.locked():
            run.begin({"name": name})
            run.save("last", 1, {"weights": torch.arange(3), "name": name})
    found = {run.run_id: run for run in store.runs()}
    assert {name: run.facts for name, run in found.items()} == {"a": {"name": "a"}, "b": {"name": "b"}}
    content = found["b"].newest("last")
    assert content is not None and content["name"] == "b"
    assert torch.equal(content["weights"], torch.arange(3))


def test_a_missing_checkpoint_is_told_with_its_address(folder: Folder) -> None:
    with pytest.raises(UserError, match=rf"The checkpoint {re.escape(str(folder))}/a\.pt does not exist"):
        read_checkpoint(folder, "a.pt")
    write_checkpoint(folder, "a.pt", {"step": 1})
    assert read_checkpoint(folder, "a.pt") == {"step": 1}


def test_a_full_disk_is_an_error_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            UserError, match=r"last\.pt cannot be written: File too large\. .* Earlier checkpoints are intact"
        ):
            save_checkpoint(path, {"weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]
