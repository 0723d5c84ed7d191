"""Free space on a disk, and sizes in words."""

import shutil
from pathlib import Path

from carvana_kedro.errors import UserError


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Make sure that `needed` bytes can be written below `folder`, which need not exist yet.

    Args:
        folder: where.
        needed: bytes.
        purpose: what for, as the message says it: `unpacking train.zip`.

    Raises:
        UserError: there is less; the message says how much is needed and how much is there.

    >>> require_space(Path("."), 1 << 60, "unpacking everything")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    carvana_kedro.errors.UserError: Unpacking everything needs 1152921.5 TB; ... are free on the disk of ...
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{purpose[:1].upper()}{purpose[1:]} needs {spelled_size(needed)}; {spelled_size(free)} are free on the "
            f"disk of {folder}. Make room, or let everything lie elsewhere: --params data_root=PATH"
        )


def spelled_size(size: float) -> str:
    """Return a number of bytes as people say it.

    >>> spelled_size(999), spelled_size(16_300_000_000)
    ('999 B', '16.3 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:  # which would be written 1000.0
            return f"{size:.1f} {unit}" if unit != "B" else f"{size} B"
        size /= 1000
    return f"{size:.1f} TB"
