"""What the machine offers: processor cores, memory, shared memory and free disk space."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from carvana_kedro.errors import UserError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_SHARED_MEMORY = Path("/dev/shm")


_sharing = 1


def processes_here() -> int:
    """Return the number of processes of this run on this machine."""
    return _sharing


def share_machine(processes: int) -> None:
    """Let this process use only its share of cores and shared memory: so many processes of one run do the same work."""
    global _sharing
    _sharing = processes


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _sharing)


def require_memory(needed: int, purpose: str) -> None:
    """Check that `needed` bytes of memory are available, on systems that report it (Linux).

    Args:
        needed: bytes.
        purpose: what the memory is for; the message begins with it. Example: `keeping the images in memory`.

    Raises:
        UserError: there is less. The message names both sizes.
    """
    available = available_memory()
    if available is not None and available < needed:
        raise UserError(
            f"{purpose[:1].upper()}{purpose[1:]} needs {format_size(needed)}, but only {format_size(available)} of "
            "memory is available. Keep the images in a file (--params model_training.cache=memmap), decode them in "
            "each epoch (cache=none), or choose a smaller model_training.input_size."
        )


def free_shared_memory() -> int | None:
    """Return how many free bytes of shared memory this process may use, or None where it has no limit of its own.

    Docker limits it to 64 MB unless `docker run --shm-size` says otherwise.
    """
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free // _sharing
    except OSError:  # only Linux has this folder
        return None


def available_memory() -> int | None:
    """Return the bytes that the machine and the container have left, or None if they do not report it (Linux does)."""
    found = []
    with suppress(OSError):
        found += [1024 * kilobytes for kilobytes in _numbers(_MEMINFO, "MemAvailable:")]
    with suppress(OSError, ValueError):  # "max": no limit
        limit = int((_CGROUP / "memory.max").read_text())
        # memory.current also counts cached files, which the kernel drops when memory is short.
        found += [max(0, limit - used) for used in _numbers(_CGROUP / "memory.stat", "anon")]
    return min(found, default=None)


def _numbers(path: Path, name: str) -> list[int]:
    return [int(number) for number in re.findall(rf"^{name}\s+(\d+)", path.read_text(), re.MULTILINE)]


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
            f"on the disk of {folder}. Free some space, or keep the data elsewhere: --params data_root=PATH (or "
            "scratch_root=PATH, if data_root is an address)"
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
