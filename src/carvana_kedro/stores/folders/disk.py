"""A folder on a disk."""

import errno
import os
import stat
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

    def local(self, name: str, known: Stat | None = None) -> Path:
        """Return the path of the file itself."""
        path = self.path / name
        path.stat()  # raises an error if there is none
        return path

    def stat(self, name: str) -> Stat | None:
        """See `Folder.stat`."""
        try:
            return _stat((self.path / name).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, pattern: str) -> dict[str, Stat]:
        """See `Folder.list`."""
        depth, files = len(self.path.parts), {}
        for path in self.path.glob(pattern):
            try:
                found = path.stat()
            except OSError as error:
                if error.errno in (
                    errno.ENOENT,
                    errno.ENOTDIR,
                    errno.ELOOP,
                ):  # a broken link, or just removed
                    continue
                raise
            if stat.S_ISREG(found.st_mode):
                files["/".join(path.parts[depth:])] = _stat(found)
        return dict(sorted(files.items()))

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

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)


def _stat(found: os.stat_result) -> Stat:
    return Stat(found.st_size, found.st_mtime, state_of(found))
