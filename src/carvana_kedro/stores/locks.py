"""Locks between processes."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from carvana_kedro.errors import UserError

logger = logging.getLogger(__name__)

# What flock() returns on file systems without locks, network file systems above all.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock named after `path` while the block runs. Wait while another process holds it.

    The operating system releases the lock when the process ends, even if it is killed. Child processes do not
    inherit it. The lock is not re-entrant: a thread must not take a lock that it holds already.

    Args:
        path: file or folder that the lock protects. It need not exist. The lock file is `.<name>.lock` beside it.

    Raises:
        UserError: the file system does not support locks.
        RuntimeError: this thread holds the lock already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        path.with_name(f".{path.name}.lock"),
        thread_local=False,  # a generator may leave the block in another thread
        preserve_lock_file=True,  # if the file were removed, two processes could hold two locks of one name
        fallback_to_soft=False,  # a soft lock stays behind when its process is killed
    )
    try:
        _acquire(lock, path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise UserError(
            f"The file system of {path.parent} does not support file locks ({error.strerror}). "
            "Keep the data on another disk: --params data_root=PATH"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("Waiting for another run that uses %s", path)
        lock.acquire()
