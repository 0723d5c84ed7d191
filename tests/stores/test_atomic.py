import subprocess
import sys
from pathlib import Path

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
from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)])
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_partial_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "file.txt.1a2b3c4d.part").touch()
    (tmp_path / "file.txt").touch()
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
