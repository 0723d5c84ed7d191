"""Cache of decoded images in memory-mapped files."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import require_space

logger = logging.getLogger(__name__)


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

    Later runs use the files again. They stay until the user removes them. `<source>-<key>.digest` has the digest of the
    file, and a file that does not match is filled again. An unchanged file is read only once for this: see `Digests`.
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
        if not self._is_whole(path, shape):
            # All files share one lock: under it, every partial file belongs to a killed process.
            with locked(self.folder / "pixels"):
                if not self._is_whole(path, shape):
                    self._build(path, shape, fill)
        logger.info("Reading decoded images from %s", path)
        return MappedRows(path)

    def _build(self, path: Path, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
        if path.exists():
            logger.warning("%s is damaged. The images are decoded again.", path)
        remove_partial_files(self.folder)
        require_space(self.folder, int(np.prod(shape)), "caching decoded images")
        with atomic_path(path) as part:
            _write_rows(part, shape, fill)
            (digest,) = Digests().of([part])
            # The digest is there first: a file without one would be filled again.
            with atomic_path(_digest_path(path)) as text:
                text.write_text(digest, "ascii")

    def _is_whole(self, path: Path, shape: tuple[int, int]) -> bool:
        """Return whether the file is what was written."""
        if not _has_shape(path, shape):
            return False
        return Digests(self.folder / "digests.sqlite").of([path]) == [_read_text(_digest_path(path))]


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".digest")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""


def _write_rows(path: Path, shape: tuple[int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
    """Write the file. The memory map is closed at the end: Windows cannot rename a mapped file."""
    rows = np.lib.format.open_memmap(path, "w+", np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        # Writing to a map on a full disk would kill the process.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    fill(rows)
    rows.flush()


def _has_shape(path: Path, shape: tuple[int, int]) -> bool:
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(rows.shape == shape and rows.dtype == np.uint8)
