"""The interface of image sources, and the record of one image."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from carvana_kedro.stores.images.files import FilesInStore

_WINDOW = 1024


@dataclass(frozen=True)
class ImageRecord:
    """The facts about one image.

    Attributes:
        image: id of the image.
        car: group of the image. Images of one group stay on one side of the split.
        view: number of the view, 0 if it is unknown.
        width: in pixels, 0 if the image cannot be read.
        height: in pixels, 0 if the image cannot be read.
        mask_area: the mask's fraction of the image's pixels. NaN without a readable mask.
        problems: what is wrong with the image or its mask. Empty if it can be used.
        digest: digest of the image file, see `Digests`. Empty if the file cannot be read.
    """

    image: str
    car: str
    view: int
    width: int = 0
    height: int = 0
    mask_area: float = float("nan")
    problems: list[str] = field(default_factory=list)
    digest: str = ""


def examine_all(
    examine: Callable[[str], ImageRecord], image_ids: Sequence[str], *, in_threads: bool, unique: bool
) -> Iterator[ImageRecord]:
    """Yield the record of every image, in order.

    Images are examined in windows, so that memory does not grow with their number.

    Args:
        examine: returns the record of one image.
        image_ids: which images.
        in_threads: examine several images of a window at once.
        unique: an image with the bytes of an earlier one gets a problem.
    """
    first_with: dict[str, str] = {}
    with ThreadPoolExecutor() as executor:
        spread = executor.map if in_threads else map
        for start in range(0, len(image_ids), _WINDOW):
            for record in spread(examine, image_ids[start : start + _WINDOW]):
                first = first_with.setdefault(record.digest, record.image)
                if unique and record.digest and first != record.image:
                    record.problems.append(f"a duplicate of {first}")
                yield record


class ImageSource(Protocol):
    """Images by id, and their masks if there are any."""

    one_size: ClassVar[bool]
    """Whether all images with masks have the same size."""

    @property
    def images(self) -> Path | FilesInStore:
        """The folder of images. `str()` shows its path or address."""

    @property
    def masks(self) -> Path | FilesInStore | None:
        """The folder of masks, or None."""

    def ids(self) -> list[str]:
        """Return the ids of the existing images, sorted."""

    def fingerprint(self) -> str:
        """Return a short hash of all that decides the index of the source: names and contents of images and masks."""

    def digests_of(self, image_ids: Sequence[str]) -> list[str]:
        """Return the digest of each image file: see `Digests`."""

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the (height, width) of the image, without decoding it."""

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return the image, (H, W, 3) uint8 RGB.

        With `at_least`, a (height, width), the image may be decoded at a reduced size, which takes less time. It is
        at least this size, unless the image itself is smaller.
        """

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the mask, (H, W) uint8 with values 0 and 1."""

    def examine(self) -> Iterator[ImageRecord]:
        """Yield a record for every image that exists or should exist, with its problems."""
