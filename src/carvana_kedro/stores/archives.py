"""The competition's files as Kaggle hands them out: zip archives, or the folders that were unpacked from them.

An archive is hostile until shown otherwise: its whole table of contents is judged before anything is written.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.images.competition import IMAGE_ID
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import format_size, require_space
from carvana_kedro.stores.tables import Row, read_masks

logger = logging.getLogger(__name__)

# What the zip module raises for files that are cut or flipped.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
# What Finder adds to an archive.
_IGNORED = re.compile(r"__MACOSX/.*|(.*/)?\.DS_Store")
# The flags of ordinary and of strong encryption, and of hidden headers.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
# Those of Kaggle; the zip module unpacks the others without a limit on memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_DISK_BLOCK = 4096


class _Limits(NamedTuple):
    """What a member may be: at most `size` bytes, and above `small` bytes at most `ratio` times its packed size."""

    size: int
    small: int
    ratio: int


_IMAGE_LIMITS = _Limits(size=64 << 20, small=1 << 20, ratio=100)
_TABLE_LIMITS = _Limits(size=4 << 30, small=16 << 20, ratio=200)
# The same for all images together and the archive: photographs hardly shrink.
_TOTAL_SMALL, _TOTAL_RATIO = 64 << 20, 20


class DamagedArchive(UserError):  # noqa: N818 - named for what it says, as UserError is
    """An archive that is cut, flipped or no archive at all: fetching it again may help."""


@dataclass(frozen=True)
class _Judged:
    """An open archive that nothing speaks against; its images by their plain names, in its order."""

    path: Path
    file: BufferedReader
    opened: zipfile.ZipFile
    images: dict[str, zipfile.ZipInfo]

    def contents_hash(self) -> str:
        """Return a short hash of the table of contents."""
        contents = repr([(member.filename, member.file_size, member.CRC) for member in self.images.values()])
        return hashlib.sha256(contents.encode()).hexdigest()[:12]

    def manifest(self, sha256: str | None) -> dict[str, Any]:
        """Return what a finished folder says of itself; `sha256` is computed where it is not known."""
        if sha256 is None:
            # Of the file that is open: another one may have taken its name since.
            self.file.seek(0)
            sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()
        return {
            "archive": self.path.name,
            "bytes": os.fstat(self.file.fileno()).st_size,
            "sha256": sha256,
            "files": {name: member.file_size for name, member in self.images.items()},
        }


def find_folder(source: Path, names: Sequence[str], unpacked: Path) -> Path:
    """Return the folder of images that goes by the first of `names` found in `source`.

    A folder `source/NAME` is used where it lies (so a read-only Kaggle input works); an archive
    `source/NAME.zip` is unpacked below `unpacked` first, once.

    Raises:
        UserError: `source` is missing, or holds none of the names; see also `unpack`.
    """
    if not source.is_dir():
        raise UserError(
            f"The folder {source} does not exist. It should hold {_spelled(names)} "
            "(the competition's archives, or the folders unpacked from them)."
        )
    for name in names:
        folder = source / name
        archive = source / f"{name}.zip"
        # An empty folder may be what somebody's unpacking has left.
        if folder.is_dir() and (not archive.is_file() or any(folder.iterdir())):
            # Kaggle's notebooks mount some archives as train/train/*.jpg.
            return folder / name if (folder / name).is_dir() else folder
        if archive.is_file():
            return unpack(archive, unpacked)
    present = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    raise UserError(f"Neither {_spelled(names)} is in {source}, which holds: {present}.")


def unpack(archive: Path, unpacked: Path, sha256: str | None = None) -> Path:
    """Unpack an archive of images and return the folder that holds them and `manifest.json`.

    The folder's name carries a hash of the archive's table of contents (names, sizes, checksums): another
    archive gets another folder. It is filled as `<folder>.part` and renamed at the end. What an earlier run
    has left there, or lies in a folder that is not finished, is kept where size and checksum are right.

    Args:
        archive: `NAME.zip`, with a folder `NAME/` of images or, for `train_masks.zip`, of masks.
        unpacked: the folder below which the new one appears.
        sha256: of the archive, where it is known; in hexadecimal.

    Raises:
        DamagedArchive: the archive is damaged.
        UserError: it holds anything that does not belong there, or the disk has no room.
    """
    try:
        with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
            judged = _Judged(archive, file, opened, _images(opened, archive))
            target = unpacked / f"{archive.stem}-{judged.contents_hash()}"
            if not _is_finished(target):
                with locked(target):
                    if not _is_finished(target):  # else another process was quicker
                        _finish(target, judged, sha256)
    except _DAMAGED as error:
        raise DamagedArchive(f"{archive} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise UserError(
            f"{archive} cannot be unpacked into {unpacked}: {error}. Is the disk full? Put that right and run "
            "again: what was unpacked so far stays, and the next run goes on from there."
        ) from error
    return target


def find_unpacked(unpacked: Path, name: str) -> Path | None:
    """Return the newest whole folder below `unpacked` that an archive `NAME.zip` was unpacked into; None: no such.

    The archive itself is not needed. The files' sizes are looked at, not what is in them.
    """
    manifests = unpacked.glob(f"{name}-{'[0-9a-f]' * 12}/{_MANIFEST}")
    newest_first = sorted(manifests, key=lambda manifest: manifest.stat().st_mtime_ns, reverse=True)
    return next((manifest.parent for manifest in newest_first if _is_finished(manifest.parent)), None)


def _images(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members that are images, by their plain name, in the archive's order.

    Raises:
        UserError: there is anything else, no image, or something that an honest archive has not.
    """
    suffix = "_mask.gif" if archive.stem == "train_masks" else ".jpg"
    legal = re.compile(f"{re.escape(archive.stem)}/({IMAGE_ID}{re.escape(suffix)})")
    images: dict[str, zipfile.ZipInfo] = {}
    for member in _members(opened, archive):
        match = legal.fullmatch(member.orig_filename)
        if match is None:
            raise _refusal(
                archive,
                member,
                f"only images in the folder {archive.stem}/ belong there, "
                f"by names <12 hex digits>_<01..16>{suffix}",
            )
        if objection := _objection(member, _IMAGE_LIMITS):
            raise _refusal(archive, member, objection)
        if match[1] in images:
            raise _refusal(archive, member, "there are two of that name")
        images[match[1]] = member
    total = sum(member.file_size for member in images.values())
    if total > max(_TOTAL_SMALL, _TOTAL_RATIO * archive.stat().st_size):
        raise UserError(
            f"{archive} would grow to {format_size(total)}, more than {_TOTAL_RATIO} times its size: photographs "
            "do not. Nothing was unpacked. Take it away and fetch it again."
        )
    if not images:
        raise UserError(
            f"{archive} holds no image in a folder {archive.stem}/. Take it away and fetch it again."
        )
    return images


