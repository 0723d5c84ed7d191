"""Base of the datasets that keep one file, on a disk or in an object store."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from kedro.io import AbstractDataset, DatasetError

from carvana_kedro.stores.faults import reading
from carvana_kedro.stores.folders import DiskFolder, Folder, open_file, open_folder

if TYPE_CHECKING:
    from carvana_kedro.stores.folders.objects import ObjectFolder

Saved = TypeVar("Saved")
Loaded = TypeVar("Loaded")

Storage = Mapping[str, Any]
"""What an address needs: `path`, a folder on a disk for temporary files and copies, and `credentials`."""


def open_stored(path: str, storage: Storage | None) -> "DiskFolder | ObjectFolder":
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


class FormatDataset(FileDataset[Saved, Loaded]):
    """Base class of datasets whose file has the format of one of Kedro's datasets.

    Kedro's dataset reads the local copy of the file and writes the temporary one. `Folder` does the rest: the file
    appears whole, on a disk or in an object store.

    Args:
        filepath: path or address of the file.
        storage: see `FileDataset`.
        metadata: for Kedro-Viz.
        options: `load_args`, `save_args` and `fs_args`, as Kedro's dataset takes them.
    """

    FORMAT: ClassVar[type[AbstractDataset[Any, Any]]]
    _OPTIONS = frozenset({"load_args", "save_args", "fs_args"})

    def __init__(
        self,
        filepath: str,
        storage: Storage | None = None,
        metadata: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(filepath, storage, metadata)
        if unknown := options.keys() - self._OPTIONS:  # `version` above all, which `Folder` does not know
            raise TypeError(f"{type(self).__name__} has no argument {min(unknown)!r}")
        self._options = options
        self._at(Path(self._name))  # refuses what Kedro's dataset does not take

    def load(self) -> Loaded:
        """Return the content.

        Raises:
            UserError: the file is missing, cannot be read or is damaged.
        """
        with reading(self.where):
            return self._read(self._folder.local(self._name))

    def save(self, data: Saved) -> None:
        """Write the file, whole or not at all."""
        with self._folder.write(self._name) as part:
            self._write(data, part)

    def _at(self, path: Path) -> Any:
        return self.FORMAT(filepath=str(path), **self._options)  # type: ignore[call-arg]

    def _read(self, path: Path) -> Any:
        with _causes():
            return self._at(path).load()

    def _write(self, data: Any, path: Path) -> None:
        with _causes():
            self._at(path).save(data)


@contextmanager
def _causes() -> Iterator[None]:
    """Raise what has led to an error of Kedro, which names the temporary file or the local copy."""
    try:
        yield
    except DatasetError as error:
        raise (error.__cause__ or error) from None
