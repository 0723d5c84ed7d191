"""Base of the datasets that keep one file, on a disk or in an object store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from kedro.io import AbstractDataset

from carvana_kedro.stores.folders import DiskFolder, Folder, open_file, open_folder

Saved = TypeVar("Saved")
Loaded = TypeVar("Loaded")

Storage = Mapping[str, Any]
"""What an address needs: `path`, a folder on a disk for temporary files and copies, and `credentials`."""


def open_stored(path: str, storage: Storage | None) -> Folder:
    """Return the folder at a path or an address: see `open_folder`."""
    return open_folder(path, **_options(storage or {}))


def open_stored_file(path: str, storage: Storage | None) -> tuple[Folder, str]:
    """Return the folder of a file, and the name of the file: see `open_file`."""
    return open_file(path, **_options(storage or {}))


def _options(storage: Storage) -> dict[str, Any]:
    return {"scratch": storage.get("path"), "credentials": storage.get("credentials")}


class FileDataset(AbstractDataset[Saved, Loaded], Generic[Saved, Loaded]):
    """Base class of datasets that keep one file.

    Args:
        filepath: path or address of the file.
        storage: what an address needs: see `Storage`.
        metadata: for Kedro-Viz.
    """

    def __init__(
        self, filepath: str, storage: Storage | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self.where = str(filepath)
        self.storage = storage
        self._folder, self._name = open_stored_file(self.where, storage)
        self.metadata = metadata

    @property
    def filepath(self) -> Path | None:
        """The path of a file on a disk. Kedro-Viz reads its size, in an object store without these credentials."""
        return self._folder.path / self._name if isinstance(self._folder, DiskFolder) else None

    def is_there(self) -> bool:
        """Return whether the file exists."""
        return self._folder.stat(self._name) is not None

    def _exists(self) -> bool:
        return self.is_there()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.where}
