"""Atomic writes: a file appears complete or not at all."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from carvana_kedro.stores.faults import writing

try:
    import fcntl
except ImportError:  # Windows, which does not remove a file that is open
    fcntl = None  # type: ignore[assignment]

# Not the name of a part that a later run continues, such as `train.zip.part`.
_PARTIAL = re.compile(r".*\.[0-9a-f]{8}\.part")

_swept: set[Path] = set()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. It is renamed to `path` when the block ends without an error.

    The content is flushed to the disk before the rename: after a power cut, `path` is either the old file or the
    complete new one. If the block raises an error, the temporary file is removed and `path` stays as it was. What
    killed processes left in the folder is removed first.

    Raises:
        UserError: the disk is full, the folder is read-only, or the like.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "folder" / "note.txt"
    >>> with atomic_path(target) as part:
    ...     _ = part.write_text("complete")
    >>> target.read_text()
    'complete'
    """
    # Random, so that two processes can write the same file. Short: any name that is allowed for `path` can be written.
    part = path.with_name(f".{uuid4().hex[:8]}.part")
    with writing(path, part):
        _prepare(path.parent)
        claim = _claim(part)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            if fcntl is None:  # Windows does not rename a file that is open
                claim.close()
            os.replace(part, path)
            _flush_folder(path.parent)
        finally:
            claim.close()
            with suppress(OSError):
                part.unlink(missing_ok=True)


@contextmanager
def temporary_path(folder: Path) -> Iterator[Path]:
    """Yield the path of an empty file in a folder. It is removed when the block ends.

    What killed processes left in the folder is removed first.

    Raises:
        UserError: the disk is full, the folder is read-only, or the like.
    """
    part = folder / f".{uuid4().hex[:8]}.part"
    with writing(part):
        _prepare(folder)
        claim = _claim(part)
        try:
            yield part
        finally:
            claim.close()  # first: Windows does not remove a file that is open
            with suppress(OSError):
                part.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`. Those of living processes stay.

    A living process holds a lock on its temporary file. On a file system without locks, all of them stay.
    """
    with suppress(OSError):
        for part in folder.glob("*.part"):
            if _PARTIAL.fullmatch(part.name):
                with suppress(OSError):
                    _remove_unclaimed(part)


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Once per process: listing a large folder for each of its files would take long.
    if (folder := folder.absolute()) not in _swept:
        _swept.add(folder)
        remove_partial_files(folder)


def _claim(part: Path) -> BinaryIO:
    """Create the file and lock it until the returned file is closed."""
    while True:
        claim = part.open("xb+")
        if fcntl is not None:
            with suppress(OSError):  # no locks on this file system: nothing is removed there
                fcntl.flock(claim, fcntl.LOCK_EX)
        if part.exists():  # else another process removed it before it was locked
            return claim
        claim.close()


def _remove_unclaimed(part: Path) -> None:
    if fcntl is None:
        part.unlink()
        return
    with part.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises an error if another process holds the lock
        part.unlink()


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows does not open folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
            errno.ENOSYS,
        ):  # not possible on some network drives
            raise
    finally:
        os.close(descriptor)
