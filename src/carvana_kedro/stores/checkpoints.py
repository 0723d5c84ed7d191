"""Checkpoints: dictionaries of tensors and plain values, one checked file each."""

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
from carvana_kedro.stores.locks import locked

logger = logging.getLogger(__name__)


class DamagedCheckpointError(UserError):
    """A checkpoint does not match its checksum, or has none."""


_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all.

    The file is what `torch.save` writes, a zip archive, and `torch.load` reads it. The archive's comment, which torch
    leaves empty, holds the SHA-256 of the file without it.

    Raises:
        UserError: the file cannot be written; what was there before stays.
    """
    try:
        with atomic_path(path) as part, part.open("wb") as file:
            digesting = _Digesting(file)
            try:
                torch.save(dict(content), cast(IO[bytes], digesting))
            except RuntimeError:
                if digesting.error:
                    raise digesting.error from None
                raise
            file.seek(-2, os.SEEK_END)  # the archive ends with the length of its comment
            file.write(_SEAL_SIZE.to_bytes(2, "little") + _SEAL + digesting.digest.hexdigest().encode())
    except OSError as error:
        raise UserError(
            f"The checkpoint {path} cannot be written: {error.strerror or error}. Those before it are whole: when "
            "there is room, the same command goes on from them."
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, onto the CPU. No code from the file is run.

    Raises:
        DamagedCheckpointError: the file is not what was written.
        UserError: the file is missing, cannot be read, or holds more than tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            _check_seal(path, file)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}.") from error
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # torch.load raises almost anything
        raise UserError(f"{path} is not a checkpoint of ours: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of ours: it holds a {type(content).__name__}.")
    return content


class _Digesting:
    """A file for `torch.save` that computes the digest of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None  # torch tells nothing of it but that there was one
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
        raise DamagedCheckpointError(f"{path} is cut short, or is not a checkpoint of ours.")
    file.seek(0)
    digest = hashlib.sha256()
    while body > 0 and (chunk := file.read(min(body, 1 << 20))):
        digest.update(chunk)
        body -= len(chunk)
    digest.update(b"\0\0")  # the comment's length, when there was none
    if digest.hexdigest().encode() != seal[-64:]:
        raise DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum.")


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one recipe: a folder a run, named by the run's id."""

    folder: Path

    def run(self, run_id: str, *, keep: int = 2) -> "RunCheckpoints":
        """Return the checkpoints of one run, of each series the newest `keep`."""
        return RunCheckpoints(self.folder / run_id, keep)

    def runs(self) -> Iterator["RunCheckpoints"]:
        """Yield the runs there are, the one begun last first."""
        folders = [path.parent for path in self.folder.glob(f"*/{RunCheckpoints.FACTS}")]
        for folder in sorted(folders, key=lambda run: run.joinpath(RunCheckpoints.FACTS).stat().st_mtime)[
            ::-1
        ]:
            yield RunCheckpoints(folder)


@dataclass(frozen=True)
class RunCheckpoints:
    """Series of checkpoints of one run, `<series>-<step>.pt`, and `run.json`, the facts that make it this run.

    Attributes:
        folder: of this run alone.
        keep: how many of each series stay, so that there is one to fall back on.
    """

    FACTS = "run.json"

    folder: Path
    keep: int = 2

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away from this run while the block runs; wait while one of them is at it."""
        with locked(self.folder):
            remove_partial_files(self.folder)
            yield

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `begin` was told, or None."""
        path = self.folder / self.FACTS
        return json.loads(path.read_text()) if path.is_file() else None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write down what makes this run what it is: plain values."""
        with atomic_path(self.folder / self.FACTS) as part:
            part.write_text(json.dumps(facts, indent=2) + "\n")

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        """Write `<series>-<step>.pt`, and remove the oldest of the series."""
        save_checkpoint(self.folder / f"{series}-{step:09d}.pt", content)
        for path in self._series(series)[self.keep :]:
            path.unlink()

    def newest(self, series: str) -> dict[str, Any] | None:
        """Read the newest whole checkpoint of a series; None if there is none.

        A damaged one is named in the log and renamed to `<series>-<step>.damaged`.

        Raises:
            UserError: it cannot be read just now.
        """
        paths = self._series(series)
        for path in paths:
            try:
                return load_checkpoint(path)
            except DamagedCheckpointError as error:
                kept = path.rename(path.with_suffix(".damaged"))
                then = "There is none before it." if path == paths[-1] else "The one before it is used."
                logger.warning("%s It is now %s. %s", error, kept.name, then)
        return None

    def put_aside(self, series: str, after: int) -> None:
        """Rename a series' checkpoints of later steps than `after`, which are about to be done again."""
        for path in self._series(series):
            if int(path.stem.rpartition("-")[2]) > after:
                path.rename(path.with_suffix(".superseded"))

    def _series(self, series: str) -> list[Path]:
        return sorted(self.folder.glob(f"{series}-*.pt"), reverse=True)
