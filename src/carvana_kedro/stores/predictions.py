"""Predicted masks: shards of rows, images, and the submission, a gzip csv file."""

import csv
import gzip
import hashlib
import io
import json
import logging
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path, remove_partial_files
from carvana_kedro.stores.digests import state_of
from carvana_kedro.stores.faults import explain, reading
from carvana_kedro.stores.images.encoding import encode
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.processes import map_in_threads
from carvana_kedro.stores.tables import COLUMNS, Row, read_masks

try:
    from isal.igzip import IGzipFile as _GzipFile
    from isal.igzip_lib import IsalError as _Damage
except ImportError:
    from gzip import GzipFile as _GzipFile  # type: ignore[assignment]

    _Damage = zlib.error  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_DAMAGED: tuple[Any, ...] = (gzip.BadGzipFile, EOFError, zlib.error, _Damage)  # `Any`: isal's stubs are wrong
_HEADER = f"{','.join(COLUMNS)}\n"

_READ_AHEAD = 1 << 26  # bytes of shards in memory

CREATE_AGAIN = "Create the submission again, with the same options: kedro run --pipelines inference"
"""What to do about a damaged or wrong submission, for error messages."""


class Seal(NamedTuple):
    """What tells whether a written file is unchanged.

    Attributes:
        digest: of its content.
        state: see `state_of`. While it is the same, the file need not be read.
    """

    digest: str
    state: str

    @classmethod
    def of(cls, path: Path, content: bytes) -> "Seal":
        """Return the seal of a file that has just been written."""
        return cls(_digest(content), state_of(path.stat()))

    def fits(self, path: Path) -> bool:
        """Return whether a file has this content."""
        try:
            return state_of(path.stat()) == self.state or _digest(path.read_bytes()) == self.digest
        except OSError:
            return False


