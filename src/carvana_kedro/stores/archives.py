"""The competition's files as Kaggle hands them out: zip archives, or the folders that were unpacked from them."""

import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from carvana_kedro.errors import UserError
from carvana_kedro.stores.tables import Row, read_masks

logger = logging.getLogger(__name__)

# What the zip module raises for files that are cut, flipped, encrypted or packed in a way it does not know (the last
# two are a RuntimeError and its heir, NotImplementedError).
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
# What Finder adds to an archive.
_IGNORED = re.compile(r"__MACOSX/.*|(.*/)?\.DS_Store")
_MEMBER_NAME = re.compile(r"[0-9A-Za-z_]+\.(jpg|gif)")


def find_folder(source: Path, names: Sequence[str], unpacked: Path) -> Path:
    """Return the folder of images that goes by the first of `names` found in `source`.

    A folder `source/NAME` is used where it lies (so a read-only Kaggle input works); an archive
    `source/NAME.zip` is unpacked below `unpacked` first, once.

    Raises:
        UserError: `source` is missing, or holds none of the names, or the archive is damaged.
    """
    if not source.is_dir():
        raise UserError(
            f"The folder {source} does not exist. It should hold {_spelled(names)} "
            "(the competition's archives, or the folders unpacked from them)."
        )
    for name in names:
        folder = source / name
        if folder.is_dir():
            # Kaggle's notebooks mount some archives as train/train/*.jpg.
            return folder / name if (folder / name).is_dir() else folder
        if folder.with_suffix(".zip").is_file():
            return unpack(folder.with_suffix(".zip"), unpacked)
    present = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    raise UserError(f"Neither {_spelled(names)} is in {source}, which holds: {present}.")


def unpack(archive: Path, unpacked: Path) -> Path:
    """Unpack an archive of images and return the folder that holds them.

    The folder's name carries a hash of the archive's table of contents (names, sizes, checksums): another
    archive gets another folder, and one that exists is whole, since it is renamed into place at the end.

    Raises:
        UserError: the archive is damaged, a member is not a plain image inside one folder, or there is no room.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _images(opened, archive)
            contents = repr([(member.filename, member.file_size, member.CRC) for member in members])
            target = unpacked / f"{archive.stem}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"
            if not target.is_dir():
                logger.info("Unpacking %s: %d images", archive, len(members))
                _extract(opened, members, target)
    except _DAMAGED as error:
        raise UserError(f"{archive} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise UserError(f"{archive} cannot be unpacked into {unpacked}: {error}.") from error
    return target


def _images(opened: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """Return the members that are images.

    Raises:
        UserError: there is anything else.
    """
    members = [m for m in opened.infolist() if not m.is_dir() and not _IGNORED.fullmatch(m.filename)]
    for member in members:
        folder, _, file = member.filename.rpartition("/")
        if folder != archive.stem or not _MEMBER_NAME.fullmatch(file):
            raise UserError(
                f"{archive} holds {member.filename!r}; only images in the folder {archive.stem}/ belong there. "
                "Fetch the archive again."
            )
    return members


def _extract(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path) -> None:
    """Write the members into `target`, which appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    part = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
    try:
        for member in members:
            with opened.open(member) as content, (part / Path(member.filename).name).open("wb") as copy:
                shutil.copyfileobj(content, copy)
        part.chmod(0o755)
        os.sync()  # a power cut must not leave the name without the content
        try:
            os.replace(part, target)
        except OSError:
            if not target.is_dir():  # else another run was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_table(source: Path, name: str) -> Iterator[Row] | None:
    """Yield the rows of `source/NAME.csv` or `source/NAME.csv.zip`; None when there is neither.

    Raises:
        UserError: the archive is damaged or does not hold `NAME.csv`; see also `read_masks`.
    """
    plain, archive = source / f"{name}.csv", source / f"{name}.csv.zip"
    if plain.is_file():
        return _plain_rows(plain)
    if archive.is_file():
        return _zipped_rows(archive)
    return None


def _plain_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from read_masks(file, path)


def _zipped_rows(archive: Path) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(archive.stem) as file:
            yield from read_masks(io.TextIOWrapper(file, "utf-8-sig", newline=""), archive)
    except (*_DAMAGED, KeyError) as error:
        raise UserError(
            f"{archive} is damaged or holds no {archive.stem} ({error}). Fetch it again."
        ) from error


def _remove_leftovers(unpacked: Path) -> None:
    """Remove what killed runs have left half unpacked: folders that nothing was added to for an hour."""
    for part in unpacked.glob("*.part"):
        if time.time() - part.stat().st_mtime > 3600:
            shutil.rmtree(part, ignore_errors=True)


def _spelled(names: Sequence[str]) -> str:
    return " or ".join(f"{name}/ or {name}.zip" for name in names)
