"""The files of a folder of images: on a disk, or in an object store, from where they are copied."""

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tqdm import tqdm

from carvana_kedro.errors import StoreError, UserError
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.digests import fingerprint
from carvana_kedro.stores.folders import Stat
from carvana_kedro.stores.machine import format_size, require_space
from carvana_kedro.stores.processes import map_in_threads

if TYPE_CHECKING:
    from carvana_kedro.stores.folders.objects import ObjectFolder  # imports fsspec

logger = logging.getLogger(__name__)

_IN_MEMORY = 1 << 28  # bytes of files that are copied at once


class Found(NamedTuple):
    """What a folder holds, without hidden files.

    Attributes:
        names: of the files in the folder itself, sorted.
        subfolders: the number of image files in each subfolder, by its name.
    """

    names: list[str]
    subfolders: dict[str, int]


class Files(Protocol):
    """The files of a folder, by name. `str()` shows where they are."""

    def find(self, types: Collection[str]) -> Found:
        """Return what the folder holds. `types` are the endings of image files, such as `.jpg`.

        Raises:
            OSError: the folder cannot be opened.
        """

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return the paths of files on a disk. They are only for reading, and need not exist."""

    def is_same_as(self, other: "Files") -> bool:
        """Return whether both are the same folder, which exists."""

    def forget_earlier(self) -> None:
        """Remove copies of earlier versions, and of files that are gone."""

    def address(self, name: str) -> str:
        """Return where a file is, for messages."""


@dataclass(frozen=True)
class FilesOnDisk:
    """The files of a folder on a disk: see `Files`."""

    folder: Path

    def find(self, types: Collection[str]) -> Found:
        """See `Files.find`."""
        paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        # A folder with a name like x.jpg is a mistake. It counts as a file, and is reported as a problem.
        subfolders = [path for path in paths if path.suffix.lower() not in types and path.is_dir()]
        skipped = set(subfolders)
        return Found(
            [path.name for path in paths if path not in skipped],
            {folder.name: _count_images(folder.rglob("*"), types) for folder in subfolders},
        )

    def paths(self, names: Sequence[str]) -> list[Path]:
        """See `Files.paths`."""
        return [self.folder / name for name in names]

    def is_same_as(self, other: Files) -> bool:
        """See `Files.is_same_as`."""
        if not isinstance(other, FilesOnDisk) or not (self.folder.is_dir() and other.folder.is_dir()):
            return False
        return self.folder.samefile(other.folder)

    def forget_earlier(self) -> None:
        """Do nothing: there are no copies."""

    def address(self, name: str) -> str:
        """See `Files.address`."""
        return str(self.folder / name)

    def __str__(self) -> str:
        """Return the path."""
        return str(self.folder)


@dataclass(frozen=True)
class FilesInStore:
    """The files of a folder in an object store: see `Files`.

    The store is listed once, when first needed. A file is copied to a disk when its path is asked for, once for each
    version.

    Attributes:
        folder: in the object store. Copies are below its `scratch`.
    """

    folder: "ObjectFolder"

    def find(self, types: Collection[str]) -> Found:
        """See `Files.find`."""
        files: list[str] = []
        nested: dict[str, list[PurePosixPath]] = {}
        for name in self._stats:
            folder, _, below = name.partition("/")
            if not below:
                files.append(name)
            else:
                nested.setdefault(folder, []).append(PurePosixPath(below))
        return Found(files, {folder: _count_images(paths, types) for folder, paths in nested.items()})

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return the paths of copies. Those that are missing are made, several at once.

        Raises:
            StoreError: the store refuses a file, a file was changed or removed meanwhile, or the disk is full.
        """
        paths = [self._path(name) for name in names]
        missing = [name for name, path in zip(names, paths, strict=True) if not path.exists()]
        try:
            if missing:
                self._copy_all(missing)
        except UserError as error:
            raise StoreError(str(error)) from error
        return paths

    def is_same_as(self, other: Files) -> bool:
        """See `Files.is_same_as`."""
        return isinstance(other, FilesInStore) and str(self) == str(other)

    def forget_earlier(self) -> None:
        """See `Files.forget_earlier`."""
        kept = {self._path(name).name for name in self._stats}
        if self._copies.exists():
            for path in self._copies.iterdir():
                if path.name not in kept and not path.name.startswith("."):
                    with suppress(OSError):  # it only takes space
                        path.unlink()

    def address(self, name: str) -> str:
        """See `Files.address`."""
        return self.folder.address(name)

    def __str__(self) -> str:
        """Return the address."""
        return str(self.folder)

    @cached_property
    def _stats(self) -> dict[str, Stat]:
        """What the store tells about its files, by name, sorted. Hidden files are left out."""
        found = self.folder.list("**/*")
        return {name: stat for name, stat in found.items() if not re.search(r"(^|/)\.", name)}

    @cached_property
    def _copies(self) -> Path:
        return self.folder.scratch / "copies" / "images" / fingerprint([(str(self),)])

    def _path(self, name: str) -> Path:
        """Return the path of a copy. Another version of the file has another one."""
        readable = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)  # on all disks, and not too long
        return self._copies / f"{fingerprint([(name, self._stats[name].version)])}-{readable[-100:]}"

    def _copy_all(self, names: Sequence[str]) -> None:
        if len(names) > 1:
            size = sum(self._stats[name].size for name in names)
            require_space(self._copies, size, f"copying {len(names)} files of {self}")
            logger.info(
                "Copying %d files (%s) of %s to %s", len(names), format_size(size), self, self._copies
            )
        copied = map_in_threads(
            self._copy,
            names,
            size=lambda name: self._stats[name].size,
            limit=_IN_MEMORY,
            threads=self.folder.threads,
        )
        hidden = len(names) < 2 or None  # None: unless it is a terminal
        for _ in tqdm(copied, "Copying", len(names), unit=" files", leave=False, disable=hidden):
            pass

    def _copy(self, name: str) -> None:
        with atomic_path(self._path(name)) as part:
            try:
                part.write_bytes(self.folder.read(name))
                now = self.folder.stat(name)
            except FileNotFoundError:
                now = None
            if now is None or now.version != self._stats[name].version:
                raise UserError(
                    f"{self.address(name)} was changed or removed after the folder was listed. Run again."
                )


def _count_images(paths: Iterable[PurePosixPath | Path], types: Collection[str]) -> int:
    return sum(path.suffix.lower() in types and not path.name.startswith(".") for path in paths)
