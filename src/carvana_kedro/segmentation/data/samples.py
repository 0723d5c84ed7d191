"""Images and targets at a network's output size: read when asked, or read once and kept."""

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]
"""Positions (N,) int64, images (N, h, w, 3) uint8 and targets (N, h, w) uint8, 255 for all car."""


class ImageReader(Protocol):
    """What reads photographs and masks."""

    def size(self, image_id: str) -> Size:
        """Return the photograph's own (height, width)."""

    def read_image(self, image_id: str, at_least: Size | None = None) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, perhaps a smaller picture that is still good for `at_least`."""

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return (H, W) uint8 of 0 and 1."""


class Rows(Protocol):
    """An array (n, k) uint8, or what can be indexed like one."""

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        """Return some of it."""


Fill = Callable[[NDArray[np.uint8]], None]
Keep = Callable[[str, tuple[int, int], Fill], Rows]
"""`keep(key, shape, fill)` returns rows of this shape that `fill` has filled, now or earlier under the same key."""


class Samples:
    """Images and targets at a network's output size, read when asked.

    Args:
        source: where they are read.
        image_ids: which, in this order.
        geometry: what they are fitted to.
    """

    def __init__(self, source: ImageReader, image_ids: Sequence[str], geometry: Geometry) -> None:
        """Nothing is read yet."""
        self.source = source
        # A list's strings would be copied to every worker, page by page, as it counts its references to them.
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read one image (h, w, 3) uint8 and its target (h, w) uint8.

        Raises:
            UserError: one of them cannot be read.
        """
        image_id = str(self.image_ids[position])
        with naming(image_id):
            image = self.source.read_image(image_id, at_least=self.geometry.output_size)
            mask = self.source.read_mask(image_id)
            return self.geometry.fit_image(image), self.geometry.fit_mask(mask)

    def read(self, positions: Iterable[int]) -> Batch:
        """Read a batch, one image after the other.

        Raises:
            UserError: an image or a mask cannot be read.
        """
        order, images, targets = zip(*((position, *self[position]) for position in positions), strict=True)
        return torch.tensor(order), torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))

    @property
    def nbytes(self) -> int:
        """Bytes that all images and targets take."""
        height, width = self.geometry.output_size
        return len(self) * height * width * 4


def in_memory(key: str, shape: tuple[int, int], fill: Fill) -> NDArray[np.uint8]:
    """Keep pixels in this process."""
    rows = np.empty(shape, np.uint8)
    fill(rows)
    return rows


class CachedSamples:
    """Samples that are all read beforehand and kept, decoded and resized.

    Args:
        samples: what to read.
        keep: what keeps them: a row for each, its image before its target. A file's key need only name the source.

    Raises:
        UserError: an image or a mask cannot be read.
    """

    def __init__(self, samples: Samples, keep: Keep = in_memory) -> None:
        """Read what is not kept yet, in threads: OpenCV and Pillow decode outside Python's lock."""
        self.image_ids = samples.image_ids
        self._size = samples.geometry.output_size
        logger.info("Keeping %d images decoded: %.1f MB", len(samples), samples.nbytes / 1e6)
        height, width = self._size
        which = repr((self._size, self.image_ids.tolist()))
        key = hashlib.sha256(which.encode(errors="surrogatepass")).hexdigest()[:16]
        self._rows = keep(key, (len(samples), height * width * 4), partial(_fill, samples))
        self._places = np.arange(len(samples))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def subset(self, image_ids: Sequence[str]) -> Self:
        """Return some of the samples, in this order, kept where they are."""
        place_of = {image_id: place for place, image_id in enumerate(self.image_ids.tolist())}
        part = copy.copy(self)
        part.image_ids = np.array(image_ids, dtype=np.str_)
        part._places = self._places[[place_of[image_id] for image_id in image_ids]]
        return part

    def read(self, positions: Iterable[int]) -> Batch:
        """Return a batch."""
        order = np.fromiter(positions, np.int64)
        places = self._places[order]
        height, width = self._size
        end = height * width * 3
        images = self._rows[places, :end].reshape(-1, height, width, 3)
        targets = self._rows[places, end:].reshape(-1, height, width)
        return torch.from_numpy(order), torch.from_numpy(images), torch.from_numpy(targets)

    @property
    def in_memory(self) -> bool:
        """Whether they lie in this process."""
        return isinstance(self._rows, np.ndarray)


@contextmanager
def naming(image_id: str) -> Iterator[None]:
    """Turn what goes wrong while an image is read into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{image_id} cannot be read: {type(error).__name__}: {error}") from error


def _fill(samples: Samples, rows: NDArray[np.uint8]) -> None:
    def read(position: int) -> None:
        image, target = samples[position]
        rows[position, : image.size] = image.ravel()
        rows[position, image.size :] = target.ravel()

    count = len(samples)
    with ThreadPoolExecutor() as threads:
        done = threads.map(read, range(count))
        for _ in tqdm(done, "Decoding", count, unit=" images", leave=False, disable=None):
            pass
