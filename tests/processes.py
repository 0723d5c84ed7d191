"""Processes that should end, for several tests."""

import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def killed_afterwards() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list for processes that are started in the block. Kill those that are still running after it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended. It reads /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def running_in_session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended. It reads /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def wait_until_ended(pids: Iterable[int], seconds: float = 30) -> None:
    """Wait until none of the processes is running. Fail if one still is after this time."""
    deadline = time.monotonic() + seconds
    while running := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"processes {running} are still running"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, oldest first. It reads /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return sorted(found)
