"""Room for decoded images: files that are mapped into memory, and the memory that there is."""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import format_size, require_space

logger = logging.getLogger(__name__)

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class MappedRows:
    """The rows of an array's file, read as they are indexed.

    Goes to another process as a path; a memory map would be pickled as all that it maps.
    """

    def __init__(self, path: Path) -> None:
        """Map the file."""
        self._path = path
        self._rows = np.load(path, mmap_mode="r")

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        """Return what an array would."""
        return np.asarray(self._rows[index])

    def __reduce__(self) -> tuple[type["MappedRows"], tuple[Path]]:
        """Be pickled as a path."""
        return MappedRows, (self._path,)


@dataclass(frozen=True)
class PixelCache:
    """Decoded and resized images in a folder, a file `<source>-<key>.npy` for each choice of images and of size.

    Files stay for later runs until somebody removes them.
    """

    folder: Path

    def rows(
        self, source: str, key: str, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]
    ) -> MappedRows:
        """Return the rows that are kept under these names; the first time, let `fill` write them.

        Args:
            source: fingerprint of the images' source.
            key: what tells these rows from others of the source.
            shape: number of rows, and their length.
            fill: writes into an array (shape) uint8.

        Raises:
            UserError: the disk has no room.
        """
        path = self.folder / f"{source}-{key}.npy"
        if not _is_whole(path, shape):
            # One lock for all names, so that every unfinished file is a killed build's.
            with locked(self.folder / "pixels"):
                if not _is_whole(path, shape):
                    self._build(path, shape, fill)
        logger.info("Decoded images are read from %s", path)
        return MappedRows(path)

    def _build(self, path: Path, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
        remove_partial_files(self.folder)
        require_space(self.folder, int(np.prod(shape)), "keeping images decoded")
        with atomic_path(path) as part:
            _write_rows(part, shape, fill)


def require_memory(needed: int, purpose: str) -> None:
    """Make sure that `needed` bytes of memory are available, where the system tells.

    Args:
        needed: bytes.
        purpose: what for, as the message says it: `keeping the images in memory`.

    Raises:
        UserError: there is less; the message says how much is needed and how much is there.
    """
    available = min(_available_memory(), default=needed)
    if available < needed:
        raise UserError(
            f"{purpose[:1].upper()}{purpose[1:]} needs {format_size(needed)}; {format_size(available)} of memory are "
            "available. Keep them in a file (--params model_training.cache=memmap), decode them anew every time "
            "(cache=none), or choose a smaller model_training.input_size."
        )


def _available_memory() -> list[int]:
    """Return what the machine and the container leave, so far as either tells (Linux)."""
    found = []
    with suppress(OSError):
        found += [1024 * kilobytes for kilobytes in _figures(_MEMINFO, "MemAvailable:")]
    with suppress(OSError, ValueError):  # "max": no limit
        limit = int((_CGROUP / "memory.max").read_text())
        # Files that are cached count as used there, but make room.
        found += [max(0, limit - used) for used in _figures(_CGROUP / "memory.stat", "anon")]
    return found


def _figures(path: Path, name: str) -> list[int]:
    return [int(figure) for figure in re.findall(rf"^{name}\s+(\d+)", path.read_text(), re.MULTILINE)]


def _write_rows(path: Path, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
    """Write the file. Its map is closed at the end: Windows does not rename a file that is mapped."""
    rows = np.lib.format.open_memmap(path, "w+", np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        # A disk that fills up while a map is written kills the process.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    fill(rows)
    rows.flush()


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(rows.shape == shape and rows.dtype == np.uint8)
