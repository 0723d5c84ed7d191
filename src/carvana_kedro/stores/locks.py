"""Locks between processes."""

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from carvana_kedro.errors import UserError
from carvana_kedro.stores.faults import writing

logger = logging.getLogger(__name__)

# What flock() returns on file systems without locks, network file systems above all.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})

# In bytes. File systems allow 255, encrypted ones about 140.
_LONGEST_NAME = 120


@contextmanager
def locked(path: Path, called: str | None = None) -> Iterator[None]:
    """Hold the lock named after `path` while the block runs. Wait while another process holds it.

    The operating system releases the lock when the process ends, even if it is killed. Child processes do not
    inherit it. The lock is not re-entrant: a thread must not take a lock that it holds already.

    Args:
        path: file or folder that the lock protects. It need not exist. The lock file is `.<name>.lock` beside it.
        called: what messages call it; None: its path.

    Raises:
        UserError: the file system does not support locks, or the lock file cannot be created.
        RuntimeError: this thread holds the lock already.
    """
    file = _lock_file(path)
    with writing(file):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        file,
        thread_local=False,  # a generator may leave the block in another thread
        preserve_lock_file=True,  # if the file were removed, two processes could hold two locks of one name
        fallback_to_soft=False,  # a soft lock stays behind when its process is killed
    )
    try:
        _acquire(lock, called or str(path))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise UserError(
                f"The file system of {path.parent} does not support file locks ({error.strerror}). "
                "Keep the data on another disk: --params data_root=PATH"
            ) from error
        with writing(file):
            raise
    try:
        yield
    finally:
        lock.release()


def _lock_file(path: Path) -> Path:
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.lock")


def _acquire(lock: FileLock, called: str) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("Waiting for another run that uses %s", called)
        lock.acquire()
