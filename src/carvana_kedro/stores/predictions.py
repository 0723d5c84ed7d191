"""Predicted masks: shards of rows, images, and the submission, a gzip csv file."""

import csv
import gzip
import hashlib
import io
import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from carvana_kedro.errors import UserError
from carvana_kedro.stores.faults import explain, reading
from carvana_kedro.stores.folders import Folder, Stat
from carvana_kedro.stores.images.encoding import encode
from carvana_kedro.stores.processes import map_in_threads
from carvana_kedro.stores.tables import COLUMNS, Row, read_masks

try:
    from isal.igzip import IGzipFile as _GzipFile
    from isal.igzip_lib import IsalError as _Damage
except ImportError:
    from gzip import GzipFile as _GzipFile  # type: ignore[assignment]

    _Damage = zlib.error  # type: ignore[assignment]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DAMAGED: tuple[Any, ...] = (gzip.BadGzipFile, EOFError, zlib.error, _Damage)  # `Any`: isal's stubs are wrong
_HEADER = f"{','.join(COLUMNS)}\n"

_READ_AHEAD = 1 << 26  # bytes of shards in memory

CREATE_AGAIN = "Create the submission again, with the same options: kedro run --pipelines inference"
"""What to do about a damaged or wrong submission, for error messages."""


class Seal(NamedTuple):
    """What tells whether a written file is unchanged.

    Attributes:
        digest: of its content.
        state: the version of the file: see `Stat`. While it is the same, the file need not be read.
    """

    digest: str
    state: str

    def fits(self, folder: Folder, name: str, found: Stat | None) -> bool:
        """Return whether a file, of which the folder knows this, has this content."""
        if found is None or found.version == self.state:
            return found is not None
        try:
            return _digest(folder.read(name)) == self.digest
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

    folder: Folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the shards, and the images that belong to them, while the block runs.

        Wait while another process holds the lock.
        """
        with self.folder.locked():
            self.folder.sweep()
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
        """Write one shard atomically. The arguments are those of `Shard`.

        An earlier one of this number with other rows stays until `keep_only`.
        """
        text = io.StringIO(newline="")
        _write_rows(text, rows)
        content = text.getvalue().encode()
        shard = Shard(
            f"{key}/{number:05d}-{_digest(content)}.csv", images or {}, problems or {}, doubts or {}
        )
        # The rows come last: with them, the shard is there.
        self.folder.put(_description(shard.name), json.dumps(asdict(shard)).encode())
        self.folder.put(shard.name, content)
        return shard

    def keep_only(self, key: str, shards: Mapping[int, Shard]) -> None:
        """Remove all other files of the numbers of these shards: earlier ones, and those of killed processes."""
        numbers = {f"{number:05d}" for number in shards}
        kept = {name for shard in shards.values() for name in (shard.name, _description(shard.name))}
        for name in self.folder.list(f"{key}/*-*"):  # in order: rows come before their description
            if name not in kept and PurePosixPath(name).name.partition("-")[0] in numbers:
                self.folder.remove(name)

    def remove(self, key: str, shards: Iterable[Shard] | None = None) -> None:
        """Remove shards of a key; None: all of them."""
        names = self.folder.list(f"{key}/*.csv") if shards is None else [shard.name for shard in shards]
        for name in names:
            self.folder.remove(name)  # first: without its rows, a shard is not there
            self.folder.remove(_description(name))

    def find(self, key: str) -> dict[int, Shard]:
        """Return the intact shards of a key, by number. Others are logged: those that are damaged or have problems.

        Of two with one number, which a killed run may have left, it is the later one, whose images are there.
        """
        shards = {}
        listed = self.folder.list(f"{key}/*-*.csv")
        names = sorted(listed, key=lambda name: listed[name].modified)
        for name, found in zip(names, _in_threads(self.folder, self._inspect, names, listed), strict=True):
            if found is None:
                continue
            shard, is_intact = found
            if shard is None or not is_intact:
                logger.warning("%s is damaged. Its images are predicted again.", self.folder.address(name))
            elif shard.problems:
                logger.info(
                    "%s has images that could not be read. It is predicted again.", self.folder.address(name)
                )
            else:
                shards[int(PurePosixPath(name).name.partition("-")[0])] = shard
        return shards

    def images(self, but: str | None = None) -> dict[str, list[Seal]]:
        """Return the seals of all images that shards of any key, but one, describe, by their names."""
        seals: dict[str, list[Seal]] = {}
        names = [name for name in self.folder.list("*/*-*.csv") if name.partition("/")[0] != but]
        for shard in self._descriptions(names):
            for name, seal in shard.images.items() if shard else ():
                seals.setdefault(name, []).append(seal)
        return seals

    def doubts(self, names: Sequence[str]) -> dict[str, float]:
        """Return the doubts of all images of the named shards, by image id, as far as they are known."""
        shards = self._descriptions(names)
        return {image: doubt for shard in shards if shard for image, doubt in shard.doubts.items()}

    def read(self, names: Sequence[str]) -> "ShardRows":
        """Return the rows of the named shards. They are read one shard at a time, when iterated."""
        return ShardRows(self.folder, list(names))

    def _inspect(self, name: str) -> tuple[Shard | None, bool] | None:
        """Return the description of a shard, and whether its rows are intact; None: it has just been replaced."""
        shard = self._describe(name)
        with reading(self.folder.address(name)):
            try:
                content = self.folder.read(name)
            except FileNotFoundError:  # another process did
                return None
        return shard, _is_intact(name, content)

    def _descriptions(self, names: Iterable[str]) -> Iterator[Shard | None]:
        """Yield the descriptions of shards, in order."""
        if self.folder.threads is None:  # they are parsed more slowly in threads than read from a disk
            return map(self._describe, names)
        return _in_threads(self.folder, self._describe, names, {})

    def _describe(self, name: str) -> Shard | None:
        """Return the description of a shard by the name of its rows, or None if there is none or it is damaged."""
        try:
            content = json.loads(self.folder.read(_description(name)))
            return Shard(
                name,
                {image: Seal(*seal) for image, seal in content["images"].items()},
                dict(content["problems"]),
                dict(content.get("doubts", {})),  # missing in files of earlier versions
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True)
class ShardRows:
    """The rows of shards, in order.

    Attributes:
        folder: of all shards.
        names: names of the shards.
    """

    folder: Folder
    names: Sequence[str]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for name, content in zip(self.names, self.contents(), strict=True):
            text = io.StringIO(f"{_HEADER}{content.decode()}", newline="")
            yield from read_masks(text, self.folder.address(name))

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes of each shard without its header: complete csv rows.

        Raises:
            UserError: a shard is missing or damaged.
        """
        # The next shards are read and checked in threads while the caller uses this one.
        return _in_threads(self.folder, self._content, self.names, _listed(self.folder, self.names))

    def sha256(self) -> str:
        """Return the SHA-256 of the rows as `write_submission` writes them, before compression, 64 hex digits."""
        digest = hashlib.sha256(_HEADER.encode())
        for content in self.contents():
            digest.update(content)
        return digest.hexdigest()

    def _content(self, name: str) -> bytes:
        """Return the bytes of a shard without its header.

        Raises:
            UserError: it is missing or damaged.
        """
        address = self.folder.address(name)
        with reading(address):
            try:
                content = self.folder.read(name)
            except FileNotFoundError as error:
                raise UserError(f"{address} is missing. {CREATE_AGAIN}") from error
        if not _is_intact(name, content):
            raise UserError(f"{address} is damaged. {CREATE_AGAIN}")
        return content[len(_HEADER) :]


