"""What every store of images offers, and what an index says of one image."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

_WINDOW = 1024


@dataclass(frozen=True)
class ImageRecord:
    """What an index says of one image.

    `mask_area` is the mask's share of the picture's pixels, NaN where there is no readable mask; `problems`
    is empty for an image that can be used.
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
    examine: Callable[[str], ImageRecord], image_ids: Sequence[str], *, in_threads: bool
) -> Iterator[ImageRecord]:
    """Yield the record of every image, in order. An image with the bytes of an earlier one gets a problem.

    Images are examined in windows, so that memory does not grow with their number.

    Args:
        examine: returns the record of one image. `digest` is empty where duplicates do not matter.
        image_ids: which images.
        in_threads: examine several images of a window at once.
    """
    first_with: dict[str, str] = {}
    with ThreadPoolExecutor() as executor:
        spread = executor.map if in_threads else map
        for start in range(0, len(image_ids), _WINDOW):
            for record in spread(examine, image_ids[start : start + _WINDOW]):
                first = first_with.setdefault(record.digest, record.image) if record.digest else record.image
                if first != record.image:
                    record.problems.append(f"the same photograph as {first}")
                yield record


class ImageSource(Protocol):
    """What every source gives: photographs by id, and their masks where it has them."""

    one_size: ClassVar[bool]
    """Whether images that have masks are all of one size."""

    @property
    def images(self) -> Path:
        """The folder of images."""

    @property
    def masks(self) -> Path | None:
        """The folder of masks."""

    def ids(self) -> list[str]:
        """Return the ids of the images that are there, sorted."""

    def fingerprint(self) -> str:
        """Return a short hash of the names and sizes of all images and masks."""

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the photograph's own (height, width), without decoding it."""

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return the photograph, (H, W, 3) uint8 RGB.

        With `at_least`, the (height, width) that it is needed at, it may come smaller, in less time.
        """

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the mask, (H, W) uint8 of 0 and 1."""

    def examine(self) -> Iterator[ImageRecord]:
        """Yield a record for every image that is there or should be, problems included."""
