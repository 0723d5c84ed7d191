"""The competition's images and masks in their folders."""

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from carvana_kedro.errors import UserError
from carvana_kedro.stores.digests import Digests, fingerprint
from carvana_kedro.stores.images import decoding
from carvana_kedro.stores.images.kept_masks import KeptMasks
from carvana_kedro.stores.images.source import ImageRecord, examine_all

IMAGE_ID = "([0-9a-f]{12})_(0[1-9]|1[0-6])"
"""Pattern of an image id: the car, and one of its 16 views."""

_NAME = re.compile(IMAGE_ID)
# Exceptions of Pillow for damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class ImageStore:
    """The images of one side of the competition, and their masks if there are any.

    Construction opens no file. Instances can be pickled and sent to worker processes. Damage in the middle of a jpg is
    not detected: decoders fill such areas without an error.

    Attributes:
        images: folder of `<car>_<view>.jpg`.
        masks: folder of `<car>_<view>_mask.gif`, or None on the test side.
        expected: ids of the images that must exist, in the order of `sample_submission.csv`. None: no such list.
        mask_runs: path of `train_masks.csv`, plain or zipped, which holds the masks as run lengths too. None: no such
            file.
        digests: digests of the files. Beside the file that remembers them, the folder `masks` keeps decoded masks.
    """

    one_size: ClassVar[bool] = True

    images: Path
    masks: Path | None = None
    expected: tuple[str, ...] | None = None
    mask_runs: Path | None = None
    digests: Digests = field(default_factory=Digests, compare=False, repr=False)

    def ids(self) -> list[str]:
        """Return the ids of the existing images, sorted."""
        return sorted(path.stem for path in self.images.glob("*.jpg"))

    def fingerprint(self) -> str:
        """Return a short hash of the names and contents of all images and masks, and of `expected`.

        It identifies the source, wherever its folders are. Files are read if they are new or changed: see `Digests`.
        """
        files = [*self.images.glob("*.jpg"), *(self.masks.glob("*_mask.gif") if self.masks else ())]
        contents = zip(files, self.digests.of(files), strict=True)
        facts = [(file.suffix, file.name, digest) for file, digest in contents]
        return fingerprint([*facts, ("expected", repr(self.expected))])

    def digests_of(self, image_ids: Sequence[str]) -> list[str]:
        """Return the digest of each image file, or "" if it cannot be read: see `Digests`."""
        return self.digests.of([self.image_path(image_id) for image_id in image_ids])

    def image_path(self, image_id: str) -> Path:
        """Return the path of the image."""
        return self.images / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Return the path of the mask.

        Raises:
            UserError: this side has no masks.
        """
        if self.masks is None:
            raise UserError(f"The images in {self.images} have no masks.")
        return self.masks / f"{image_id}_mask.gif"

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the (height, width) of the image, from its header."""
        with Image.open(self.image_path(image_id)) as opened:
            return opened.height, opened.width

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return the image, (H, W, 3) uint8 RGB.

        Args:
            image_id: id of the image.
            at_least: required (height, width). If the result is nearly the same, the image is decoded at 1/2, 1/4 or
                1/8 of its size, which takes less time. None: full size.

        Raises:
            UserError: the file is missing or cannot be decoded.
        """
        path = self.image_path(image_id)
        content = _read(path)
        try:
            # Image and mask are both used as stored: EXIF orientation is ignored.
            image = decoding.decode(content, at_least and self.size(image_id), at_least)
        except _UNREADABLE:
            image = None
        if image is None:
            raise UserError(f"{path} cannot be decoded as an image. Download it again, or remove it.")
        return image

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the mask, (H, W) uint8 with values 0 and 1.

        Raises:
            UserError: the file is missing, cannot be decoded, or has colors other than black and white.
        """
        path = self.mask_path(image_id)
        return self._kept_masks.mask_of(_read(path), partial(_decode_mask, path))

    @cached_property
    def _kept_masks(self) -> KeptMasks:
        memory = self.digests.memory
        decoder = hashlib.sha256(Path(__file__).read_bytes() + PIL.__version__.encode()).digest()
        return KeptMasks(memory and memory.with_name("masks"), decoder)

    def examine(self) -> Iterator[ImageRecord]:
        """Yield a record for every image that exists or should exist, in order, with its problems.

        Of images, only the header and the end of the file are read, once the digest is known. Masks are decoded, in
        threads. If there are masks, two images with the same bytes are a problem: they could be on different sides of
        the split.
        """
        present = self.ids()
        wanted = list(self.expected) if self.expected is not None else present
        if self.masks is not None:
            wanted = sorted(
                {*wanted, *(path.stem.removesuffix("_mask") for path in self.masks.glob("*.gif"))}
            )
        known = set(wanted)
        image_ids = wanted + [image_id for image_id in present if image_id not in known]
        digests = dict(zip(present, self.digests_of(present), strict=True))
        examine = partial(self._examine, digests)
        has_masks = self.masks is not None
        # Reading a header takes less time than handing it to a thread.
        for record in examine_all(examine, image_ids, in_threads=has_masks, unique=has_masks):
            if record.image not in known:
                record.problems.append("not in sample_submission.csv")
            yield record

    def _examine(self, digests: Mapping[str, str], image_id: str) -> ImageRecord:
        match = _NAME.fullmatch(image_id)
        problems = [] if match else ["the name is not <12 hex digits>_<01..16>"]
        car, view = (match[1], int(match[2])) if match else (image_id, 0)
        width = height = 0
        area = float("nan")
        path = self.image_path(image_id)
        try:
            if path.exists() and not path.is_file():
                raise OSError("not a regular file; opening a pipe would block")
            with path.open("rb") as file:
                width, height = Image.open(file).size
                file.seek(-2, 2)
                if file.read(2) != _JPEG_END:
                    problems.append("the image is truncated")
        except FileNotFoundError:
            problems.append("the image is missing")
        except _UNREADABLE:
            problems.append("the image cannot be read")
        if self.masks is not None:
            try:
                mask = self.read_mask(image_id)
                area = cv2.countNonZero(mask) / mask.size
                if width and mask.shape != (height, width):
                    problems.append(
                        f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {width}x{height}"
                    )
            except UserError:
                exists = self.mask_path(image_id).is_file()
                problems.append(
                    "the mask cannot be read or is not black and white" if exists else "the mask is missing"
                )
        return ImageRecord(image_id, car, view, width, height, area, problems, digests.get(image_id, ""))


