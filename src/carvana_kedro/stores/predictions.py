"""Predicted masks on their way into a submission: shards of rows, then one gzip csv."""

import csv
import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.tables import COLUMNS, Row, read_masks

try:
    from isal.igzip import IGzipFile as _GzipFile
except ImportError:
    from gzip import GzipFile as _GzipFile  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_HEADER = f"{','.join(COLUMNS)}\n"

MAKE_ANEW = "Make the submission anew, with the same options: kedro run --pipelines inference"
"""What to do about a submission that something is wrong with."""


@dataclass(frozen=True)
class PredictionShards:
    """Rows of one source's predictions, in numbered files below a folder of their own for every key.

    A shard is called `<key>/<number>-<digest>.csv`, the digest being its content's. So a restart can tell which are
    there and whole, and has only the others to do.
    """

    folder: Path

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Keep other processes away from a key's shards while the block runs; wait while one is at them."""
        with locked(self.folder / key):
            remove_partial_files(self.folder / key)
            yield

    def write(self, key: str, number: int, rows: Sequence[Row]) -> str:
        """Write one shard, whole or not at all; return its name for the manifest."""
        text = io.StringIO(newline="")
        _write_rows(text, rows)
        content = text.getvalue().encode()
        name = f"{key}/{number:05d}-{_digest(content)}.csv"
        with atomic_path(self.folder / name) as part:
            part.write_bytes(content)
        return name

    def find(self, key: str) -> dict[int, str]:
        """Return the names of the shards of a key that are whole, by number. The others are named in the log."""
        names = {}
        for path in sorted((self.folder / key).glob("*-*.csv")):
            number, _, digest = path.stem.partition("-")
            if _digest(path.read_bytes()) == digest:
                names[int(number)] = f"{key}/{path.name}"
            else:
                logger.warning("%s is damaged: its images are predicted again", path)
        return names

    def read(self, names: Sequence[str]) -> "ShardRows":
        """Return the rows of the named shards, which are read when asked, one shard at a time."""
        return ShardRows([self.folder / name for name in names])


@dataclass(frozen=True)
class ShardRows:
    """The rows of shards, in order.

    Attributes:
        paths: of the shards.
    """

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for path, content in zip(self.paths, self.contents(), strict=True):
            yield from read_masks(io.StringIO(f"{_HEADER}{content.decode()}", newline=""), path)

    def contents(self) -> Iterator[bytes]:
        """Yield the text of each shard without its header: whole csv rows.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for path in self.paths:
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise UserError(f"{path} is missing. {MAKE_ANEW}") from error
            if not path.stem.endswith(f"-{_digest(content)}"):
                raise UserError(f"{path} is damaged. {MAKE_ANEW}")
            yield content[len(_HEADER) :]


Kind = Literal["masks", "cutouts", "overlays"]


@dataclass(frozen=True)
class PredictedImages:
    """Pictures of what was predicted: `masks/NAME.png`, `cutouts/NAME.png` and `overlays/NAME.jpg`.

    Attributes:
        folder: of all of them.
    """

    folder: Path

    def path(self, kind: Kind, image_id: str) -> Path:
        """Return where a picture lies."""
        return self.folder / kind / f"{image_id}{'.jpg' if kind == 'overlays' else '.png'}"

    def write(self, kind: Kind, image_id: str, picture: np.ndarray) -> None:
        """Write a picture, (H, W) bool, (H, W, 3) or (H, W, 4) uint8 RGB(A), whole or not at all."""
        path = self.path(kind, image_id)
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        levels = (
            cv2.cvtColor(picture, order[picture.shape[2]])
            if picture.ndim == 3
            else picture.astype(np.uint8) * 255
        )
        _, content = cv2.imencode(path.suffix, levels)
        with atomic_path(path) as part:
            part.write_bytes(content.tobytes())

    def has(self, kinds: Iterable[Kind], image_ids: Iterable[str]) -> bool:
        """Tell whether all of these are there."""
        return all(self.path(kind, image_id).is_file() for image_id in image_ids for kind in kinds)


def write_submission(path: Path, rows: Iterable[Row]) -> int:
    """Write `img,rle_mask` rows as a single-member gzip csv, whole or not at all; return their number.

    The same rows give the same bytes, if the same library packs them: the gzip header carries no time and no name.
    Level 1 is within a few per cent of the size of level 9 on run lengths, at a tenth of the time. ISA-L, if it is
    installed (`pip install isal`), needs a third of that.

    Args:
        path: of the file.
        rows: those of shards are copied as they are, in a third of the time.
    """
    with (
        atomic_path(path) as part,
        part.open("wb") as raw,
        _GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        if isinstance(rows, ShardRows):
            packed.write(_HEADER.encode())
            count = 0
            for content in rows.contents():
                packed.write(content)
                count += content.count(b"\n")
            return count
        with io.TextIOWrapper(packed, newline="") as text:
            return _write_rows(text, rows)


@dataclass(frozen=True)
class SubmissionFile:
    """A finished submission: iterating over it reads the rows from the file, anew each time.

    Attributes:
        path: the gzip csv.
    """

    path: Path

    def __iter__(self) -> Iterator[Row]:
        """Yield the id (without `.jpg`) and the mask of every row.

        Raises:
            UserError: the file is not gzip, is cut short or damaged; see also `read_masks`.
        """
        try:
            with gzip.open(self.path, "rt", newline="") as file:
                yield from read_masks(file, self.path)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{self.path} is damaged or not gzip ({error}). {MAKE_ANEW}") from error
        except UserError as error:
            raise UserError(f"{error} {MAKE_ANEW}") from error

    def sha256(self) -> str:
        """Return the digest of the file's bytes, 64 hex digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def size(self) -> int:
        """Return the file's size in bytes."""
        return self.path.stat().st_size


def _write_rows(file: io.TextIOBase, rows: Iterable[Row]) -> int:
    count = 0
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image_id, runs in rows:
        writer.writerow((f"{image_id}.jpg", runs))
        count += 1
    return count


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
