"""Checkpoints: files of tensors and plain values, with a checksum."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from carvana_kedro.errors import UserError
from carvana_kedro.stores.faults import damaged, explain, reading
from carvana_kedro.stores.folders import Folder, open_file

logger = logging.getLogger(__name__)


class DamagedCheckpointError(UserError):
    """The checkpoint does not match its checksum, or has none."""


_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a path: see `write_checkpoint`."""
    write_checkpoint(*open_file(path), content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values from a path: see `read_checkpoint`."""
    return read_checkpoint(*open_file(path))


def write_checkpoint(folder: Folder, name: str, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a file, atomically.

    `torch.save` writes the file, a zip archive, and `torch.load` can read it. The comment of the archive, which torch
    leaves empty, holds the SHA-256 of the file without the comment.

    Raises:
        UserError: the file cannot be written. An existing file stays as it was.
    """
    try:
        with folder.write(name) as part, part.open("wb") as file:
            hashing = _HashingFile(file)
            try:
                torch.save(dict(content), cast(IO[bytes], hashing))
            except RuntimeError:
                if hashing.error:
                    raise hashing.error from None
                raise
            file.seek(-2, os.SEEK_END)  # the archive ends with the length of its comment
            file.write(_SEAL_SIZE.to_bytes(2, "little") + _SEAL + hashing.digest.hexdigest().encode())
    except UserError as error:
        raise UserError(
            f"{error} Earlier checkpoints are intact: run the same command again to resume from them."
        ) from error


def read_checkpoint(folder: Folder, name: str) -> dict[str, Any]:
    """Read a file that `write_checkpoint` wrote, onto the CPU. No code from the file is executed.

    Raises:
        DamagedCheckpointError: the file does not match its checksum.
        UserError: the file is missing, cannot be read, or holds something other than tensors and plain values.
    """
    address = folder.address(name)
    try:
        path = folder.local(name)
        with path.open("rb") as file:
            _check_seal(address, file)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"The checkpoint {address} does not exist.") from error
    except OSError as error:
        raise UserError(f"The checkpoint {address} cannot be read: {explain(error) or error}") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # torch.load raises almost any exception for a malformed file
        raise UserError(f"{address} is not a carvana-kedro checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{address} is not a carvana-kedro checkpoint: it holds a {type(content).__name__}.")
    return content


def load_values(path: Path) -> dict[str, Any]:
    """Read the plain values of a checkpoint. Its tensors and its checksum stay unread, which takes milliseconds.

    Raises:
        UserError: the file cannot be read.
    """
    with reading(path):
        content = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of this project.")
    return content


class _HashingFile:
    """A file for `torch.save` that computes the SHA-256 of the written bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None  # torch hides the cause of a failed write
        self._file = file

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _check_seal(address: str, file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    body = size - _SEAL_SIZE - 2
    file.seek(max(body, 0))
    seal = file.read()
    if body < 0 or seal[: -_SEAL_SIZE + len(_SEAL)] != _SEAL_SIZE.to_bytes(2, "little") + _SEAL:
        raise DamagedCheckpointError(f"{address} is truncated, or is not a carvana-kedro checkpoint.")
    file.seek(0)
    digest = hashlib.sha256()
    while body > 0 and (chunk := file.read(min(body, 1 << 20))):
        digest.update(chunk)
        body -= len(chunk)
    digest.update(b"\0\0")  # the length of the comment while it was empty
    if digest.hexdigest().encode() != seal[-64:]:
        raise DamagedCheckpointError(f"{address} is damaged: its content does not match its checksum.")


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one recipe. Each run has its own subfolder, named after the run's id."""

    folder: Folder

    def run(self, run_id: str, *, keep: int = 2, read_only: bool = False) -> "RunCheckpoints":
        """Return the checkpoints of one run. The newest `keep` of each series stay."""
        return RunCheckpoints(self.folder, run_id, keep, read_only)

    def runs(self) -> Iterator["RunCheckpoints"]:
        """Yield the existing runs, newest first."""
        facts = self.folder.list(f"*/{RunCheckpoints.FACTS}")
        for name in sorted(facts, key=lambda name: facts[name].modified)[::-1]:
            yield RunCheckpoints(self.folder, name.partition("/")[0])


@dataclass(frozen=True)
class RunCheckpoints:
    """The checkpoints of one run: files `<series>-<step>.pt`, and `run.json` with the facts that identify the run.

    Attributes:
        runs: folder of all runs.
        run_id: id of this run, and the name of its folder.
        keep: number of checkpoints of each series that stay. With 2 there is one to fall back on.
        read_only: whether damaged checkpoints stay where they are, for those who do not hold the lock.
    """

    FACTS = "run.json"

    runs: Folder
    run_id: str
    keep: int = 2
    read_only: bool = False

    @property
    def folder(self) -> Folder:
        """The folder of this run only."""
        return self.runs.folder(self.run_id)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run while the block runs. Wait while another process holds the lock."""
        with self.runs.locked(self.run_id):
            self.runs.sweep()  # those of other runs too: they may never be written again
            yield

    @property
    def facts(self) -> dict[str, Any] | None:
        """The facts that `begin` wrote. None, with a warning if the file exists, if they cannot be read."""
        address = self.folder.address(self.FACTS)
        try:
            with reading(address, "It is written again when this run is trained."):
                try:
                    facts = json.loads(self.folder.read(self.FACTS).decode())
                except FileNotFoundError:
                    return None
            if not isinstance(facts, dict):
                raise damaged(address, f"it holds a {type(facts).__name__}, not facts")
        except UserError as error:
            logger.warning("%s", error)
            return None
        return facts

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the facts that identify the run: plain values."""
        self.folder.put(self.FACTS, f"{json.dumps(facts, indent=2)}\n".encode())

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        """Write `<series>-<step>.pt`, and remove old checkpoints of the series."""
        write_checkpoint(self.folder, f"{series}-{step:09d}.pt", content)
        for name in self._series(series)[self.keep :]:
            self.folder.remove(name)

    def newest(self, series: str) -> dict[str, Any] | None:
        """Read the newest intact checkpoint of a series. Return None if there is none.

        A damaged checkpoint is logged and, unless `read_only`, renamed to `<series>-<step>.damaged`.

        Raises:
            UserError: a checkpoint cannot be read. It may be intact.
        """
        names = self._series(series)
        for name in names:
            try:
                return read_checkpoint(self.folder, name)
            except DamagedCheckpointError as error:
                renamed = ""
                if not self.read_only:
                    to = f"{name.removesuffix('.pt')}.damaged"
                    self.folder.rename(name, to)
                    renamed = f" It was renamed to {to}."
                then = (
                    "There is no earlier checkpoint."
                    if name == names[-1]
                    else "The previous checkpoint is used."
                )
                logger.warning("%s%s %s", error, renamed, then)
        return None

    def supersede(self, series: str, after: int) -> None:
        """Rename the checkpoints of a series from steps after `after`, because these steps are about to be repeated."""
        for name in self._series(series):
            stem = name.removesuffix(".pt")
            if int(stem.rpartition("-")[2]) > after:
                self.folder.rename(name, f"{stem}.superseded")

    def _series(self, series: str) -> list[str]:
        """Return the names of the checkpoints of a series, newest first."""
        return sorted(self.folder.list(f"{series}-*.pt"), reverse=True)
