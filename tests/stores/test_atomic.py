import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carvana_kedro.stores.atomic import atomic_path, remove_partial_files


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as part:
        part.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="no luck"), atomic_path(path) as part:
        part.write_text("half of the n")
        raise RuntimeError("no luck")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    program = """
import os, signal, sys
from pathlib import Path
from carvana_kedro.stores.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)])
    assert done.returncode == -9
    assert path.read_text() == "old"


# Writes half of a file, says so, and waits until its standard input is closed.
WRITER = """
import sys
from pathlib import Path
from carvana_kedro.stores.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    print(part.name, flush=True)
    sys.stdin.read()
    part.write_text("whole")
"""


def _start_writer(path: Path) -> tuple[subprocess.Popen[str], Path]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    return writer, path.with_name(writer.stdout.readline().strip())


def test_the_file_of_a_killed_process_is_swept_beside_that_of_a_living_one(tmp_path: Path) -> None:
    killed, left = _start_writer(tmp_path / "first")
    killed.kill()
    killed.communicate()
    assert left.read_text() == "half"
    living, kept = _start_writer(tmp_path / "second")  # sweeps with its first write
    assert not left.exists()
    remove_partial_files(tmp_path)
    assert kept.read_text() == "half"
    living.communicate()
    assert living.returncode == 0
    assert (tmp_path / "second").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_relative_folder_is_swept_in_each_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "out").mkdir(parents=True)
        left = tmp_path / name / "out/.0123abcd.part"
        left.touch()
        monkeypatch.chdir(tmp_path / name)
        with atomic_path(Path("out/file")) as part:
            part.touch()
        assert not left.exists()


def test_nothing_is_swept_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    left = tmp_path / ".1a2b3c4d.part"
    left.touch()
    with atomic_path(tmp_path / "file") as part:
        part.write_text("content")
    assert sorted(tmp_path.iterdir()) == [left, tmp_path / "file"]


def test_a_sweep_that_is_faster_than_the_lock_does_not_lose_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swept = fcntl.flock, []

    def sweep_first(file: Any, operation: int) -> None:
        if not swept:
            swept.extend(tmp_path.glob("*.part"))
            remove_partial_files(tmp_path)  # of another process
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with atomic_path(tmp_path / "file") as part:
        part.write_text("content")
    assert len(swept) == 1
    assert (tmp_path / "file").read_text() == "content"


def test_the_part_of_a_download_is_not_swept(tmp_path: Path) -> None:
    names = ["train.zip.part", "train.zip.part.json", "train-0123456789ab.part"]
    for name in names:
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_partial_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "file.txt.1a2b3c4d.part").touch()
    (tmp_path / "file.txt").touch()
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
