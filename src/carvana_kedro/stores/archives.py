"""The competition's zip archives, and the folders unpacked from them.

Archives are not trusted: all entries of an archive are checked before anything is written.
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

# Exceptions of the zip module for truncated or corrupted files.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
# Entries that the macOS Finder adds to an archive.
_IGNORED = re.compile(r"__MACOSX/.*|(.*/)?\.DS_Store")
# Flags for encryption, strong encryption and masked headers.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
# The methods that Kaggle uses. For the others, the zip module does not limit memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_DISK_BLOCK = 4096


class _Limits(NamedTuple):
    """Limits of a member: at most `size` bytes and, above `small` bytes, at most `ratio` times its compressed size."""

    size: int
    small: int
    ratio: int


_IMAGE_LIMITS = _Limits(size=64 << 20, small=1 << 20, ratio=100)
_TABLE_LIMITS = _Limits(size=4 << 30, small=16 << 20, ratio=200)
# Limit of all images together against the size of the archive: zip hardly compresses photographs.
_TOTAL_SMALL, _TOTAL_RATIO = 64 << 20, 20


class DamagedArchiveError(UserError):
    """The archive is truncated, corrupted or not an archive. Fetching it again may help."""


@dataclass(frozen=True)
class _CheckedArchive:
    """An open archive that passed all checks, and its images by file name, in the archive's order."""

    path: Path
    file: BufferedReader
    opened: zipfile.ZipFile
    images: dict[str, zipfile.ZipInfo]

    def folder(self, unpacked: Path) -> Path:
        """Return the folder for its images. The name has a hash of the names, sizes and checksums of all images."""
        contents = repr([(member.filename, member.file_size, member.CRC) for member in self.images.values()])
        return unpacked / f"{self.path.stem}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"

    def manifest(self, sha256: str | None) -> dict[str, Any]:
        """Return the manifest of the unpacked folder. `sha256` is computed if it is None."""
        if sha256 is None:
            # Read the open file: its path may belong to another file by now.
            self.file.seek(0)
            sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()
        return {
            "archive": self.path.name,
            "bytes": os.fstat(self.file.fileno()).st_size,
            "sha256": sha256,
            "files": {name: member.file_size for name, member in self.images.items()},
        }


def find_folder(source: Path, names: Sequence[str], unpacked: Path) -> Path:
    """Return the folder of images with the first of `names` that exists in `source`.

    A folder `source/NAME` is used where it is, so that a read-only input folder on Kaggle works. An archive
    `source/NAME.zip` is unpacked below `unpacked`, once.

    Raises:
        UserError: `source` is missing, or holds none of the names. See also `unpack`.
    """
    if not source.is_dir():
        raise UserError(
            f"The folder {source} does not exist. It should hold {_format_names(names)} "
            "(the competition's archives, or the folders unpacked from them)."
        )
    for name in names:
        folder = source / name
        archive = source / f"{name}.zip"
        # An empty folder may be left from an interrupted unpacking by the user.
        if folder.is_dir() and (not archive.is_file() or any(folder.iterdir())):
            # Kaggle notebooks mount some archives as train/train/*.jpg.
            return folder / name if (folder / name).is_dir() else folder
        if archive.is_file():
            return unpack(archive, unpacked)
    present = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    raise UserError(f"{source} should hold {_format_names(names)}, but holds: {present}.")


def unpack(archive: Path, unpacked: Path, sha256: str | None = None) -> Path:
    """Unpack an archive of images, and return the folder with the images and `manifest.json`.

    The folder's name contains a hash of the archive's entries (names, sizes, checksums), so that each archive has its
    own folder. The folder is filled as `<folder>.part` and renamed at the end. Files that an earlier run left in it, or
    that are in an incomplete folder, are kept if their size and checksum are right.

    Args:
        archive: `NAME.zip`, with a folder `NAME/` of images or, for `train_masks.zip`, of masks.
        unpacked: parent of the new folder.
        sha256: SHA-256 of the archive in hexadecimal, if it is known.

    Raises:
        DamagedArchiveError: the archive is damaged.
        UserError: the archive holds other entries than images, or the disk has too little space.
    """
    try:
        with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
            checked = _CheckedArchive(archive, file, opened, _check_images(opened, archive))
            target = checked.folder(unpacked)
            if not _is_complete(target):
                with locked(target):
                    if not _is_complete(target):  # another process may have completed it in the meantime
                        _complete(target, checked, sha256)
    except _DAMAGED as error:
        raise DamagedArchiveError(f"{archive} is damaged ({error}). Download it again.") from error
    except OSError as error:
        raise UserError(
            f"{archive} cannot be unpacked into {unpacked}: {error}. Is the disk full? Fix this and run again. "
            "Files that are already unpacked are kept."
        ) from error
    return target


