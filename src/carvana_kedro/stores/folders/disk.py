"""A folder on a disk."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
from carvana_kedro.stores.digests import state_of
from carvana_kedro.stores.folders.base import Stat
from carvana_kedro.stores.locks import locked


@dataclass(frozen=True)
class DiskFolder:
    """Files below `path`: see `Folder`. They are flushed to the disk before they appear."""

    threads: ClassVar[int | None] = None

    path: Path

    def write(self, name: str) -> AbstractContextManager[Path]:
        """See `Folder.write`, and `atomic_path`."""
        return atomic_path(self.path / name)

    def put(self, name: str, content: bytes) -> str:
        """See `Folder.put`."""
        with self.write(name) as part:
            part.write_bytes(content)
        return state_of((self.path / name).stat())

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        return (self.path / name).read_bytes()

    def local(self, name: str) -> Path:
        """Return the path of the file itself."""
        path = self.path / name
        path.stat()  # raises an error if there is none
        return path

    def stat(self, name: str) -> Stat | None:
        """See `Folder.stat`."""
        try:
            found = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(found.st_size, found.st_mtime, state_of(found))

    def stats(self, names: Iterable[str]) -> dict[str, Stat]:
        """See `Folder.stats`."""
        return {name: found for name in names if (found := self.stat(name))}

    def list(self, pattern: str) -> list[str]:
        """See `Folder.list`."""
        found = (path for path in self.path.glob(pattern) if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def rename(self, name: str, to: str) -> None:
        """See `Folder.rename`."""
        os.replace(self.path / name, self.path / to)

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """See `Folder.sweep`, and `remove_partial_files`."""
        for folder in {part.parent for part in self.path.rglob("*.part")}:
            remove_partial_files(folder)

    def directory(self, name: str = "") -> AbstractContextManager[Path]:
        """Yield the folder itself. It need not exist."""
        return nullcontext(self.path / name)

    def locked(self, name: str = "") -> AbstractContextManager[None]:
        """See `Folder.locked`."""
        return locked(self.path / name)

    def folder(self, name: str) -> "DiskFolder":
        """See `Folder.folder`."""
        return DiskFolder(self.path / name)

    def address(self, name: str) -> str:
        """See `Folder.address`."""
        return str(self.path / name)

    def is_absolute(self) -> bool:
        """See `Folder.is_absolute`."""
        return self.path.is_absolute()

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)
