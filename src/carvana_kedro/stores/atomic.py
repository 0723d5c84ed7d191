"""Atomic writes: a file appears complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. It is renamed to `path` when the block ends without an error.

    The content is flushed to the disk before the rename: after a power cut, `path` is either the old file or the
    complete new one. If the block raises an error, the temporary file is removed and `path` stays as it was.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "folder" / "note.txt"
    >>> with atomic_path(target) as part:
    ...     _ = part.write_text("complete")
    >>> target.read_text()
    'complete'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The random part of the name separates two processes that write the same file.
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _flush_folder(path.parent)
    finally:
        with suppress(PermissionError):  # Windows does not remove a file that is still open
            part.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`. Call it only while no process writes there."""
    for part in folder.glob("*.part"):
        part.unlink()


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows does not open folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
