"""Which photographs `carvana-kedro cut` takes, and which files it writes for them. Nothing is decoded."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from carvana_kedro.errors import UserError, shown
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.images.folder import IMAGE_TYPES

STREAM = "-"
"""Standard input or output."""

_WRITTEN_TYPES = (".png", ".webp")
_RECORD = ".carvana-kedro.json"


@dataclass(frozen=True)
class Photograph:
    """A photograph, and the files that are written for it.

    Attributes:
        source: Its path; None: standard input.
        picture: The path of its cut-out; None: standard output.
        mask: The path of its mask; None: it is not written.
    """

    source: Path | None
    picture: Path | None
    mask: Path | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return shown(str(self.source)) if self.source else "standard input"

    @property
    def files(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (self.picture, self.mask) if path]

    def is_done(self, since: int) -> bool:
        """Return whether its files are there, whole (see `atomic_path`) and as a new run would write them.

        Args:
            since: Time (ns) of the last change of the options: see `record_options`.
        """
        if not self.source or not self.picture:
            return False
        try:
            oldest = min(path.stat().st_mtime_ns for path in self.files)
            return oldest >= max(since, self.source.stat().st_mtime_ns)
        except OSError:
            return False


class Found(NamedTuple):
    """What the arguments of a command name.

    Attributes:
        photographs: Those to cut out, in order.
        problems: Why others are left out.
        ignored: The number of files in the folders that are no images.
        folder: Of the cut-outs; None: the output is one file.
    """

    photographs: list[Photograph]
    problems: list[str]
    ignored: int
    folder: Path | None


class _File(NamedTuple):
    """A file that an argument names. `name`: its path below the folder that is named; None: it is no image."""

    path: Path | None
    name: Path | None


def find_photographs(inputs: Sequence[str], out: str, *, suffix: str | None, masks: bool) -> Found:
    """List the photographs, and where their cut-outs are written.

    Args:
        inputs: Files, folders (with their subfolders), patterns such as `photos/**/*.jpg`, or `-` for standard input.
        out: A folder; a file that ends in .png or .webp, for one photograph; or `-` for standard output.
        suffix: Of the pictures, `.png` or `.webp`; None: as `out` says, otherwise png.
        masks: Whether masks are written too.

    Raises:
        UserError: There are no photographs, or the output does not suit them.
    """
    is_file = _is_file(out, suffix)
    within = None if is_file else out
    files = [file for given in inputs for file in _files(given, within)]
    images = [(file.path, file.name) for file in files if file.name]
    if not images:
        raise UserError(
            f"{shown(' '.join(inputs))} holds no image. Images are jpg, png, webp, tiff, bmp, avif or heic files."
        )
    if is_file:
        photographs = [_into_file(images, out, masks)]
    else:
        _check_folder(out, inputs)
        photographs = [_into_folder(path, name, out, suffix or ".png", masks) for path, name in images]
    kept, problems = _without_conflicts(photographs)
    return Found(kept, problems, len(files) - len(images), None if is_file else Path(out))


def record_options(folder: Path, options: str) -> int:
    """Record the options of the cut-outs in a folder. Return the time (ns) from which on cut-outs have them.

    The record is written only if it changes, so its own time separates the cut-outs with these options from older ones.

    Raises:
        UserError: The record cannot be written.
    """
    record = folder / _RECORD
    try:
        is_same = record.read_text(encoding="utf-8") == options
    except (OSError, ValueError):
        is_same = False
    if not is_same:
        with atomic_path(record) as part:
            part.write_text(options, encoding="utf-8")
    return record.stat().st_mtime_ns


def _is_file(out: str, suffix: str | None) -> bool:
    """Return whether the output is one file or standard output, instead of a folder."""
    if out == STREAM:
        return True
    path = Path(out)
    if out.endswith(("/", os.sep)) or path.is_dir() or path.suffix.lower() not in IMAGE_TYPES:
        return False
    if path.suffix.lower() not in _WRITTEN_TYPES:
        raise UserError(
            f"{shown(out)} cannot be the output: name a file that ends in .png or .webp, or a folder. Photographs are "
            "never written over."
        )
    if suffix and suffix != path.suffix.lower():
        raise UserError(f"{shown(out)} does not suit --format {suffix[1:]}. Leave one of them out.")
    return True


def _check_folder(out: str, inputs: Iterable[str]) -> None:
    if STREAM in inputs:
        raise UserError(
            f"For standard input, OUT is - or a file that ends in .png or .webp, not {shown(out)}."
        )
    if Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"{shown(out)} is a file. Name a folder, or a file that ends in .png or .webp.")
    if any(os.path.realpath(given) == os.path.realpath(out) for given in inputs):
        raise UserError(
            f"{shown(out)} is the folder of the photographs. Choose another one for the cut-outs: the next run would "
            "take them for photographs."
        )


def _files(given: str, out: str | None) -> Iterator[_File]:
    """Yield the files that an argument names, in order, without those below the folder of the output."""
    path = Path(given)
    if given == STREAM:
        yield _File(None, Path(STREAM))
    elif path.is_dir():
        yield from _below(path, out)
    elif path.exists() or path.is_symlink():
        yield _File(path, Path(path.name))
    elif not glob.has_magic(given):
        raise UserError(f"{shown(given)} does not exist.")
    else:
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        matches = glob.glob(given, recursive=True)  # noqa: PTH207 (Path.glob does not leave out hidden files)
        for found in map(Path, sorted(matches)):
            if found.is_file() and not _is_below(found, out):
                yield _named(found, fixed)


def _below(folder: Path, out: str | None) -> Iterator[_File]:
    """Yield the files of a folder and its subfolders, without hidden ones."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{shown(str(error.filename))} cannot be read: {error.strerror}.") from error

    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        here = Path(parent)
        subfolders[:] = sorted(
            name for name in subfolders if name[0] != "." and not _is_below(here / name, out)
        )
        yield from (_named(here / name, folder) for name in sorted(names) if name[0] != ".")


