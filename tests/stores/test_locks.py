import errno
import fcntl
import multiprocessing
import multiprocessing.pool
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.locks import locked

# Prints "held" once it has the lock, and ends when its standard input is closed.
HOLDER = """
import sys
from pathlib import Path
from carvana_kedro.stores.locks import locked
print("asking", flush=True)
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

# Takes the lock, forks a child that sleeps, and waits. The child inherits the open files of its parent.
FORKING_HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from carvana_kedro.stores.locks import locked
with locked(Path(sys.argv[1])):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid, flush=True)
    sys.stdin.read()
"""

# Adds 1 to the number in a file, again and again. Without a lock, updates of two such processes are lost.
COUNTER = """
import sys
from pathlib import Path
from carvana_kedro.stores.locks import locked
path = Path(sys.argv[1])
for _ in range(100):
    with locked(path):
        number = int(path.read_text())
        path.write_text(str(number + 1))
"""


def _start(program: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _take(path: Path) -> None:
    with locked(path):
        pass


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_process_waits_until_the_holder_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "new" / "folder"
    with _start(HOLDER, path) as first:
        assert [_line(first), _line(first)] == ["asking", "held"]
        with _start(HOLDER, path) as second, _start(HOLDER, path.with_name("other")) as other:
            assert [_line(other), _line(other)] == ["asking", "held"]  # another name is another lock
            assert _line(second) == "asking"
            with pytest.raises(subprocess.TimeoutExpired):  # it would end at once if it had the lock
                second.communicate(timeout=0.5)
            if end == "ends":
                first.communicate()
            else:
                first.kill()
            assert second.wait(10) == 0
            other.communicate()
    assert sorted(file.name for file in path.parent.iterdir()) == [".folder.lock", ".other.lock"]


def test_a_waiting_process_says_what_it_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run"
    with caplog.at_level("INFO", logger="carvana_kedro.stores.locks"):
        with locked(path):
            pass
        assert caplog.messages == []
        with _start(HOLDER, path) as holder:
            assert [_line(holder), _line(holder)] == ["asking", "held"]
            with multiprocessing.pool.ThreadPool(1) as threads:
                waiting = threads.apply_async(_take, (path,))
                while not caplog.messages:
                    time.sleep(0.01)
                holder.communicate()
                waiting.get(10)
        assert caplog.messages == [f"Waiting for another run that uses {path}"]


def test_two_processes_never_hold_the_lock_at_once(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    with _start(COUNTER, path) as first, _start(COUNTER, path) as second:
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert path.read_text() == "200"


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no luck"), locked(tmp_path / "a"):
        raise RuntimeError("no luck")
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass


def test_taking_a_lock_twice_raises_an_error(tmp_path: Path) -> None:
    with locked(tmp_path / "a"):
        with pytest.raises(RuntimeError, match="Deadlock"), locked(tmp_path / "a"):
            pass
        with _start(HOLDER, tmp_path / "a") as other:  # the failed attempt has not released the lock
            assert _line(other) == "asking"
            with pytest.raises(subprocess.TimeoutExpired):
                other.communicate(timeout=0.5)
            other.kill()


def test_the_lock_is_released_although_a_forked_child_lives_on(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        forked.start()
    began = time.monotonic()
    with locked(tmp_path / "run"):
        assert time.monotonic() - began < 30
    forked.kill()
    forked.join()


def test_a_killed_process_releases_the_lock_although_its_child_lives_on(tmp_path: Path) -> None:
    with _start(FORKING_HOLDER, tmp_path / "run") as holder:
        child = int(_line(holder))
        holder.kill()
        holder.wait()
        began = time.monotonic()
        with locked(tmp_path / "run"):
            assert time.monotonic() - began < 30
        os.kill(child, signal.SIGKILL)  # raises an error if there is no such process


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(number, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(UserError, match="does not support file locks") as raised, locked(tmp_path / "run"):
        raise AssertionError("the block runs without a lock")
    assert f"The file system of {tmp_path} " in str(raised.value)


def test_another_error_of_the_disk_names_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with (
        pytest.raises(UserError, match=r"\.run\.lock cannot be written: Input/output error"),
        locked(tmp_path / "run"),
    ):
        pass
