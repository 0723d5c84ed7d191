"""The user's own images and masks in folders, in any common format and size."""

import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePath
from typing import ClassVar, NamedTuple

import numpy as np

from carvana_kedro.errors import UserError, shown
from carvana_kedro.stores.digests import Digests, fingerprint
from carvana_kedro.stores.images import decoding
from carvana_kedro.stores.images.files import Files, FilesInStore, FilesOnDisk, Found
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
    """What the folders hold.

    Attributes:
        images: names of files by image id. More than one file per id is a problem.
        masks: the same of masks.
        ignored: sentences about files that are not used.
    """

    images: dict[str, list[str]]
    masks: dict[str, list[str]]
    ignored: list[str]


@dataclass(frozen=True)
class FolderStore:
    """A folder of images and, for training, a folder of masks.

    Construction opens no file. Instances can be pickled and sent to worker processes. The folders are listed once, when
    first needed. Images are returned upright, as their EXIF orientation says.

    Attributes:
        images: folder of jpg, png, webp, tiff, bmp, avif or heic files of any size. The id of an image is the file name
            without its extension. Files in an object store are copied to a disk when they are first needed.
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

    images: Path | FilesInStore
    masks: Path | FilesInStore | None = None
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
        return sorted(image_id for image_id, names in self._listing.images.items() if len(names) == 1)

    def fingerprint(self) -> str:
        """Return a short hash of the names and contents of all images and masks, of `group` and of `mask_values`.

        It identifies the source, wherever its folders are. Files are read if they are new or changed: see `Digests`.
        """
        facts: list[tuple[str, ...]] = [("group", repr(self.group)), ("mask_values", repr(self.mask_values))]
        for kind, files, found in (
            ("image", self._image_files, self._listing.images),
            ("mask", self._mask_files, self._listing.masks),
        ):
            named = [(image_id, name) for image_id, names in found.items() for name in names]
            digests = self.digests.of(files.paths([name for _, name in named])) if files else []
            facts += [
                (kind, image_id, _normalize(name), digest)
                for (image_id, name), digest in zip(named, digests, strict=True)
            ]
        return fingerprint(facts)

    def digests_of(self, image_ids: Sequence[str]) -> list[str]:
        """Return the digest of each image file, or "" if it cannot be read: see `Digests`.

        Raises:
            UserError: no file or more than one file has one of these ids.
        """
        return self.digests.of(
            self._image_files.paths([self._image_name(image_id) for image_id in image_ids])
        )

    def image_path(self, image_id: str) -> Path:
        """Return the path of the image, or of its copy.

        Raises:
            UserError: no file or more than one file has this id.
        """
        return _path(self._image_files, self._image_name(image_id))

    def mask_path(self, image_id: str) -> Path:
        """Return the path of the mask, or of its copy.

        Raises:
            UserError: there are no masks, or not exactly one file is the mask of this image.
        """
        return _path(*self._mask_file(image_id))

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the (height, width) of the upright image.

        Raises:
            UserError: the file is missing, cannot be read or is too large.
        """
        with _opened(self._image_files, self._image_name(image_id)) as path:
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
        with _opened(self._image_files, self._image_name(image_id)) as path:
            return decoding.read_rgb(path, at_least)

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the upright mask, (H, W) uint8 with values 0 and 1.

        Raises:
            UserError: the file is missing, cannot be decoded, or is not black and white.
        """
        with _opened(*self._mask_file(image_id)) as path:
            return read_mask(path, self.mask_values)

    def examine(self) -> Iterator[ImageRecord]:
        """Yield a record for every image and every mask without an image, in order, with its problems.

        All files are decoded in threads, jpg files at 1/8 of their size. If there are masks, two images with the same
        bytes are a problem: they could be on different sides of the split. Files that are not used are logged.

        Raises:
            UserError: a folder is missing, or holds no images or masks.
        """
        for sentence in self._listing.ignored:
            logger.warning("%s", sentence)
        self._image_files.forget_earlier()
        if self._mask_files:
            self._mask_files.forget_earlier()
        if self.masks is not None and self.group is None:
            logger.warning(
                "Each image is treated as a different object. If several images show the same object, they may be on "
                "both sides of the split, and the scores will be too high. If the names show which images belong "
                "together, set folder.group: --params folder.group='(.+)_[0-9]+' puts car_1 and car_2 into one group."
            )
        present = self.ids()
        digests = dict(zip(present, self.digests_of(present), strict=True))
        yield from examine_all(
            partial(self._examine, digests),
            sorted({*self._listing.images, *self._listing.masks}),
            in_threads=True,
            unique=self.masks is not None,
        )

    def _examine(self, digests: Mapping[str, str], image_id: str) -> ImageRecord:
        problems: list[str] = []
        group = self._group_of(image_id)
        if not group and self.masks is not None:  # only the split needs groups
            problems.append(f"the name does not match folder.group = {self.group!r}")
        images, masks = (found.get(image_id, []) for found in self._listing[:2])
        header = _examine_image(self._image_files, images, problems)
        area = float("nan")
        if self._mask_files is not None:
            area = _examine_mask(self._mask_files, masks, header, self.mask_values, problems)
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
    def _image_files(self) -> Files:
        return _files_of(self.images)

    @cached_property
    def _mask_files(self) -> Files | None:
        if self.masks is None:
            return None
        files = _files_of(self.masks)
        return self._image_files if self._image_files.is_same_as(files) else files

    def _image_name(self, image_id: str) -> str:
        names = self._listing.images.get(image_id, [])
        if len(names) != 1:
            raise UserError(
                f"{self.images} should hold one image {image_id}, but holds {_format_names(names)}."
            )
        return names[0]

    def _mask_file(self, image_id: str) -> tuple[Files, str]:
        if self._mask_files is None:
            raise UserError(f"The images in {self.images} have no masks.")
        names = self._listing.masks.get(image_id, [])
        if len(names) != 1:
            raise UserError(
                f"{self.masks} should hold one mask of {image_id}, but holds {_format_names(names)}."
            )
        return self._mask_files, names[0]

    @cached_property
    def _listing(self) -> _Listing:
        found = _Listing({}, {}, [])
        images, masks = self._image_files, self._mask_files
        names, subfolders = _find(images, "folder.images", found.ignored)
        shared = masks is images
        if shared and not self.mask_suffix:
            raise UserError(
                f"Images and masks are both in {images}. Set the suffix of mask names, "
                "--params folder.mask_suffix=_mask, or move the masks to another folder: folder.masks."
            )
        with_suffix: dict[str, list[str]] = {}
        others = _collect(with_suffix, names, _MASK_TYPES, self.mask_suffix) if self.mask_suffix else names
        others = _collect(found.images, others, IMAGE_TYPES)
        _tell(found.ignored, images, others, f"files are not {_FORMATS} and are ignored")
        if shared:
            found.masks.update(with_suffix)
        else:
            of_masks = [name for names in with_suffix.values() for name in names]
            _tell(found.ignored, images, of_masks, "files have names of masks and are not used as images")
        if not found.images:
            raise UserError(
                f"{images} holds no {_FORMATS}{_format_contents(subfolders, others)}. "
                "Set folder.images, or folder.test, to the folder of your images."
            )
        if masks is not None:
            if not shared:
                subfolders = self._list_masks(masks, found)
            if not found.masks:
                ending = f" with a name that ends in {self.mask_suffix!r}" if self.mask_suffix else ""
                raise UserError(
                    f"{masks} holds no mask{ending}{_format_contents(subfolders, [])}. "
                    "Check folder.masks and folder.mask_suffix."
                )
        return found

    def _list_masks(self, files: Files, found: _Listing) -> dict[str, int]:
        """Add the masks of a folder of their own. Return its subfolders."""
        names, subfolders = _find(files, "folder.masks", found.ignored)
        others = _collect(found.masks, names, _MASK_TYPES, self.mask_suffix)
        without_suffix = [name for name in others if _type_of(name) in _MASK_TYPES]
        ending = f"masks are ignored, because their names do not end in {self.mask_suffix!r}"
        _tell(found.ignored, files, without_suffix, ending)
        not_images = [name for name in others if _type_of(name) not in _MASK_TYPES]
        _tell(found.ignored, files, not_images, "files are not images and are ignored")
        return subfolders


def _files_of(folder: Path | FilesInStore) -> Files:
    return FilesOnDisk(folder) if isinstance(folder, Path) else folder


def _find(files: Files, parameter: str, ignored: list[str]) -> Found:
    """Return what a folder holds. Add a sentence about subfolders to `ignored`."""
    try:
        found = files.find(_MASK_TYPES)
    except OSError as error:
        raise UserError(
            f"{files} cannot be opened as a folder ({error.strerror}). Set {parameter} to an existing folder."
        ) from error
    if found.subfolders:
        count, named = len(found.subfolders), _format_subfolders(found.subfolders)
        ignored.append(f"{files}: {count} subfolders are not read: {named}")
    return found


def _type_of(name: str) -> str:
    return PurePath(name).suffix.lower()


def _format_subfolders(subfolders: Mapping[str, int], count: int = 5) -> str:
    """Join the first names and the numbers of images in them."""
    first = [f"{_normalize(name)} ({images} images)" for name, images in islice(subfolders.items(), count)]
    rest = f", ... ({sum(subfolders.values())} images in all)" if len(subfolders) > count else ""
    return ", ".join(first) + rest


def _format_contents(subfolders: Mapping[str, int], others: Sequence[str]) -> str:
    """Return what a folder holds instead of images, as the continuation of a message."""
    parts = [f"subfolders, which are not read: {_format_subfolders(subfolders)}"] if subfolders else []
    if others:
        parts.append(f"{len(others)} other files: {_format_first(others)}")
    return f". It holds {'; and '.join(parts)}" if parts else ""


def _collect(
    found: dict[str, list[str]], names: Sequence[str], types: frozenset[str], suffix: str = ""
) -> list[str]:
    """Add the files with these types and this suffix to `found`, by image id. Return the other files."""
    others = []
    suffix = _normalize(suffix)
    for name in names:
        stem = _normalize(PurePath(name).stem)
        if _type_of(name) in types and stem.endswith(suffix) and stem != suffix:
            found.setdefault(stem.removesuffix(suffix), []).append(name)
        else:
            others.append(name)
    return others


def _normalize(name: str) -> str:
    """Return a name that can be compared and printed. macOS stores ü as two characters, other systems as one."""
    name = unicodedata.normalize("NFC", name.encode(errors="surrogateescape").decode(errors="replace"))
    return shown(name)  # image ids are shown in tables, log lines and the model card


def _tell(ignored: list[str], files: Files, names: Sequence[str], what: str) -> None:
    """Add a sentence with the number of files and the first names to `ignored`, if there are any."""
    if names:
        ignored.append(f"{files}: {len(names)} {what}: {_format_first(names)}")


def _format_first(names: Sequence[str], count: int = 5) -> str:
    """Join the first names."""
    rest = ["..."] if len(names) > count else []
    return ", ".join([*map(_normalize, names[:count]), *rest])


def _format_names(names: Sequence[str]) -> str:
    """Join the names of files.

    >>> _format_names(["car.jpg", "car.png"])
    'car.jpg and car.png'
    """
    return " and ".join(map(_normalize, names)) or "none"


def _examine_image(files: Files, names: Sequence[str], problems: list[str]) -> decoding.Header | None:
    """Return the header, or None if it cannot be read. Append to `problems` what is wrong."""
    name = _single(names, "image", problems)
    if name is None:
        return None
    header = None
    path = _path(files, name)
    try:
        header = decoding.read_header(path)
        decoding.check_pixels(path)
    except decoding.UnusableImageError as error:
        problems.append(f"{_normalize(name)} {error}")
        return header
    if min(header.upright) < _SMALLEST_SIDE:
        height, width = header.upright
        problems.append(
            f"{_normalize(name)} is {width}x{height} pixels: the minimum is {_SMALLEST_SIDE} per side"
        )
    return header


def _examine_mask(
    files: Files,
    names: Sequence[str],
    image: decoding.Header | None,
    meaning: MaskValues,
    problems: list[str],
) -> float:
    """Return the mask's fraction of the pixels, or NaN if it cannot be read. Append to `problems` what is wrong."""
    name = _single(names, "mask", problems)
    if name is None:
        return float("nan")
    try:
        mask = read_mask(_path(files, name), meaning)
    except decoding.UnusableImageError as error:
        problems.append(f"{_normalize(name)} {error}")
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


def _single(names: Sequence[str], what: str, problems: list[str]) -> str | None:
    """Return the only name, or None. Append to `problems` if there are none or several."""
    if len(names) == 1:
        return names[0]
    problems.append(f"ambiguous: {_format_names(names)}" if names else f"the {what} is missing")
    return None


def _path(files: Files, name: str) -> Path:
    return files.paths([name])[0]


@contextmanager
def _opened(files: Files, name: str) -> Iterator[Path]:
    """Yield the path of a file. Turn an `UnusableImageError` of the block into a `UserError` that names the file."""
    try:
        yield _path(files, name)
    except decoding.UnusableImageError as error:
        raise UserError(f"{files.address(_normalize(name))} {error}. Replace or remove it.") from error