def _named(path: Path, folder: Path) -> _File:
    return _File(path, path.relative_to(folder) if path.suffix.lower() in IMAGE_TYPES else None)


def _is_below(path: Path, folder: str | None) -> bool:
    return folder is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _into_file(images: Sequence[tuple[Path | None, Path]], out: str, masks: bool) -> Photograph:
    if len(images) > 1:
        raise UserError(f"{shown(out)} is one file, but there are {len(images)} photographs. Name a folder.")
    if out != STREAM:
        return Photograph(images[0][0], Path(out), _mask_of(Path(out)) if masks else None)
    if masks:
        raise UserError("--mask writes a second file. Name a folder or a file instead of standard output.")
    return Photograph(images[0][0], None)


def _into_folder(source: Path | None, name: Path, out: str, suffix: str, masks: bool) -> Photograph:
    picture = Path(out) / name.parent / f"{name.stem}{suffix}"
    return Photograph(source, picture, _mask_of(picture) if masks else None)


def _mask_of(picture: Path) -> Path:
    return picture.with_name(f"{picture.stem}_mask.png")


def _without_conflicts(photographs: Iterable[Photograph]) -> tuple[list[Photograph], list[str]]:
    """Return the photographs, and the problems of those whose files would replace the files of an earlier one.

    Raises:
        UserError: A file would replace a photograph.
    """
    photographs = list(photographs)
    sources = {os.path.realpath(each.source) for each in photographs if each.source}
    kept, problems, owners = [], [], dict[str, str]()
    for each in photographs:
        for file in each.files:
            if os.path.realpath(file) in sources:
                raise UserError(
                    f"The photograph {shown(str(file))} would be replaced. Choose another folder for the cut-outs."
                )
        names = {str(file).casefold(): file for file in each.files}  # some file systems ignore the case
        if taken := [file for name, file in names.items() if name in owners]:
            other = owners[str(taken[0]).casefold()]
            problems.append(
                f"{each.name} is left out: {shown(str(taken[0]))} belongs to {other}. Rename one of them."
            )
        else:
            owners |= dict.fromkeys(names, each.name)
            kept.append(each)
    return kept, problems