def find_unpacked(unpacked: Path, name: str) -> Path | None:
    """Return the newest complete folder that `unpack` made of an archive `NAME.zip`, or None.

    The archive is not needed. The names and sizes of the files are compared with the manifest, not their content.
    """
    manifests = unpacked.glob(f"{name}-{'[0-9a-f]' * 12}/{_MANIFEST}")
    newest_first = sorted(manifests, key=lambda manifest: manifest.stat().st_mtime_ns, reverse=True)
    return next((manifest.parent for manifest in newest_first if _is_complete(manifest.parent)), None)


def find_present(source: Path, names: Sequence[str], unpacked: Path) -> Path | None:
    """Return what `find_folder` would return, or None if it would have to unpack an archive first."""
    name = next(
        (name for name in names if (source / name).is_dir() or (source / f"{name}.zip").is_file()), None
    )
    if name is None:
        return None
    archive = source / f"{name}.zip"
    if archive.is_file() and not any((source / name).glob("*")):
        try:
            with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
                folder = _CheckedArchive(archive, file, opened, _check_images(opened, archive)).folder(
                    unpacked
                )
        except (OSError, UserError, *_DAMAGED):
            return None
        return folder if _is_complete(folder) else None
    return find_folder(source, (name,), unpacked)


def _check_images(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members by file name, in the archive's order.

    Raises:
        UserError: there is a member other than an image, no image, or an unsafe member.
    """
    suffix = "_mask.gif" if archive.stem == "train_masks" else ".jpg"
    valid = re.compile(f"{re.escape(archive.stem)}/({IMAGE_ID}{re.escape(suffix)})")
    images: dict[str, zipfile.ZipInfo] = {}
    for member in _members(opened, archive):
        match = valid.fullmatch(member.orig_filename)
        if match is None:
            raise _unsafe(
                archive,
                member,
                f"only images in the folder {archive.stem}/ are allowed, "
                f"with names <12 hex digits>_<01..16>{suffix}",
            )
        if problem := _find_problem(member, _IMAGE_LIMITS):
            raise _unsafe(archive, member, problem)
        if match[1] in images:
            raise _unsafe(archive, member, "the name is a duplicate")
        images[match[1]] = member
    total = sum(member.file_size for member in images.values())
    if total > max(_TOTAL_SMALL, _TOTAL_RATIO * archive.stat().st_size):
        raise UserError(
            f"{archive} would unpack to {format_size(total)}, more than {_TOTAL_RATIO} times its size. Images do not "
            "compress this well. Nothing was unpacked. Remove it and download it again."
        )
    if not images:
        raise UserError(
            f"{archive} contains no image in a folder {archive.stem}/. Remove it and download it again."
        )
    return images


def _members(opened: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    """Yield the members, without folders and entries of the macOS Finder.

    Raises:
        UserError: the path of any entry leads out of the archive's folder.
    """
    for member in opened.infolist():
        name = member.orig_filename  # `filename` ends at a zero byte
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise _unsafe(archive, member, "its path leads out of the folder")
        if not member.is_dir() and not _IGNORED.fullmatch(name):
            yield member


def _find_problem(member: zipfile.ZipInfo, limits: _Limits) -> str:
    """Return why a member is not safe to unpack, apart from its name. "" if it is safe."""
    size = member.file_size
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "it is not a regular file"
    if member.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if member.compress_type not in _METHODS:
        return f"its compression method {member.compress_type} is neither stored nor deflated"
    if size > limits.size:
        return f"its size is {format_size(size)}, and the limit is {format_size(limits.size)}"
    if size > limits.small and size > limits.ratio * member.compress_size:
        return f"it would unpack to more than {limits.ratio} times its compressed size"
    return ""


def _unsafe(archive: Path, member: zipfile.ZipInfo, problem: str) -> UserError:
    return UserError(
        f"{archive} holds {member.orig_filename!r}: {problem}. Nothing was unpacked. "
        "Remove the archive and download it again."
    )


def _is_complete(folder: Path) -> bool:
    """Return whether all files of the folder's manifest exist with their sizes. There may be other files."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        with os.scandir(folder) as entries:
            present = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return sizes.items() <= present.items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no manifest, or another program's
        return False


def _complete(target: Path, archive: _CheckedArchive, sha256: str | None) -> None:
    """Create or complete the folder `target`: fill the folder `<target>.part` and rename it."""
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        # Files were removed, or an early version wrote the folder without a manifest. Most files are there.
        if part.exists():
            shutil.rmtree(part)
        os.replace(target, part)
    part.mkdir(exist_ok=True)
    present = _remove_incomplete(part, archive.images)
    resumed = f", {len(present)} of them already unpacked" if present else ""
    logger.info("Unpacking %s: %d images%s", archive.path, len(archive.images), resumed)
    _extract(archive, [name for name in archive.images if name not in present], part)
    with atomic_path(part / _MANIFEST) as path:
        path.write_text(json.dumps(archive.manifest(sha256), indent=0), "utf-8")
    if hasattr(os, "sync"):  # not on Windows
        os.sync()  # after a power cut, the renamed folder must have its content
    os.replace(part, target)


def _remove_incomplete(part: Path, images: dict[str, zipfile.ZipInfo]) -> set[str]:
    """Remove everything from `part` except complete images. Return the names of these."""
    with os.scandir(part) as scan:
        entries = list(scan)
    complete = set()
    for entry in tqdm(entries, "Checking", unit=" files", leave=False, disable=None):
        if entry.name in images and _matches(entry, images[entry.name]):
            complete.add(entry.name)
        elif entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        else:
            Path(entry).unlink()
    return complete


def _matches(entry: os.DirEntry[str], member: zipfile.ZipInfo) -> bool:
    """Return whether a file is the member. After a power cut, a file may have its size but not its content."""
    if not entry.is_file(follow_symlinks=False) or entry.stat().st_size != member.file_size:
        return False
    checksum = 0
    with Path(entry).open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC


def _extract(archive: _CheckedArchive, names: Sequence[str], part: Path) -> None:
    """Write images into `part`. None of them exists there.

    Raises:
        UserError: the disk has too little space.
    """
    sizes = [archive.images[name].file_size for name in names]
    needed = sum(-(-size // _DISK_BLOCK) * _DISK_BLOCK for size in sizes)
    require_space(part.parent, needed, f"unpacking {archive.path}")
    # disable=None: no bar without a terminal.
    with tqdm(
        desc="Unpacking", total=sum(sizes), unit="B", unit_scale=True, leave=False, disable=None
    ) as bar:
        for name in names:
            _write(archive.opened, archive.images[name], part / name, bar)


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, bar: tqdm) -> None:
    written = 0
    with opened.open(member) as content, path.open("xb") as copy:
        # The zip module checks the checksum when it reaches the end.
        while chunk := content.read(_CHUNK):
            copy.write(chunk)
            bar.update(len(chunk))
            written += len(chunk)
    if written != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} has {written} bytes, not {member.file_size}")


def read_table(source: Path, name: str) -> Iterator[Row] | None:
    """Return an iterator over the rows of `source/NAME.csv` or `source/NAME.csv.zip`. None if neither exists.

    Raises:
        UserError: see `read_rows`.
    """
    path = find_table(source, name)
    return None if path is None else read_rows(path)


def find_table(source: Path, name: str) -> Path | None:
    """Return the path of `source/NAME.csv`, else of `source/NAME.csv.zip`. None if neither exists."""
    candidates = (source / f"{name}.csv", source / f"{name}.csv.zip")
    return next((path for path in candidates if path.is_file()), None)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, `NAME.csv` or `NAME.csv.zip`.

    Raises:
        DamagedArchiveError: the archive is damaged.
        UserError: the archive holds something other than `NAME.csv`, or is unsafe. See also `read_masks`.
    """
    return _zipped_rows(path) if path.suffix == ".zip" else _plain_rows(path)


def check_table(archive: Path) -> None:
    """Read `NAME.csv.zip` to its end, which checks its checksum.

    Raises:
        DamagedArchiveError: the archive is damaged.
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
        raise DamagedArchiveError(f"{archive} is damaged ({error}). Download it again.") from error
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}).") from error


def _table(opened: zipfile.ZipFile, archive: Path) -> zipfile.ZipInfo:
    """Return the only member.

    Raises:
        UserError: there are other members, or the member is unsafe.
    """
    members = list(_members(opened, archive))
    for member in members:
        if member.orig_filename != archive.stem:
            raise _unsafe(archive, member, f"only {archive.stem} is allowed")
        if problem := _find_problem(member, _TABLE_LIMITS):
            raise _unsafe(archive, member, problem)
    if len(members) != 1:
        raise UserError(
            f"{archive} should contain {archive.stem} once, but contains it {len(members)} times. "
            "Remove it and download it again."
        )
    return members[0]


def _format_names(names: Sequence[str]) -> str:
    return " or ".join(f"{name}/ or {name}.zip" for name in names)
