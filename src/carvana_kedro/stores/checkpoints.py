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
from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
from carvana_kedro.stores.faults import damaged, explain, reading
from carvana_kedro.stores.locks import locked

logger = logging.getLogger(__name__)


class DamagedCheckpointError(UserError):
    """The checkpoint does not match its checksum, or has none."""


_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, atomically.

    `torch.save` writes the file, a zip archive, and `torch.load` can read it. The comment of the archive, which torch
    leaves empty, holds the SHA-256 of the file without the comment.

    Raises:
        UserError: the file cannot be written. An existing file stays as it was.
    """
    try:
        with atomic_path(path) as part, part.open("wb") as file:
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


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that `save_checkpoint` wrote, onto the CPU. No code from the file is executed.

    Raises:
        DamagedCheckpointError: the file does not match its checksum.
        UserError: the file is missing, cannot be read, or holds something other than tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            _check_seal(path, file)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"The checkpoint {path} does not exist.") from error
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read: {explain(error) or error}") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # torch.load raises almost any exception for a malformed file
        raise UserError(f"{path} is not a carvana-kedro checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a carvana-kedro checkpoint: it holds a {type(content).__name__}.")
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


def _check_seal(path: Path, file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    body = size - _SEAL_SIZE - 2
    file.seek(max(body, 0))
    seal = file.read()
    if body < 0 or seal[: -_SEAL_SIZE + len(_SEAL)] != _SEAL_SIZE.to_bytes(2, "little") + _SEAL:
        raise DamagedCheckpointError(f"{path} is truncated, or is not a carvana-kedro checkpoint.")
    file.seek(0)
    digest = hashlib.sha256()
    while body > 0 and (chunk := file.read(min(body, 1 << 20))):
        digest.update(chunk)
        body -= len(chunk)
    digest.update(b"\0\0")  # the length of the comment while it was empty
    if digest.hexdigest().encode() != seal[-64:]:
        raise DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum.")


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one recipe. Each run has its own subfolder, named after the run's id."""

    folder: Path

    def run(self, run_id: str, *, keep: int = 2, read_only: bool = False) -> "RunCheckpoints":
        """Return the checkpoints of one run. The newest `keep` of each series stay on the disk."""
        return RunCheckpoints(self.folder / run_id, keep, read_only)

    def runs(self) -> Iterator["RunCheckpoints"]:
        """Yield the existing runs, newest first."""
        facts = self.folder.glob(f"*/{RunCheckpoints.FACTS}")
        for path in sorted(facts, key=lambda path: path.stat().st_mtime)[::-1]:
            yield RunCheckpoints(path.parent)


@dataclass(frozen=True)
class RunCheckpoints:
    """The checkpoints of one run: files `<series>-<step>.pt`, and `run.json` with the facts that identify the run.

    Attributes:
        folder: of this run only.
        keep: number of checkpoints of each series that stay on the disk. With 2 there is one to fall back on.
        read_only: whether damaged checkpoints stay where they are, for those who do not hold the lock.
    """

    FACTS = "run.json"

    folder: Path
    keep: int = 2
    read_only: bool = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run while the block runs. Wait while another process holds the lock."""
        with locked(self.folder):
            for run in self.folder.parent.glob(
                "*/"
            ):  # those of other runs too: they may never be written again
                remove_partial_files(run)
            yield

    @property
    def facts(self) -> dict[str, Any] | None:
        """The facts that `begin` wrote. None, with a warning if the file exists, if they cannot be read."""
        path = self.folder / self.FACTS
        if not path.exists():
            return None
        try:
            with reading(path, "It is written again when this run is trained."):
                facts = json.loads(path.read_text("utf-8"))
            if not isinstance(facts, dict):
                raise damaged(path, f"it holds a {type(facts).__name__}, not facts")
        except UserError as error:
            logger.warning("%s", error)
            return None
        return facts

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the facts that identify the run: plain values."""
        with atomic_path(self.folder / self.FACTS) as part:
            part.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        """Write `<series>-<step>.pt`, and remove old checkpoints of the series."""
        save_checkpoint(self.folder / f"{series}-{step:09d}.pt", content)
        for path in self._series(series)[self.keep :]:
            path.unlink()

    def newest(self, series: str) -> dict[str, Any] | None:
        """Read the newest intact checkpoint of a series. Return None if there is none.

        A damaged checkpoint is logged and, unless `read_only`, renamed to `<series>-<step>.damaged`.

        Raises:
            UserError: a checkpoint cannot be read. It may be intact.
        """
        paths = self._series(series)
        for path in paths:
            try:
                return load_checkpoint(path)
            except DamagedCheckpointError as error:
                renamed = ""
                if not self.read_only:
                    renamed = f" It was renamed to {path.rename(path.with_suffix('.damaged')).name}."
                last = path == paths[-1]
                then = "There is no earlier checkpoint." if last else "The previous checkpoint is used."
                logger.warning("%s%s %s", error, renamed, then)
        return None

    def supersede(self, series: str, after: int) -> None:
        """Rename the checkpoints of a series from steps after `after`, because these steps are about to be repeated."""
        for path in self._series(series):
            if int(path.stem.rpartition("-")[2]) > after:
                path.rename(path.with_suffix(".superseded"))

    def _series(self, series: str) -> list[Path]:
        return sorted(self.folder.glob(f"{series}-*.pt"), reverse=True)
