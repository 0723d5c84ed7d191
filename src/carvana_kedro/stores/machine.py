"""What the machine offers: free disk space and processor cores."""

import os
import shutil
from pathlib import Path

from carvana_kedro.errors import UserError


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Check that `needed` bytes can be written below `folder`.

    Args:
        folder: need not exist yet.
        needed: bytes.
        purpose: what the space is for; the message begins with it. Example: `unpacking train.zip`.

    Raises:
        UserError: there is less. The message names both sizes.

    >>> require_space(Path("."), 1 << 60, "unpacking everything")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    carvana_kedro.errors.UserError: Unpacking everything needs 1152921.5 TB, but only ... is free on the disk of ...
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{purpose[:1].upper()}{purpose[1:]} needs {format_size(needed)}, but only {format_size(free)} is free "
            f"on the disk of {folder}. Free some space, or keep the data elsewhere: --params data_root=PATH"
        )


def format_size(size: float) -> str:
    """Format a number of bytes in decimal units.

    >>> format_size(999), format_size(16_300_000_000)
    ('999 B', '16.3 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:  # a larger one would round to 1000.0
            return f"{size:.1f} {unit}" if unit != "B" else f"{size} B"
        size /= 1000
    return f"{size:.1f} TB"
