"""Which photographs `carvana-kedro cut` takes, and which files it writes for them. Nothing is decoded."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from carvana_kedro.errors import UserError, shown
from carvana_kedro.stores.images.encoding import software_of
from carvana_kedro.stores.images.folder import IMAGE_TYPES

STREAM = "-"
"""Standard input or output."""

_WRITTEN_TYPES = (".png", ".webp")
_PROGRAM = "carvana-kedro cut"


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

    def mark(self, options: str) -> str:
        """Return the text that is written into its files: of what they are made, as a digest.

        Args:
            options: What decides how the files look.
        """
        try:
            state = self.source.stat() if self.source else None
        except OSError:  # reading it will say why
            state = None
        made_of = (options, self.source and self.source.name, state and (state.st_size, state.st_mtime_ns))
        return f"{_PROGRAM} {sha256(repr(made_of).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"

    def state(self, options: str) -> Literal["new", "done", "changed", "foreign"]:
        """Return the state of its files.

        Returns:
            `new`: they do not exist. `done`: they are what a new run would write, and whole (see `atomic_path`).
            `changed`: they are of other options, or the photograph has changed. `foreign`: something else wrote them.
        """
        marks = [software_of(path) if os.path.lexists(path) else None for path in self.files]
        found = [mark for mark in marks if mark is not None]
        if any(not mark.startswith(_PROGRAM) for mark in found):
            return "foreign"
        if self.source and marks and set(marks) == {self.mark(options)}:
            return "done"
        return "changed" if found else "new"


class Found(NamedTuple):
    """What the arguments of a command name.

    Attributes:
        photographs: Those to cut out, in order.
        problems: Why others are left out.
        ignored: The number of files in the folders that are no images.
    """

    photographs: list[Photograph]
    problems: list[str]
    ignored: int


class _File(NamedTuple):
    """A file that an argument names.

    Attributes:
        path: Of the file; None: standard input.
        name: Its path below the folder that is named; None: it is no image.
    """

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
    problems: list[str] = []
    named = [file for given in inputs for file in _files(given, None if is_file else out, problems)]
    files = list({file.path and os.path.realpath(file.path): file for file in reversed(named)}.values())[::-1]
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
    kept, conflicts = _without_conflicts(photographs)
    return Found(kept, problems + conflicts, ignored=len(files) - len(images))


def _is_file(out: str, suffix: str | None) -> bool:
    """Return whether the output is one file or standard output, instead of a folder."""
    if out == STREAM:
        return True
    path = Path(out)
    if out.endswith(("/", os.sep)) or path.is_dir() or path.suffix.lower() not in {*IMAGE_TYPES, ".gif"}:
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
    if any(_is_same(given if Path(given).is_dir() else _fixed_part(given), out) for given in inputs):
        raise UserError(
            f"{shown(out)} is the folder of the photographs. Choose another one for the cut-outs: the next run would "
            "take them for photographs."
        )


def _files(given: str, out: str | None, problems: list[str]) -> Iterator[_File]:
    """Yield the files that an argument names, in order, without the cut-outs of earlier runs.

    Args:
        given: The argument.
        out: The folder of the cut-outs.
        problems: Takes what cannot be read.
    """
    path = Path(given)
    if given == STREAM:
        yield _File(None, Path(STREAM))
    elif path.is_dir():
        yield from _below(path, _inside(out, path), problems)
    elif os.path.lexists(path):
        yield _File(path, Path(path.name))
    elif not glob.has_magic(given):
        raise UserError(f"{shown(given)} does not exist.")
    else:
        fixed = _fixed_part(given)
        if ".." in path.parts[len(fixed.parts) :]:
            raise UserError(f"{shown(given)} goes up after its first placeholder. Name the folder instead.")
        inside = _inside(out, fixed)
        matches = glob.glob(given, recursive=True)  # noqa: PTH207 (Path.glob does not leave out hidden files)
        for found in map(Path, sorted(matches)):
            if not found.is_dir() and not _is_below(found, inside):
                yield _named(found, fixed)


def _fixed_part(pattern: str) -> Path:
    """Return the folder that a pattern starts from; of a file without a pattern, the file.

    >>> _fixed_part("photos/**/*.jpg").as_posix()
    'photos'
    """
    return Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))


def _inside(out: str | None, folder: Path) -> str | None:
    """Return the folder of the cut-outs if it is inside a folder of photographs."""
    return out if out and _is_below(Path(out), str(folder)) and not _is_same(out, folder) else None


def _is_same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _below(folder: Path, out: str | None, problems: list[str]) -> Iterator[_File]:
    """Yield the files of a folder and its subfolders, without hidden ones. Links to folders are not followed."""

    def note(error: OSError) -> None:
        problems.append(f"{shown(str(error.filename))} cannot be read: {error.strerror}.")

    for parent, subfolders, names in os.walk(folder, onerror=note):
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
