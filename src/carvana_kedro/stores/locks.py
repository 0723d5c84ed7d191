"""Locks between processes."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that goes by `path` while the block runs; wait while another process holds it.

    The lock ends with its process, however that ends. Its file `.<name>.lock` stays: removing it would let two
    processes hold two locks of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another run that is at work on %s", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # By closing alone it would be held on to by processes that were forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
