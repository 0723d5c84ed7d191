"""Folders: where results are kept, on a disk or in an object store such as Amazon S3."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carvana_kedro.stores.folders.base import Folder, Stat
from carvana_kedro.stores.folders.disk import DiskFolder

if TYPE_CHECKING:
    from carvana_kedro.stores.folders.objects import ObjectFolder

__all__ = ["DiskFolder", "Folder", "Stat", "is_address", "open_file", "open_folder"]


def is_address(path: str | Path) -> bool:
    """Return whether this is the address of an object store. A `Path` of one has lost its double slash, and is none."""
    return "://" in str(path)


def open_file(
    path: str | Path, *, scratch: str | Path | None = None, credentials: Mapping[str, Any] | None = None
) -> tuple[Folder, str]:
    """Return the folder of a file, and the name of the file. The arguments are those of `open_folder`."""
    if is_address(path):
        folder, _, name = str(path).rpartition("/")
        return open_folder(folder, scratch=scratch, credentials=credentials), name
    return DiskFolder(Path(path).parent), Path(path).name


def open_folder(
    path: str | Path, *, scratch: str | Path | None = None, credentials: Mapping[str, Any] | None = None
) -> "DiskFolder | ObjectFolder":
    """Return the folder at a path, such as `data`, or at an address, such as `s3://bucket/data`.

    Args:
        path: Path or address. The folder need not exist.
        scratch: Folder on a disk for temporary files and local copies of an object store; None: the system's own.
        credentials: Arguments of fsspec's file system, such as `key` and `secret`. Without them it looks where its
            provider's tools look.

    Raises:
        UserError: A package is missing, or the address is not valid.
    """
    if not is_address(path):
        return DiskFolder(Path(path))
    from carvana_kedro.stores.folders.objects import ObjectFolder  # imports fsspec

    return ObjectFolder.open(str(path), scratch=scratch, credentials=credentials or {})