def _members(opened: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    """Yield the members without folders and what Finder adds.

    Raises:
        UserError: the path of one, whatever it is, leads elsewhere.
    """
    for member in opened.infolist():
        name = member.orig_filename  # `filename` ends at a zero byte
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise _refusal(archive, member, "its path leads elsewhere")
        if not member.is_dir() and not _IGNORED.fullmatch(name):
            yield member


def _objection(member: zipfile.ZipInfo, limits: _Limits) -> str:
    """Return what speaks against unpacking a member, its name aside; empty: nothing."""
    size = member.file_size
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "it is not a plain file"
    if member.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if member.compress_type not in _METHODS:
        return f"it is packed by method {member.compress_type}, neither stored nor deflated"
    if size > limits.size:
        return f"it is {format_size(size)} large, and at most {format_size(limits.size)} are allowed"
    if size > limits.small and size > limits.ratio * member.compress_size:
        return f"it would grow to more than {limits.ratio} times its packed size"
    return ""


def _refusal(archive: Path, member: zipfile.ZipInfo, objection: str) -> UserError:
    return UserError(
        f"{archive} holds {member.orig_filename!r}: {objection}. Nothing was unpacked. "
        "Take the archive away and fetch it again."
    )


def _is_finished(folder: Path) -> bool:
    """Tell whether all the files of the folder's manifest are there, in their sizes; more may be there."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        with os.scandir(folder) as entries:
            present = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return sizes.items() <= present.items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no manifest, or not one of ours
        return False


def _finish(target: Path, archive: _Judged, sha256: str | None) -> None:
    """Make the folder `target` whole: fill the part folder beside it and rename that."""
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        # Somebody took files away, or the folder is an early version's, without a manifest: it is almost whole.
        if part.exists():
            shutil.rmtree(part)
        os.replace(target, part)
    part.mkdir(exist_ok=True)
    present = _keep_whole(part, archive.images)
    resumed = f", {len(present)} of them already there" if present else ""
    logger.info("Unpacking %s: %d images%s", archive.path, len(archive.images), resumed)
    _extract(archive, [name for name in archive.images if name not in present], part)
    with atomic_path(part / _MANIFEST) as path:
        path.write_text(json.dumps(archive.manifest(sha256), indent=0), "utf-8")
    if hasattr(os, "sync"):  # not on Windows
        os.sync()  # a power cut must not leave the name without the content
    os.replace(part, target)


def _keep_whole(part: Path, images: dict[str, zipfile.ZipInfo]) -> set[str]:
    """Return the names of the images that lie in `part` bit for bit; everything else there is removed."""
    with os.scandir(part) as scan:
        entries = list(scan)
    whole = set()
    for entry in tqdm(entries, "Checking", unit=" files", leave=False, disable=None):
        if entry.name in images and _is_whole(entry, images[entry.name]):
            whole.add(entry.name)
        elif entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        else:
            Path(entry).unlink()
    return whole


def _is_whole(entry: os.DirEntry[str], member: zipfile.ZipInfo) -> bool:
    """Tell whether a file is the member; the checksum finds what a power cut has left empty as well."""
    if not entry.is_file(follow_symlinks=False) or entry.stat().st_size != member.file_size:
        return False
    checksum = 0
    with Path(entry).open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC


def _extract(archive: _Judged, names: Sequence[str], part: Path) -> None:
    """Write images into `part`, which has none of them.

    Raises:
        UserError: there is no room for them.
    """
    sizes = [archive.images[name].file_size for name in names]
    room = sum(-(-size // _DISK_BLOCK) * _DISK_BLOCK for size in sizes)
    require_space(part.parent, room, f"unpacking {archive.path}")
    # disable=None: no bar where there is no terminal.
    with tqdm(
        desc="Unpacking", total=sum(sizes), unit="B", unit_scale=True, leave=False, disable=None
    ) as bar:
        for name in names:
            _write(archive.opened, archive.images[name], part / name, bar)


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, bar: tqdm) -> None:
    written = 0
    with opened.open(member) as content, path.open("xb") as copy:
        # The zip module compares the checksum at the end.
        while chunk := content.read(_CHUNK):
            copy.write(chunk)
            bar.update(len(chunk))
            written += len(chunk)
    if written != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} has {written} bytes, not {member.file_size}")


def read_table(source: Path, name: str) -> Iterator[Row] | None:
    """Yield the rows of `source/NAME.csv` or `source/NAME.csv.zip`; None when there is neither.

    Raises:
        UserError: see `read_rows`.
    """
    path = find_table(source, name)
    return None if path is None else read_rows(path)


def find_table(source: Path, name: str) -> Path | None:
    """Return `source/NAME.csv`, else `source/NAME.csv.zip`; None when there is neither."""
    candidates = (source / f"{name}.csv", source / f"{name}.csv.zip")
    return next((path for path in candidates if path.is_file()), None)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, `NAME.csv` or `NAME.csv.zip`.

    Raises:
        DamagedArchive: the archive is damaged.
        UserError: the archive does not hold `NAME.csv` alone, or is not to be trusted; see also `read_masks`.
    """
    return _zipped_rows(path) if path.suffix == ".zip" else _plain_rows(path)


def check_table(archive: Path) -> None:
    """Read `NAME.csv.zip` to its end, so that its checksum is compared.

    Raises:
        DamagedArchive: the archive is damaged.
        UserError: see `read_rows`.
    """
    with _opened_table(archive) as file:
        while file.read(_CHUNK):
            pass


def _plain_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from read_masks(file, path)


def _zipped_rows(archive: Path) -> Iterator[Row]:
    with _opened_table(archive) as file:
        yield from read_masks(TextIOWrapper(file, "utf-8-sig", newline=""), archive)


@contextmanager
def _opened_table(archive: Path) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(_table(opened, archive)) as file:
            yield file
    except _DAMAGED as error:
        raise DamagedArchive(f"{archive} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}).") from error


def _table(opened: zipfile.ZipFile, archive: Path) -> zipfile.ZipInfo:
    """Return the one member.

    Raises:
        UserError: there are others, or something is wrong with it.
    """
    members = list(_members(opened, archive))
    for member in members:
        if member.orig_filename != archive.stem:
            raise _refusal(archive, member, f"only {archive.stem} belongs there")
        if objection := _objection(member, _TABLE_LIMITS):
            raise _refusal(archive, member, objection)
    if len(members) != 1:
        raise UserError(
            f"{archive} holds {archive.stem} {len(members)} times instead of once. "
            "Take it away and fetch it again."
        )
    return members[0]


def _spelled(names: Sequence[str]) -> str:
    return " or ".join(f"{name}/ or {name}.zip" for name in names)
