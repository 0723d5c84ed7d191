"""Digests of the contents of files. They are remembered, so that unchanged files are not read again."""

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

logger = logging.getLogger(__name__)

_WINDOW = 1024
_LOCK_SECONDS = 10.0
# Two changes within one tick of the file system's clock leave the same times. The slowest clock, of FAT, ticks every
# two seconds. (Git calls such entries of its index racily clean.)
_TICK_NS = 2_000_000_000
_TABLE = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, digest TEXT, seal TEXT) WITHOUT ROWID"


class _Known(NamedTuple):
    """The digest of a file, and the state that the file was in: see `state_of`."""

    state: str
    digest: str


class Digests:
    """The digests of files. A file is read again only if its size, times or inode have changed.

    Construction opens no file. Instances can be pickled and sent to other processes. Several processes may use one
    memory.

    Args:
        memory: SQLite file that remembers the digests. It may be removed at any time. If it is damaged, locked or
            cannot be written, a warning is logged, and the files are read. None: only this object remembers them.
    """

    def __init__(self, memory: Path | None = None) -> None:
        """Store the argument."""
        self._memory = memory
        self._known: dict[bytes, _Known] = {}

    def __reduce__(self) -> tuple[type["Digests"], tuple[Path | None]]:
        """Pickle the path of the memory only."""
        return Digests, (self._memory,)

    @property
    def memory(self) -> Path | None:
        """The file that remembers the digests, or None."""
        return self._memory

    def of(self, paths: Sequence[Path]) -> list[str]:
        """Return the digest of each file: the first 32 hex digits of its SHA-256, or "" if it cannot be read."""
        keys = [os.fsencode(path.absolute()) for path in paths]
        states = [_state_at(path) for path in paths]
        wanted = {key: state for key, state in zip(keys, states, strict=True) if state}
        self._recall({key: state for key, state in wanted.items() if not self._has(key, state)})
        unread = [
            (key, path)
            for key, path, state in zip(keys, paths, states, strict=True)
            if state and not self._has(key, state)
        ]
        read = self._read(unread)
        return [
            (read.get(key) or self._known[key]).digest if state else ""
            for key, state in zip(keys, states, strict=True)
        ]

    def _has(self, key: bytes, state: str) -> bool:
        known = self._known.get(key)
        return known is not None and known.state == state

    def _read(self, files: Sequence[tuple[bytes, Path]]) -> dict[bytes, _Known]:
        """Read files. An interrupted run remembers the windows of files that it has finished."""
        found: dict[bytes, _Known] = {}
        if len(files) > _WINDOW:
            logger.info("Reading %d files that are new or changed, to compute their digests", len(files))
        with (
            ThreadPoolExecutor() as threads,  # hashlib releases the GIL
            tqdm(desc="Reading", total=len(files), unit=" files", leave=False, disable=None) as bar,
        ):
            for start in range(0, len(files), _WINDOW):
                window = files[start : start + _WINDOW]
                paths = (path for _, path in window)
                known = dict(zip((key for key, _ in window), threads.map(_read, paths), strict=True))
                self._remember({key: one for key, one in known.items() if one.state})
                found |= known
                bar.update(len(window))
        return found

    def _recall(self, states: Mapping[bytes, str]) -> None:
        """Load the digests of files that are still in these states."""

        def load(memory: sqlite3.Connection) -> None:
            memory.execute("BEGIN")  # one lock for all rows
            for key, state in states.items():
                row = memory.execute("SELECT digest, seal FROM files WHERE path = ?", (key,)).fetchone()
                if row and row[1] == _seal(key, state, row[0]):
                    self._known[key] = _Known(state, row[0])

        if states and self._memory and self._memory.exists():
            self._open(self._memory, load)

    def _remember(self, found: Mapping[bytes, _Known]) -> None:
        self._known.update(found)
        rows = [(key, digest, _seal(key, state, digest)) for key, (state, digest) in found.items()]
        if rows and self._memory:
            self._open(
                self._memory,
                lambda memory: memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows),
            )

    def _open(self, path: Path, use: Callable[[sqlite3.Connection], object]) -> None:
        """Call `use` with the memory. If that fails, log a warning, and do without the memory from then on.

        The connection is closed again, because it must not be used in a fork of this process.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as memory, memory:
                memory.execute(_TABLE)
                use(memory)
        except (sqlite3.Error, OSError) as error:
            self._memory = None
            logger.warning(
                "%s cannot be used (%s). It remembers the digests of files; without it, every run reads all files. If "
                "the file is damaged, remove it.", path, error,
            )  # fmt: skip


def fingerprint(facts: Iterable[tuple[str, ...]]) -> str:
    """Return a short hash of facts, 16 hex digits. Their order does not matter.

    >>> fingerprint([("image", "a.jpg", "12"), ("mask", "a.png", "34")])
    '279eea1cb3150592'
    """
    return hashlib.sha256(repr(sorted(facts)).encode()).hexdigest()[:16]


def _read(path: Path) -> _Known:
    """Return the digest of a file, "" if it cannot be read; and its state, "" if that must not be remembered."""
    now = time.time_ns()
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
            state = state_of(before)
            is_settled = state == state_of(os.fstat(file.fileno())) and now - _changed_ns(before) > _TICK_NS
    except OSError:
        return _Known("", "")
    return _Known(state if is_settled else "", digest)


def _state_at(path: Path) -> str:
    """Return the state of a file, or "" if there is none. A pipe is not opened: this would block."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return state_of(found) if stat.S_ISREG(found.st_mode) else ""


def state_of(found: os.stat_result) -> str:
    """Return the facts that change with the content. A copy can keep the times, but not the inode or the ctime."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _changed_ns(found: os.stat_result) -> int:
    """Return the time of the last change. On Windows, `st_ctime` is the time when the file was created."""
    return found.st_mtime_ns if os.name == "nt" else found.st_ctime_ns


def _seal(key: bytes, state: str, digest: str) -> str:
    """Return a hash that ties a remembered digest to its file and state. A damaged row does not fit either."""
    return hashlib.sha256(b"\0".join((key, state.encode(), str(digest).encode()))).hexdigest()[:16]