@dataclass(frozen=True)
class Shard:
    """The rows of some images, and what was written with them.

    Attributes:
        name: of the file of rows, for the manifest.
        images: seals of the images that belong to the rows, by their names: see `PredictedImages.name`.
        problems: why masks are empty, by image id: images that could not be read. The next run tries them again.
        doubts: how unsure the network is of its masks, by image id.
    """

    name: str
    images: Mapping[str, Seal] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictionShards:
    """Predicted rows of one source, in numbered files. Each key has its own subfolder.

    The name of a shard is `<key>/<number>-<digest>.csv`, with a digest of its content. A restarted run uses it to find
    the intact shards, and predicts only the others. The json file of the same name describes the shard: see `Shard`.
    """

    folder: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the shards, and the images that belong to them, while the block runs.

        Wait while another process holds the lock.
        """
        with locked(self.folder):
            _sweep(self.folder)
            yield

    def write(
        self,
        key: str,
        number: int,
        rows: Sequence[Row],
        images: Mapping[str, Seal] | None = None,
        problems: Mapping[str, str] | None = None,
        doubts: Mapping[str, float] | None = None,
    ) -> Shard:
        """Write one shard atomically in place of an earlier one of this number. The arguments are those of `Shard`."""
        text = io.StringIO(newline="")
        _write_rows(text, rows)
        content = text.getvalue().encode()
        shard = Shard(
            f"{key}/{number:05d}-{_digest(content)}.csv", images or {}, problems or {}, doubts or {}
        )
        path = self.folder / shard.name
        # The rows come last: with them, the shard is there.
        with atomic_path(path.with_suffix(".json")) as part:
            part.write_text(json.dumps(asdict(shard)))
        with atomic_path(path) as part:
            part.write_bytes(content)
        for earlier in path.parent.glob(f"{number:05d}-*"):
            if earlier.stem != path.stem:
                earlier.unlink(missing_ok=True)  # another process may predict the same shard
        return shard

    def remove(self, key: str, shards: Iterable[Shard] | None = None) -> None:
        """Remove shards of a key; None: all of them."""
        if shards is None:
            shutil.rmtree(self.folder / key)
            return
        for shard in shards:
            path = self.folder / shard.name
            path.unlink(missing_ok=True)  # first: without its rows, a shard is not there
            path.with_suffix(".json").unlink(missing_ok=True)

    def find(self, key: str) -> dict[int, Shard]:
        """Return the intact shards of a key, by number. Others are logged: those that are damaged or have problems."""
        shards = {}
        for path in sorted((self.folder / key).glob("*-*.csv")):
            number, _, digest = path.stem.partition("-")
            shard = _read_shard(path)
            with reading(path):
                try:
                    content = path.read_bytes()
                except FileNotFoundError:  # another process has just replaced it
                    continue
            if shard is None or _digest(content) != digest:
                logger.warning("%s is damaged. Its images are predicted again.", path)
            elif shard.problems:
                logger.info("%s has images that could not be read. It is predicted again.", path)
            else:
                shards[int(number)] = shard
        return shards

    def images(self, but: str | None = None) -> dict[str, list[Seal]]:
        """Return the seals of all images that shards of any key, but one, describe, by their names."""
        seals: dict[str, list[Seal]] = {}
        for path in self.folder.glob("*/*-*.csv"):
            shard = _read_shard(path) if path.parent.name != but else None
            for name, seal in shard.images.items() if shard else ():
                seals.setdefault(name, []).append(seal)
        return seals

    def doubts(self, names: Sequence[str]) -> dict[str, float]:
        """Return the doubts of all images of the named shards, by image id, as far as they are known."""
        shards = (_read_shard(self.folder / name) for name in names)
        return {image: doubt for shard in shards if shard for image, doubt in shard.doubts.items()}

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
        # The next shards are read and checked in threads while the caller uses this one.
        return map_in_threads(_content, self.paths, size=_file_size, limit=_READ_AHEAD)

    def sha256(self) -> str:
        """Return the SHA-256 of the rows as `write_submission` writes them, before compression, 64 hex digits."""
        digest = hashlib.sha256(_HEADER.encode())
        for content in self.contents():
            digest.update(content)
        return digest.hexdigest()


Kind = Literal["masks", "cutouts", "overlays"]
KINDS: tuple[Kind, ...] = ("masks", "cutouts", "overlays")


@dataclass(frozen=True)
class PredictedImages:
    """Images of predictions: `masks/NAME.png`, `cutouts/NAME.png` and `overlays/NAME.jpg`.

    Attributes:
        folder: parent folder of the three kinds.
    """

    folder: Path

    def name(self, kind: Kind, image_id: str) -> str:
        """Return the path of an image relative to the folder."""
        return f"{kind}/{image_id}{'.jpg' if kind == 'overlays' else '.png'}"

    def write(self, kind: Kind, image_id: str, image: np.ndarray) -> Seal:
        """Write an image atomically: (H, W) bool, (H, W, 3) uint8 RGB or (H, W, 4) uint8 RGBA. Return its seal."""
        path = self.folder / self.name(kind, image_id)
        content = encode(image, path.suffix)
        with atomic_path(path) as part:
            part.write_bytes(content)
        return Seal.of(path, content)

    def are_intact(self, names: Iterable[str], seals: Mapping[str, Seal]) -> bool:
        """Return whether images of these names exist, and their contents are those that the seals describe."""
        return all(name in seals and seals[name].fits(self.folder / name) for name in names)

    def remove(self, seals: Mapping[str, Seal]) -> None:
        """Remove images, unless they have changed since they were written."""
        for name, seal in seals.items():
            if seal.fits(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)

    def remove_others(
        self, kept: Collection[str], expected: Collection[str], shards: PredictionShards
    ) -> None:
        """Remove images that belong to other predictions. Call it only while the shards are locked.

        Only images that shards describe are removed, and only if they are unchanged. Other files stay; a warning names
        them.

        Args:
            kept: names of the images of this prediction that exist.
            expected: names of all images of this prediction.
            shards: the shards of this prediction and of earlier ones.
        """
        _sweep(*(self.folder / kind for kind in KINDS))
        paths = [path for kind in KINDS for path in sorted((self.folder / kind).rglob("*")) if path.is_file()]
        others = {
            name: path for path in paths if (name := path.relative_to(self.folder).as_posix()) not in kept
        }
        seals = shards.images() if others else {}
        ours = [name for name, path in others.items() if any(seal.fits(path) for seal in seals.get(name, ()))]
        for name in ours:
            others.pop(name).unlink()
        if removed := sum(name not in expected for name in ours):
            logger.warning("Removed %d images of earlier predictions from %s", removed, self.folder)
        if unknown := [name for name in others if name not in expected]:
            logger.warning(
                "%d files in %s do not belong to this prediction, such as %s. They were not written by this project or "
                "were changed later, so they stay. Move them elsewhere, or remove them.",
                len(unknown), self.folder, unknown[0],
            )  # fmt: skip


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
            with io.TextIOWrapper(_GzipFile(self.path), newline="") as file:
                yield from read_masks(file, self.path)
        except (*_DAMAGED, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} is damaged or not gzip ({error}). {CREATE_AGAIN}") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {explain(error) or error}") from error
        except UserError as error:
            raise UserError(f"{error} {CREATE_AGAIN}") from error

    def sha256(self) -> str:
        """Return the SHA-256 of the file, 64 hex digits."""
        with reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rows_sha256(self) -> str:
        """Return the SHA-256 of the decompressed file, 64 hex digits: see `ShardRows.sha256`.

        Raises:
            UserError: the file is not gzip, or is cut short or damaged.
        """
        try:
            with _GzipFile(self.path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except _DAMAGED as error:
            raise UserError(f"{self.path} is damaged or not gzip ({error}). {CREATE_AGAIN}") from error

    def size(self) -> int:
        """Return the size of the file in bytes."""
        with reading(self.path):
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


def _content(path: Path) -> bytes:
    """Return the bytes of a shard without its header.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is missing. {CREATE_AGAIN}")
    with reading(path):
        content = path.read_bytes()
    if not path.stem.endswith(f"-{_digest(content)}"):
        raise UserError(f"{path} is damaged. {CREATE_AGAIN}")
    return content[len(_HEADER) :]


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_shard(path: Path) -> Shard | None:
    """Return the description of a shard by the path of its rows, or None if there is none or it is damaged."""
    try:
        content = json.loads(path.with_suffix(".json").read_bytes())
        return Shard(
            f"{path.parent.name}/{path.name}",
            {name: Seal(*seal) for name, seal in content["images"].items()},
            dict(content["problems"]),
            dict(content.get("doubts", {})),  # missing in files of earlier versions
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _sweep(*folders: Path) -> None:
    """Remove what killed processes left in folders and their subfolders."""
    parts = [part for folder in folders for part in folder.rglob("*.part")]
    for parent in {part.parent for part in parts}:
        remove_partial_files(parent)