def _decode_mask(path: Path, content: bytes) -> np.ndarray:
    """Return the mask, (H, W) uint8 with values 0 and 1, from the content of the file `path`.

    Raises:
        UserError: it cannot be decoded, or has colors other than black and white.
    """
    try:
        with Image.open(BytesIO(content)) as opened:
            if opened.mode == "P":  # Kaggle's masks. Mapping the palette takes half the time of converting.
                colors = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
                pixels = np.asarray(opened)
            else:
                colors = np.arange(256, dtype=np.uint8)[:, None]
                pixels = _gray_levels(opened)
    except _UNREADABLE as error:
        # Pillow's message names the object that it reads from.
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{path} cannot be decoded as a mask ({reason}). Download it again.") from error
    levels = np.full(256, 2, np.uint8)  # 2 for colors other than black and white
    levels[: len(colors)] = np.select([(colors == 0).all(1), (colors == 255).all(1)], [0, 1], 2)
    mask = cv2.LUT(pixels, levels)
    if mask.max(initial=0) > 1:
        raise UserError(f"{path} is not a mask: it has colors other than black and white.")
    if mask.min() == mask.max() and pixels.min() != pixels.max():
        raise UserError(f"{path} is not a mask: its palette has one color for different values.")
    return np.asarray(mask, np.uint8)


def _gray_levels(image: Image.Image) -> np.ndarray:
    """Return (H, W) uint8: the levels of a gray image of 8 bits.

    Raises:
        ValueError: the image has colors, or more than 8 bits.
    """
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"its mode is {image.mode}, not gray")
    channels = np.asarray(image)[..., :3]
    if (channels != channels[..., :1]).any():
        raise ValueError("it has colors other than black and white")
    return np.ascontiguousarray(channels[..., 0])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
