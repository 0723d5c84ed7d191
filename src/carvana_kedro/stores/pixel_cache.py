"""Cache of decoded images in memory-mapped files, and the available memory."""

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
    """The rows of an array in a file. Indexing reads them.

    It is pickled as its path: a memory map would be pickled with all its content.
    """

    def __init__(self, path: Path) -> None:
        """Map the file."""
        self._path = path
        self._rows = np.load(path, mmap_mode="r")

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        """Return the indexed rows, like an array."""
        return np.asarray(self._rows[index])

    def __reduce__(self) -> tuple[type["MappedRows"], tuple[Path]]:
        """Pickle the path only."""
        return MappedRows, (self._path,)


@dataclass(frozen=True)
class PixelCache:
    """A folder of decoded and resized images: one file `<source>-<key>.npy` per choice of images and size.

    Later runs use the files again. They stay until the user removes them.
    """

    folder: Path

    def rows(
        self, source: str, key: str, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]
    ) -> MappedRows:
        """Return the rows cached as `<source>-<key>`. On the first call, `fill` writes them.

        Args:
            source: fingerprint of the image source.
            key: identifies these rows among those of the source.
            shape: number of rows, and length of a row in bytes.
            fill: writes into an array of this shape, uint8.

        Raises:
            UserError: the disk has too little space.
        """
        path = self.folder / f"{source}-{key}.npy"
        if not _is_whole(path, shape):
            # All files share one lock: under it, every partial file belongs to a killed process.
            with locked(self.folder / "pixels"):
                if not _is_whole(path, shape):
                    self._build(path, shape, fill)
        logger.info("Reading decoded images from %s", path)
        return MappedRows(path)

    def _build(self, path: Path, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
        remove_partial_files(self.folder)
        require_space(self.folder, int(np.prod(shape)), "caching decoded images")
        with atomic_path(path) as part:
            _write_rows(part, shape, fill)


def require_memory(needed: int, purpose: str) -> None:
    """Check that `needed` bytes of memory are available, on systems that report it (Linux).

    Args:
        needed: bytes.
        purpose: what the memory is for; the message begins with it. Example: `keeping the images in memory`.

    Raises:
        UserError: there is less. The message names both sizes.
    """
    available = min(_available_memory(), default=needed)
    if available < needed:
        raise UserError(
            f"{purpose[:1].upper()}{purpose[1:]} needs {format_size(needed)}, but only {format_size(available)} of "
            "memory is available. Keep the images in a file (--params model_training.cache=memmap), decode them in "
            "each epoch (cache=none), or choose a smaller model_training.input_size."
        )


def _available_memory() -> list[int]:
    """Return the bytes that the machine and the container have left, if they report it (Linux)."""
    found = []
    with suppress(OSError):
        found += [1024 * kilobytes for kilobytes in _numbers(_MEMINFO, "MemAvailable:")]
    with suppress(OSError, ValueError):  # "max": no limit
        limit = int((_CGROUP / "memory.max").read_text())
        # memory.current also counts cached files, which the kernel drops when memory is short.
        found += [max(0, limit - used) for used in _numbers(_CGROUP / "memory.stat", "anon")]
    return found


def _numbers(path: Path, name: str) -> list[int]:
    return [int(number) for number in re.findall(rf"^{name}\s+(\d+)", path.read_text(), re.MULTILINE)]


def _write_rows(path: Path, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
    """Write the file. The memory map is closed at the end: Windows cannot rename a mapped file."""
    rows = np.lib.format.open_memmap(path, "w+", np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        # Writing to a map on a full disk would kill the process.
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