Kind = Literal["masks", "cutouts", "overlays"]
KINDS: tuple[Kind, ...] = ("masks", "cutouts", "overlays")


@dataclass(frozen=True)
class PredictedImages:
    """Images of predictions: `masks/NAME.png`, `cutouts/NAME.png` and `overlays/NAME.jpg`.

    Attributes:
        folder: parent folder of the three kinds.
    """

    folder: Folder

    def name(self, kind: Kind, image_id: str) -> str:
        """Return the path of an image relative to the folder."""
        return f"{kind}/{image_id}{'.jpg' if kind == 'overlays' else '.png'}"

    def write(self, kind: Kind, image_id: str, image: np.ndarray) -> Seal:
        """Write an image atomically: (H, W) bool, (H, W, 3) uint8 RGB or (H, W, 4) uint8 RGBA. Return its seal."""
        name = self.name(kind, image_id)
        content = encode(image, PurePosixPath(name).suffix)
        return Seal(_digest(content), self.folder.put(name, content))

    def list(self, kinds: Iterable[Kind] = KINDS) -> dict[str, Stat]:
        """Return what the folder knows of the images of some kinds, and of other files among them, by name."""
        return {name: stat for kind in kinds for name, stat in self.folder.list(f"{kind}/**/*").items()}

    def are_intact(self, names: Iterable[str], seals: Mapping[str, Seal], found: Mapping[str, Stat]) -> bool:
        """Return whether images of these names exist, and their contents are those that the seals describe.

        Args:
            names: names of the images.
            seals: their seals.
            found: what `list` has returned.
        """
        return all(name in seals and seals[name].fits(self.folder, name, found.get(name)) for name in names)

    def unchanged(self, seals: Mapping[str, Sequence[Seal]], found: Mapping[str, Stat]) -> set[str]:
        """Return the names of those images found whose contents are those that one of their seals describes."""
        return {
            name
            for name in seals.keys() & found.keys()
            if any(seal.fits(self.folder, name, found[name]) for seal in seals[name])
        }

    def remove(self, seals: Mapping[str, Seal]) -> None:
        """Remove images, unless they have changed since they were written."""
        for name, seal in seals.items():
            if seal.fits(self.folder, name, self.folder.stat(name)):
                self.folder.remove(name)

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
        for kind in KINDS:
            self.folder.folder(kind).sweep()
        others = {name: stat for name, stat in self.list().items() if name not in kept}
        ours = self.unchanged(shards.images(), others) if others else set()
        for name in ours:
            self.folder.remove(name)
        if removed := sum(name not in expected for name in ours):
            logger.warning("Removed %d images of earlier predictions from %s", removed, self.folder)
        if unknown := [name for name in others if name not in ours and name not in expected]:
            logger.warning(
                "%d files in %s do not belong to this prediction, such as %s. They were not written by this project or "
                "were changed later, so they stay. Move them elsewhere, or remove them.",
                len(unknown), self.folder, unknown[0],
            )  # fmt: skip


