"""What stores need of a folder, wherever it is."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol


class Stat(NamedTuple):
    """What a folder knows about a file without reading it.

    Attributes:
        size: In bytes.
        modified: When it was written, in seconds since 1970.
        version: Changes with the content: see `digests.state_of`; in an object store the ETag.
    """

    size: int
    modified: float
    version: str


class Folder(Protocol):
    """Files by name. A name is a relative path with slashes, such as `shards/00000.csv`; `str()` shows where it is.

    Methods raise `UserError` if an object store refuses them. On a disk `write` and `put` do, and the others `OSError`.

    Attributes:
        threads: How many threads read several files best; None: one per core.
    """

    threads: ClassVar[int | None]

    def write(self, name: str) -> AbstractContextManager[Path]:
        """Yield the path of a temporary file. Its content appears under `name`, whole, when the block ends.

        After an error in the block, nothing changes.
        """

    def put(self, name: str, content: bytes) -> str:
        """Write a file whole, and return its version: see `Stat`."""

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: There is no such file.
        """

    def local(self, name: str, known: Stat | None = None) -> Path:
        """Return the path of a file on a disk, for libraries that need one. It is only for reading.

        Args:
            name: Of the file.
            known: What `list` or `stat` has returned for it. An object store then need not be asked for a copy that is
                there already. A disk ignores it.

        Raises:
            FileNotFoundError: There is no such file.
            UserError: An object is no longer the known one.
        """

    def stat(self, name: str) -> Stat | None:
        """Return size, time and version of a file; None if it does not exist."""

    def list(self, pattern: str) -> dict[str, Stat]:
        """Return `stat` of the files that match a pattern of `Path.glob`, such as `*/run.json`, sorted by name."""

    def rename(self, name: str, to: str) -> None:
        """Rename a file, in place of an earlier one. An object store copies it, and removes it afterwards."""

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    def sweep(self) -> None:
        """Remove what killed processes left in the folder and its subfolders."""

    def directory(self, name: str = "") -> AbstractContextManager[Path]:
        """Yield a subfolder, or the folder itself, on a disk, for a library that writes several files into it.

        An object store gets its new and changed files when the block ends, also after an error.
        """

    def locked(self, name: str = "") -> AbstractContextManager[None]:
        """Hold the lock of a file or subfolder, or of the folder itself, while the block runs: see `locks.locked`."""

    def folder(self, name: str) -> "Folder":
        """Return a subfolder. It need not exist."""

    def address(self, name: str) -> str:
        """Return where a file is, for messages: its path or its address."""

    def __str__(self) -> str:
        """Return the path or the address, as the user writes it."""
