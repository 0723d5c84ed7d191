"""ImageSource and masks in folders of the user's own, in whatever formats and sizes they come."""

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images import decoding
from carvana_kedro.stores.images.source import ImageRecord, examine_all

logger = logging.getLogger(__name__)

_IMAGE_TYPES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
_MASK_TYPES = _IMAGE_TYPES | {".gif", ".bmp"}
_SMALLEST_SIDE = 16


class _Listing(NamedTuple):
    """Files by the id of their image; more than one file an id is a problem."""

    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]


@dataclass(frozen=True)
class FolderStore:
    """A folder of photographs and, for training, one of masks.

    Opens nothing at construction and can be pickled, so that worker processes can hold it. The folders are listed
    once, when first needed. Pictures are given upright, whichever way the camera was held.

    Attributes:
        images: folder of jpg, png, webp or tiff, of any sizes. An image's id is the file's name without its ending.
        masks: folder of png, gif, tiff, bmp, webp or jpg, or None where there are none. May be the same as `images`
            if there is a suffix.
        mask_suffix: what stands between the image's id and the ending of the mask's name. Files that are named so are
            never taken for photographs.
        group: regular expression that finds, at the start of an id, what the photograph shows: images of one group
            stay on one side of the split. None: every image is its own group.
        expected: always None: there is no list of images that must be there.

    Raises:
        UserError: `group` is no regular expression.
    """

    one_size: ClassVar[bool] = False

    images: Path
    masks: Path | None = None
    mask_suffix: str = ""
    group: str | None = None
    expected: tuple[str, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Find mistakes that need no file."""
        try:
            re.compile(self.group or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"folder.group = {self.group!r} is no regular expression: {error}.") from error

    def ids(self) -> list[str]:
        """Return the ids of the images that are there, sorted, without those that two files claim.

        Raises:
            UserError: a folder is missing or has nothing of use.
        """
        return sorted(image_id for image_id, paths in self._listing.images.items() if len(paths) == 1)

    def fingerprint(self) -> str:
        """Return a short hash of the names and sizes of all images and masks: another source has another one."""
        images, masks = self._listing
        files = [path for paths in (*images.values(), *masks.values()) for path in paths]
        listing = sorted((file.name, _bytes_in(file)) for file in files)
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]

    def image_path(self, image_id: str) -> Path:
        """Return where the photograph lies.

        Raises:
            UserError: there is none, or more than one.
        """
        paths = self._listing.images.get(image_id, [])
        if len(paths) != 1:
            raise UserError(f"{_claimed(paths)} in {self.images}: there must be one photograph {image_id}.")
        return paths[0]

    def mask_path(self, image_id: str) -> Path:
        """Return where the mask lies.

        Raises:
            UserError: there is none, or more than one.
        """
        if self.masks is None:
            raise UserError(f"The images in {self.images} have no masks.")
        paths = self._listing.masks.get(image_id, [])
        if len(paths) != 1:
            raise UserError(f"{_claimed(paths)} in {self.masks}: there must be one mask of {image_id}.")
        return paths[0]

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the upright photograph's (height, width).

        Raises:
            UserError: the file is missing, cannot be read or is larger than is decoded.
        """
        path = self.image_path(image_id)
        with _for_people(path):
            return decoding.read_header(path).upright

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return the upright photograph, (H, W, 3) uint8 RGB. Alpha is left out.

        Args:
            image_id: which.
            at_least: (height, width) that it is needed at: where that makes hardly a difference, a jpg comes smaller
                by 2, 4 or 8, in less time. None: its own size.

        Raises:
            UserError: the file is missing, cannot be decoded or is larger than is decoded.
        """
        path = self.image_path(image_id)
        with _for_people(path):
            return decoding.read_rgb(path, at_least)

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the upright mask, (H, W) uint8 of 0 and 1.

        Raises:
            UserError: the file is missing, cannot be decoded, or is not black and white.
        """
        path = self.mask_path(image_id)
        with _for_people(path):
            return decoding.read_mask(path)

    def examine(self) -> Iterator[ImageRecord]:
        """Yield a record for every image and every mask without one, in order, problems included.

        All files are decoded, jpg at an eighth of their size. They are looked at in threads, a window at a time,
        so that memory does not grow with their number. Two files of the same bytes are a problem where there are
        masks, as they could fall on both sides of a split.

        Raises:
            UserError: a folder is missing or has nothing of use.
        """
        images, masks = self._listing
        if self.masks is not None and self.group is None:
            logger.warning(
                "Every image is taken for another object: if there are several views of one, they may fall on both "
                "sides of the split, and the scores are too good. If names tell what belongs together, say so: "
                "--params folder.group='(.+)_[0-9]+' takes car_1 and car_2 for views of the same car."
            )
        yield from examine_all(self._examine, sorted({*images, *masks}), in_threads=True)

    def _examine(self, image_id: str) -> ImageRecord:
        problems: list[str] = []
        group = self._group_of(image_id)
        if not group:
            problems.append(f"the name does not match folder.group = {self.group!r}")
        paths = self._listing.images.get(image_id, [])
        header = _examine_image(paths, problems)
        area, digest = float("nan"), ""
        if self.masks is not None:
            area = _examine_mask(self._listing.masks.get(image_id, []), header, problems)
            digest = _digest(paths[0]) if header else ""
        height, width = header.upright if header else (0, 0)
        return ImageRecord(image_id, group or image_id, 0, width, height, area, problems, digest)

    def _group_of(self, image_id: str) -> str:
        """Return the group of an image, empty if its name does not tell."""
        if self.group is None:
            return image_id
        match = re.match(self.group, image_id)
        if not match:
            return ""
        return (match[1] if match.re.groups else match[0]) or ""

    @cached_property
    def _listing(self) -> _Listing:
        found = _Listing({}, {})
        files = _files_in(self.images, "folder.images")
        shared = self.masks is not None and self.masks.is_dir() and self.images.samefile(self.masks)
        if shared and not self.mask_suffix:
            raise UserError(
                f"The photographs and the masks both lie in {self.images}. Say what the names of masks end in: "
                "--params folder.mask_suffix=_mask, or keep them in another folder: folder.masks."
            )
        among: dict[str, list[Path]] = {}
        others = _sort_into(among, files, _MASK_TYPES, self.mask_suffix) if self.mask_suffix else files
        others = _sort_into(found.images, others, _IMAGE_TYPES)
        _report("%s: %d files are no jpg, png, webp or tiff and are ignored: %s", self.images, others)
        if shared:
            found.masks.update(among)
        else:
            named_so = [path for paths in among.values() for path in paths]
            _report("%s: %d files are named like masks and not taken for images: %s", self.images, named_so)
        if self.masks is not None and not shared:
            self._list_masks(self.masks, found.masks)
        if not found.images:
            raise UserError(
                f"There is no jpg, png, webp or tiff in {self.images}. "
                "Set folder.images to the folder in which your photographs lie."
            )
        if self.masks is not None and not found.masks:
            ending = f" with a name that ends in {self.mask_suffix!r}" if self.mask_suffix else ""
            raise UserError(
                f"There is no mask{ending} in {self.masks}. Look at folder.masks and folder.mask_suffix."
            )
        return found

    def _list_masks(self, folder: Path, masks: dict[str, list[Path]]) -> None:
        others = _sort_into(masks, _files_in(folder, "folder.masks"), _MASK_TYPES, self.mask_suffix)
        unmatched = [path for path in others if path.suffix.lower() in _MASK_TYPES]
        ending = repr(self.mask_suffix).replace("%", "%%")
        _report(
            f"%s: the names of %d masks do not end in {ending}, they are not matched: %s", folder, unmatched
        )
        strangers = [path for path in others if path.suffix.lower() not in _MASK_TYPES]
        _report("%s: %d files are no images and are ignored: %s", folder, strangers)


def _files_in(folder: Path, parameter: str) -> list[Path]:
    """Return what lies directly in a folder, sorted. Hidden files are left out, subfolders after a warning."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        # A folder that is called x.jpg is somebody's mistake: it stays, and is found to be no file.
        subfolders = [path for path in paths if path.suffix.lower() not in _MASK_TYPES and path.is_dir()]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be opened as a folder ({error.strerror}). Set {parameter} to one of yours."
        ) from error
    _report("%s: %d subfolders are not looked into: %s", folder, subfolders)
    skipped = set(subfolders)
    return [path for path in paths if path not in skipped]


def _sort_into(
    found: dict[str, list[Path]], paths: Sequence[Path], types: frozenset[str], suffix: str = ""
) -> list[Path]:
    """Note the files of the given types whose stem ends in the suffix under their ids, and return the others."""
    others = []
    suffix = _plain(suffix)
    for path in paths:
        stem = _plain(path.stem)
        if path.suffix.lower() in types and stem.endswith(suffix) and stem != suffix:
            found.setdefault(stem.removesuffix(suffix), []).append(path)
        else:
            others.append(path)
    return others


def _plain(name: str) -> str:
    """Return a name that can be compared and written: a Mac stores ü as two characters, others as one."""
    return unicodedata.normalize("NFC", name.encode(errors="surrogateescape").decode(errors="replace"))


def _report(message: str, folder: Path, paths: Sequence[Path], count: int = 5) -> None:
    if paths:
        rest = ["..."] if len(paths) > count else []
        names = [_plain(path.name) for path in paths[:count]]
        logger.warning(message, folder, len(paths), ", ".join([*names, *rest]))


def _claimed(paths: Sequence[Path]) -> str:
    """Say which files there are.

    >>> _claimed([Path("car.jpg"), Path("car.png")])
    'car.jpg and car.png'
    """
    return " and ".join(_plain(path.name) for path in paths) or "Nothing"


def _bytes_in(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing
        return -1


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).hexdigest()
    except OSError:  # it was there a moment ago
        return ""


def _examine_image(paths: Sequence[Path], problems: list[str]) -> decoding.Header | None:
    """Return what the header says, None if it cannot be read, and add what is wrong to the problems."""
    path = _only(paths, "image", problems)
    if path is None:
        return None
    header = None
    try:
        header = decoding.read_header(path)
        decoding.check_pixels(path)
    except decoding.UnfitError as error:
        problems.append(f"{_plain(path.name)} {error}")
        return header
    if min(header.upright) < _SMALLEST_SIDE:
        height, width = header.upright
        problems.append(f"{_plain(path.name)} is {width}x{height} pixels: at least {_SMALLEST_SIDE} a side")
    return header


def _examine_mask(paths: Sequence[Path], image: decoding.Header | None, problems: list[str]) -> float:
    """Return the mask's share of the pixels, NaN if it cannot be read, and add what is wrong to the problems."""
    path = _only(paths, "mask", problems)
    if path is None:
        return float("nan")
    try:
        mask = decoding.read_mask(path)
    except decoding.UnfitError as error:
        problems.append(f"{_plain(path.name)} {error}")
        return float("nan")
    if image and mask.shape != image.upright:
        size, upright = (f"{width}x{height}" for height, width in (mask.shape, image.upright))
        problems.append(
            f"the mask is {size}, like the image as it is stored, but upright the image is {upright}: "
            "turn the mask as the camera says"
            if mask.shape == image.stored
            else f"the mask is {size}, the image {upright}"
        )
    return float(mask.mean())


def _only(paths: Sequence[Path], what: str, problems: list[str]) -> Path | None:
    if len(paths) == 1:
        return paths[0]
    problems.append(f"ambiguous: {_claimed(paths)}" if paths else f"the {what} is missing")
    return None


@contextmanager
def _for_people(path: Path) -> Iterator[None]:
    try:
        yield
    except decoding.UnfitError as error:
        name = path.parent / _plain(path.name)
        raise UserError(f"{name} {error}. Replace it, or take it away.") from error
