"""The user's own images and masks in folders, in any common format and size."""

import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from carvana_kedro.errors import UserError, shown
from carvana_kedro.stores.digests import Digests, fingerprint
from carvana_kedro.stores.images import decoding
from carvana_kedro.stores.images.mask_values import MaskValues
from carvana_kedro.stores.images.masks import read_mask
from carvana_kedro.stores.images.source import ImageRecord, examine_all

logger = logging.getLogger(__name__)

IMAGE_TYPES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif", ".hif"}
)
_MASK_TYPES = IMAGE_TYPES | {".gif"}
_FORMATS = "jpg, png, webp, tiff, bmp, avif or heic"
_SMALLEST_SIDE = 16
_BLACK_IS_OUTSIDE = MaskValues()


class _Listing(NamedTuple):
    """Files by image id. More than one file per id is a problem."""

    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]


@dataclass(frozen=True)
class FolderStore:
    """A folder of images and, for training, a folder of masks.

    Construction opens no file. Instances can be pickled and sent to worker processes. The folders are listed once, when
    first needed. Images are returned upright, as their EXIF orientation says.

    Attributes:
        images: folder of jpg, png, webp, tiff, bmp, avif or heic files of any size. The id of an image is the file name
            without its extension.
        masks: folder of png, gif, tiff, bmp, webp or jpg files, or None. It may be the folder of images if there is a
            suffix.
        mask_suffix: text between the image id and the extension in the name of a mask. Files with this suffix are never
            used as images.
        group: regular expression that matches the group at the start of an id. Images of one group stay on one side of
            the split. Without masks there is no split, and an image that does not match is its own group. None: each
            image is its own group.
        digests: digests of the files.
        mask_values: which values of masks are the object.
        expected: always None: there is no list of images that must exist.

    Raises:
        UserError: `group` is not a regular expression.
    """

    one_size: ClassVar[bool] = False

    images: Path
    masks: Path | None = None
    mask_suffix: str = ""
    group: str | None = None
    digests: Digests = field(default_factory=Digests, compare=False, repr=False)
    mask_values: MaskValues = _BLACK_IS_OUTSIDE
    expected: tuple[str, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Check the regular expression."""
        try:
            re.compile(self.group or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"folder.group = {self.group!r} is not a regular expression: {error}.") from error

    def ids(self) -> list[str]:
        """Return the ids of the existing images, sorted, without ids that several files have.

        Raises:
            UserError: a folder is missing, or holds no images or masks.
        """
        return sorted(image_id for image_id, paths in self._listing.images.items() if len(paths) == 1)

    def fingerprint(self) -> str:
        """Return a short hash of the names and contents of all images and masks, of `group` and of `mask_values`.

        It identifies the source, wherever its folders are. Files are read if they are new or changed: see `Digests`.
        """
        files = [
            (kind, image_id, path)
            for kind, found in zip(("image", "mask"), self._listing, strict=True)
            for image_id, paths in found.items()
            for path in paths
        ]
        digests = self.digests.of([path for *_, path in files])
        facts = [
            (kind, image_id, _normalize(path.name), digest)
            for (kind, image_id, path), digest in zip(files, digests, strict=True)
        ]
        return fingerprint([*facts, ("group", repr(self.group)), ("mask_values", repr(self.mask_values))])

    def image_path(self, image_id: str) -> Path:
        """Return the path of the image.

        Raises:
            UserError: no file or more than one file has this id.
        """
        paths = self._listing.images.get(image_id, [])
        if len(paths) != 1:
            raise UserError(
                f"{self.images} should hold one image {image_id}, but holds {_format_names(paths)}."
            )
        return paths[0]

    def mask_path(self, image_id: str) -> Path:
        """Return the path of the mask.

        Raises:
            UserError: there are no masks, or not exactly one file is the mask of this image.
        """
        if self.masks is None:
            raise UserError(f"The images in {self.images} have no masks.")
        paths = self._listing.masks.get(image_id, [])
        if len(paths) != 1:
            raise UserError(
                f"{self.masks} should hold one mask of {image_id}, but holds {_format_names(paths)}."
            )
        return paths[0]

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the (height, width) of the upright image.

        Raises:
            UserError: the file is missing, cannot be read or is too large.
        """
        path = self.image_path(image_id)
        with _as_user_error(path):
            return decoding.read_header(path).upright

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return the upright image, (H, W, 3) uint8 RGB, without alpha.

        Args:
            image_id: id of the image.
            at_least: required (height, width). If the result is nearly the same, a jpg is decoded at 1/2, 1/4 or 1/8 of
                its size, which takes less time. None: full size.

        Raises:
            UserError: the file is missing, cannot be decoded or is too large.
        """
        path = self.image_path(image_id)
        with _as_user_error(path):
            return decoding.read_rgb(path, at_least)

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the upright mask, (H, W) uint8 with values 0 and 1.

        Raises:
            UserError: the file is missing, cannot be decoded, or is not black and white.
        """
        path = self.mask_path(image_id)
        with _as_user_error(path):
            return read_mask(path, self.mask_values)

    def examine(self) -> Iterator[ImageRecord]:
        """Yield a record for every image and every mask without an image, in order, with its problems.

        All files are decoded in threads, jpg files at 1/8 of their size. If there are masks, two images with the same
        bytes are a problem: they could be on different sides of the split.

        Raises:
            UserError: a folder is missing, or holds no images or masks.
        """
        images, masks = self._listing
        if self.masks is not None and self.group is None:
            logger.warning(
                "Each image is treated as a different object. If several images show the same object, they may be on "
                "both sides of the split, and the scores will be too high. If the names show which images belong "
                "together, set folder.group: --params folder.group='(.+)_[0-9]+' puts car_1 and car_2 into one group."
            )
        single = {image_id: paths[0] for image_id, paths in images.items() if len(paths) == 1}
        digests = dict(zip(single, self.digests.of([*single.values()]), strict=True))
        yield from examine_all(
            partial(self._examine, digests),
            sorted({*images, *masks}),
            in_threads=True,
            unique=self.masks is not None,
        )

    def _examine(self, digests: Mapping[str, str], image_id: str) -> ImageRecord:
        problems: list[str] = []
        group = self._group_of(image_id)
        if not group and self.masks is not None:  # only the split needs groups
            problems.append(f"the name does not match folder.group = {self.group!r}")
        paths = self._listing.images.get(image_id, [])
        header = _examine_image(paths, problems)
        area = float("nan")
        if self.masks is not None:
            area = _examine_mask(self._listing.masks.get(image_id, []), header, self.mask_values, problems)
        height, width = header.upright if header else (0, 0)
        digest = digests.get(image_id, "")
        return ImageRecord(image_id, group or image_id, 0, width, height, area, problems, digest)

    def _group_of(self, image_id: str) -> str:
        """Return the group of an image, or "" if its name does not match."""
        if self.group is None:
            return image_id
        match = re.match(self.group, image_id)
        if not match:
            return ""
        return (match[1] if match.re.groups else match[0]) or ""

    @cached_property
    def _listing(self) -> _Listing:
        found = _Listing({}, {})
        files = _list_files(self.images, "folder.images")
        shared = self.masks is not None and self.masks.is_dir() and self.images.samefile(self.masks)
        if shared and not self.mask_suffix:
            raise UserError(
                f"Images and masks are both in {self.images}. Set the suffix of mask names, "
                "--params folder.mask_suffix=_mask, or move the masks to another folder: folder.masks."
            )
        with_suffix: dict[str, list[Path]] = {}
        others = _collect(with_suffix, files, _MASK_TYPES, self.mask_suffix) if self.mask_suffix else files
        others = _collect(found.images, others, IMAGE_TYPES)
        _warn(f"%s: %d files are not {_FORMATS} and are ignored: %s", self.images, others)
        if shared:
            found.masks.update(with_suffix)
        else:
            masks = [path for paths in with_suffix.values() for path in paths]
            _warn("%s: %d files have names of masks and are not used as images: %s", self.images, masks)
        if self.masks is not None and not shared:
            self._list_masks(self.masks, found.masks)
        if not found.images:
            raise UserError(
                f"{self.images} holds no {_FORMATS}{_format_contents(self.images, others)}. "
                "Set folder.images to the folder of your images."
            )
        if self.masks is not None and not found.masks:
            ending = f" with a name that ends in {self.mask_suffix!r}" if self.mask_suffix else ""
            raise UserError(
                f"{self.masks} holds no mask{ending}{_format_contents(self.masks, [])}. "
                "Check folder.masks and folder.mask_suffix."
            )
        return found

    def _list_masks(self, folder: Path, masks: dict[str, list[Path]]) -> None:
        others = _collect(masks, _list_files(folder, "folder.masks"), _MASK_TYPES, self.mask_suffix)
        without_suffix = [path for path in others if path.suffix.lower() in _MASK_TYPES]
        ending = repr(self.mask_suffix).replace("%", "%%")
        _warn(
            f"%s: %d masks are ignored, because their names do not end in {ending}: %s",
            folder,
            without_suffix,
        )
        not_images = [path for path in others if path.suffix.lower() not in _MASK_TYPES]
        _warn("%s: %d files are not images and are ignored: %s", folder, not_images)


def _list_files(folder: Path, parameter: str) -> list[Path]:
    """Return the files of a folder, sorted, without hidden files. Warn about subfolders and leave them out."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        subfolders = [path for path in paths if _is_subfolder(path)]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be opened as a folder ({error.strerror}). Set {parameter} to an existing folder."
        ) from error
    if subfolders:
        logger.warning(
            "%s: %d subfolders are not read: %s", folder, len(subfolders), _format_subfolders(subfolders)
        )
    skipped = set(subfolders)
    return [path for path in paths if path not in skipped]


def _is_subfolder(path: Path) -> bool:
    # A folder with a name like x.jpg is a mistake. It stays in the list, and is reported as a problem.
    return path.suffix.lower() not in _MASK_TYPES and path.is_dir()


def _format_subfolders(subfolders: Sequence[Path], count: int = 5) -> str:
    """Join the first names and the numbers of image files below them."""
    counts = [
        sum(path.suffix.lower() in _MASK_TYPES and path.name[0] != "." for path in folder.rglob("*"))
        for folder in subfolders
    ]
    named = [
        f"{_normalize(folder.name)} ({images} images)"
        for folder, images in zip(subfolders[:count], counts, strict=False)
    ]
    rest = f", ... ({sum(counts)} images in all)" if len(subfolders) > count else ""
    return ", ".join(named) + rest


def _format_contents(folder: Path, others: Sequence[Path]) -> str:
    """Return what a folder holds instead of images, as the continuation of a message."""
    subfolders = sorted(path for path in folder.iterdir() if path.name[0] != "." and _is_subfolder(path))
    parts = [f"subfolders, which are not read: {_format_subfolders(subfolders)}"] if subfolders else []
    if others:
        parts.append(f"{len(others)} other files: {_format_first(others)}")
    return f". It holds {'; and '.join(parts)}" if parts else ""


def _collect(
    found: dict[str, list[Path]], paths: Sequence[Path], types: frozenset[str], suffix: str = ""
) -> list[Path]:
    """Add the files with these types and this suffix to `found`, by image id. Return the other files."""
    others = []
    suffix = _normalize(suffix)
    for path in paths:
        stem = _normalize(path.stem)
        if path.suffix.lower() in types and stem.endswith(suffix) and stem != suffix:
            found.setdefault(stem.removesuffix(suffix), []).append(path)
        else:
            others.append(path)
    return others


def _normalize(name: str) -> str:
    """Return a name that can be compared and printed. macOS stores ü as two characters, other systems as one."""
    name = unicodedata.normalize("NFC", name.encode(errors="surrogateescape").decode(errors="replace"))
    return shown(name)  # image ids are shown in tables, log lines and the model card


def _warn(message: str, folder: Path, paths: Sequence[Path], count: int = 5) -> None:
    """Log the number of paths and the first names, if there are any."""
    if paths:
        logger.warning(message, folder, len(paths), _format_first(paths, count))


def _format_first(paths: Sequence[Path], count: int = 5) -> str:
    """Join the first names."""
    rest = ["..."] if len(paths) > count else []
    return ", ".join([*(_normalize(path.name) for path in paths[:count]), *rest])


def _format_names(paths: Sequence[Path]) -> str:
    """Join the names of files.

    >>> _format_names([Path("car.jpg"), Path("car.png")])
    'car.jpg and car.png'
    """
    return " and ".join(_normalize(path.name) for path in paths) or "none"


def _examine_image(paths: Sequence[Path], problems: list[str]) -> decoding.Header | None:
    """Return the header, or None if it cannot be read. Append to `problems` what is wrong."""
    path = _single(paths, "image", problems)
    if path is None:
        return None
    header = None
    try:
        header = decoding.read_header(path)
        decoding.check_pixels(path)
    except decoding.UnusableImageError as error:
        problems.append(f"{_normalize(path.name)} {error}")
        return header
    if min(header.upright) < _SMALLEST_SIDE:
        height, width = header.upright
        problems.append(
            f"{_normalize(path.name)} is {width}x{height} pixels: the minimum is {_SMALLEST_SIDE} per side"
        )
    return header


def _examine_mask(
    paths: Sequence[Path], image: decoding.Header | None, meaning: MaskValues, problems: list[str]
) -> float:
    """Return the mask's fraction of the pixels, or NaN if it cannot be read. Append to `problems` what is wrong."""
    path = _single(paths, "mask", problems)
    if path is None:
        return float("nan")
    try:
        mask = read_mask(path, meaning)
    except decoding.UnusableImageError as error:
        problems.append(f"{_normalize(path.name)} {error}")
        return float("nan")
    if image and mask.shape != image.upright:
        size, upright = (f"{width}x{height}" for height, width in (mask.shape, image.upright))
        problems.append(
            f"the mask is {size} like the stored image, but the upright image is {upright}: "
            "rotate the mask as the EXIF orientation of the image says"
            if mask.shape == image.stored
            else f"the mask is {size}, the image {upright}"
        )
    return float(mask.mean())


def _single(paths: Sequence[Path], what: str, problems: list[str]) -> Path | None:
    """Return the only path, or None. Append to `problems` if there are none or several."""
    if len(paths) == 1:
        return paths[0]
    problems.append(f"ambiguous: {_format_names(paths)}" if paths else f"the {what} is missing")
    return None


@contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    """Turn an `UnusableImageError` of the block into a `UserError` that names the file."""
    try:
        yield
    except decoding.UnusableImageError as error:
        name = path.parent / _normalize(path.name)
        raise UserError(f"{name} {error}. Replace or remove it.") from error