def write_submission(folder: Folder, name: str, rows: Iterable[Row]) -> int:
    """Write `img,rle_mask` rows atomically as a gzip csv file with a single member.

    The same rows give the same bytes with the same gzip library: the gzip header holds no time and no name. On run
    lengths, level 1 takes a tenth of the time of level 9, and the file is a few percent larger. ISA-L (`pip install
    isal`) takes a third of that time.

    Args:
        folder: folder of the file.
        name: its name.
        rows: (image id, rle) pairs. `ShardRows` are copied without parsing, in a third of the time.

    Returns:
        The number of rows.
    """
    with (
        folder.write(name) as part,
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
        folder: its folder.
        name: its name in the folder.
    """

    folder: Folder
    name: str

    def __iter__(self) -> Iterator[Row]:
        """Yield the image id (without `.jpg`) and the mask of every row.

        Raises:
            UserError: the file is not gzip, or is cut short or damaged. See also `read_masks`.
        """
        try:
            with io.TextIOWrapper(_GzipFile(self.local()), newline="") as file:
                yield from read_masks(file, str(self))
        except (*_DAMAGED, UnicodeDecodeError) as error:
            raise UserError(f"{self} is damaged or not gzip ({error}). {CREATE_AGAIN}") from error
        except OSError as error:
            raise UserError(f"{self} cannot be read: {explain(error) or error}") from error
        except UserError as error:
            raise UserError(f"{error} {CREATE_AGAIN}") from error

    def sha256(self) -> str:
        """Return the SHA-256 of the file, 64 hex digits."""
        with reading(str(self)), self.local().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rows_sha256(self) -> str:
        """Return the SHA-256 of the decompressed file, 64 hex digits: see `ShardRows.sha256`.

        Raises:
            UserError: the file is not gzip, or is cut short or damaged.
        """
        try:
            with _GzipFile(self.local()) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except _DAMAGED as error:
            raise UserError(f"{self} is damaged or not gzip ({error}). {CREATE_AGAIN}") from error

    def size(self) -> int:
        """Return the size of the file in bytes."""
        with reading(str(self)):
            return self.local().stat().st_size

    def local(self) -> Path:
        """Return the path of the file on a disk: see `Folder.local`."""
        return self.folder.local(self.name)

    def __str__(self) -> str:
        """Return the path of the file, or its address."""
        return self.folder.address(self.name)


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


def _in_threads(
    folder: Folder, function: Callable[[str], T], names: Iterable[str], found: Mapping[str, Stat]
) -> Iterator[T]:
    """Yield the result of a function for every shard, in order. It reads the shard, in as many threads as pay.

    Args:
        folder: of the shards.
        function: called with the name of a shard.
        names: names of the shards.
        found: what the folder has listed, for the sizes. They limit what is in memory at once.
    """

    def size(name: str) -> int:
        return found[name].size if name in found else 0

    return map_in_threads(function, names, size=size, limit=_READ_AHEAD, threads=folder.threads)


def _listed(folder: Folder, names: Iterable[str]) -> dict[str, Stat]:
    """Return what the folder knows of the shards beside these, themselves included: one list, not a question each."""
    keys = sorted({name.partition("/")[0] for name in names})
    return {name: stat for key in keys for name, stat in folder.list(f"{key}/*.csv").items()}


def _is_intact(name: str, content: bytes) -> bool:
    """Return whether a shard has the content that its name describes."""
    return PurePosixPath(name).stem.endswith(f"-{_digest(content)}")


def _description(name: str) -> str:
    """Return the name of the file that describes a shard."""
    return f"{name.removesuffix('.csv')}.json"
