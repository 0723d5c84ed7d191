"""Predicted masks: shards of rows, images, and the submission, a gzip csv file."""

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

CREATE_AGAIN = "Create the submission again, with the same options: kedro run --pipelines inference"
"""What to do about a damaged or wrong submission, for error messages."""


@dataclass(frozen=True)
class PredictionShards:
    """Predicted rows of one source, in numbered files. Each key has its own subfolder.

    The name of a shard is `<key>/<number>-<digest>.csv`, with a digest of its content. A restarted run uses it to find
    the intact shards, and predicts only the others.
    """

    folder: Path

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Lock the shards of a key while the block runs. Wait while another process holds the lock."""
        with locked(self.folder / key):
            remove_partial_files(self.folder / key)
            yield

    def write(self, key: str, number: int, rows: Sequence[Row]) -> str:
        """Write one shard atomically, and return its name for the manifest."""
        text = io.StringIO(newline="")
        _write_rows(text, rows)
        content = text.getvalue().encode()
        name = f"{key}/{number:05d}-{_digest(content)}.csv"
        with atomic_path(self.folder / name) as part:
            part.write_bytes(content)
        return name

    def find(self, key: str) -> dict[int, str]:
        """Return the names of the intact shards of a key, by number. Damaged ones are logged."""
        names = {}
        for path in sorted((self.folder / key).glob("*-*.csv")):
            number, _, digest = path.stem.partition("-")
            if _digest(path.read_bytes()) == digest:
                names[int(number)] = f"{key}/{path.name}"
            else:
                logger.warning("%s is damaged. Its images are predicted again.", path)
        return names

    def read(self, names: Sequence[str]) -> "ShardRows":
        """Return the rows of the named shards. They are read one shard at a time, when iterated."""
        return ShardRows([self.folder / name for name in names])


@dataclass(frozen=True)
class ShardRows:
    """The rows of shards, in order.

    Attributes:
        paths: paths of the shards.
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
        """Yield the bytes of each shard without its header: complete csv rows.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for path in self.paths:
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise UserError(f"{path} is missing. {CREATE_AGAIN}") from error
            if not path.stem.endswith(f"-{_digest(content)}"):
                raise UserError(f"{path} is damaged. {CREATE_AGAIN}")
            yield content[len(_HEADER) :]


Kind = Literal["masks", "cutouts", "overlays"]


@dataclass(frozen=True)
class PredictedImages:
    """Images of predictions: `masks/NAME.png`, `cutouts/NAME.png` and `overlays/NAME.jpg`.

    Attributes:
        folder: parent folder of the three kinds.
    """

    folder: Path

    def path(self, kind: Kind, image_id: str) -> Path:
        """Return the path of an image."""
        return self.folder / kind / f"{image_id}{'.jpg' if kind == 'overlays' else '.png'}"

    def write(self, kind: Kind, image_id: str, image: np.ndarray) -> None:
        """Write an image atomically: (H, W) bool, (H, W, 3) uint8 RGB or (H, W, 4) uint8 RGBA."""
        path = self.path(kind, image_id)
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        levels = (
            cv2.cvtColor(image, order[image.shape[2]]) if image.ndim == 3 else image.astype(np.uint8) * 255
        )
        _, content = cv2.imencode(path.suffix, levels)
        with atomic_path(path) as part:
            part.write_bytes(content.tobytes())

    def has(self, kinds: Iterable[Kind], image_ids: Iterable[str]) -> bool:
        """Return whether the images of all these kinds and ids exist."""
        return all(self.path(kind, image_id).is_file() for image_id in image_ids for kind in kinds)


def write_submission(path: Path, rows: Iterable[Row]) -> int:
    """Write `img,rle_mask` rows atomically as a gzip csv file with a single member.

    The same rows give the same bytes with the same gzip library: the gzip header holds no time and no name. On run
    lengths, level 1 takes a tenth of the time of level 9, and the file is a few percent larger. ISA-L (`pip install
    isal`) takes a third of that time.

    Args:
        path: path of the file.
        rows: (image id, rle) pairs. `ShardRows` are copied without parsing, in a third of the time.

    Returns:
        The number of rows.
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
    """A submission. Each iteration reads the rows from the file.

    Attributes:
        path: path of the gzip csv file.
    """

    path: Path

    def __iter__(self) -> Iterator[Row]:
        """Yield the image id (without `.jpg`) and the mask of every row.

        Raises:
            UserError: the file is not gzip, or is cut short or damaged. See also `read_masks`.
        """
        try:
            with gzip.open(self.path, "rt", newline="") as file:
                yield from read_masks(file, self.path)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{self.path} is damaged or not gzip ({error}). {CREATE_AGAIN}") from error
        except UserError as error:
            raise UserError(f"{error} {CREATE_AGAIN}") from error

    def sha256(self) -> str:
        """Return the SHA-256 of the file, 64 hex digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def size(self) -> int:
        """Return the size of the file in bytes."""
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
