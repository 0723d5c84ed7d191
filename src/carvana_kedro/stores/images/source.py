"""What every store of images offers, and what an index says of one image."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np


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
