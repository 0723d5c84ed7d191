"""Images and targets at a network's output size, read on demand or cached."""

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
from carvana_kedro.segmentation.data.transfer import copy_async
from carvana_kedro.stores.machine import require_memory

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]
"""Positions `(N,)` int64, images `(N, h, w, 3)` uint8 RGB and targets `(N, h, w)` uint8, where 255 is fully car."""


class ImageReader(Protocol):
    """A source of images and masks."""

    def size(self, image_id: str) -> Size:
        """Return the original (height, width) of an image."""

    def read_image(self, image_id: str, at_least: Size | None = None) -> np.ndarray:
        """Return an image, `(H, W, 3)` uint8 RGB. With `at_least` it may be reduced, but not below that (H, W)."""

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return the mask of an image, `(H, W)` uint8 of 0 and 1."""


class Rows(Protocol):
    """An array `(n, k)` uint8, or an object that is indexed in the same way."""

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]:
        """Return the indexed part."""


class Fill(Protocol):
    """Writes the pixels of samples, one row per sample."""

    def __call__(self, rows: NDArray[np.uint8], first: int = 0, /) -> None:
        """Write the sample `first` and those after it into the rows of an array."""


Keep = Callable[[str, tuple[int, int], Fill], Rows | Tensor]
"""`keep(key, shape, fill)` returns rows of this shape, which `fill` wrote in this call or earlier for the same key."""


class Samples:
    """Images and targets at a network's output size, read on demand.

    Args:
        source: Source of the images and masks.
        image_ids: Ids of the images, in the order of their positions.
        geometry: Geometry whose output size images and masks are resized to.
    """

    def __init__(self, source: ImageReader, image_ids: Sequence[str], geometry: Geometry) -> None:
        """Store the arguments; nothing is read."""
        self.source = source
        # An array, not a list: reference counts of a list's strings would copy its memory pages into every worker.
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read an image and its target.

        Args:
            position: Index into `image_ids`.

        Returns:
            Image `(h, w, 3)` uint8 RGB and target `(h, w)` uint8, where 255 is fully car.

        Raises:
            UserError: The image or the mask cannot be read.
        """
        image_id = str(self.image_ids[position])
        with errors_naming(image_id):
            image = self.source.read_image(image_id, at_least=self.geometry.output_size)
            mask = self.source.read_mask(image_id)
            return self.geometry.fit_image(image), self.geometry.fit_mask(mask)

    def read(self, positions: Iterable[int]) -> Batch:
        """Read the images and targets at the given positions as a batch.

        Raises:
            UserError: An image or a mask cannot be read.
        """
        order, images, targets = zip(*((position, *self[position]) for position in positions), strict=True)
        return torch.tensor(order), torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))

    def subset(self, image_ids: Sequence[str]) -> "Samples":
        """Return the samples of some images, in the given order."""
        return Samples(self.source, image_ids, self.geometry)

    @property
    def image_nbytes(self) -> int:
        """Size of one image and its target in bytes."""
        height, width = self.geometry.output_size
        return height * width * 4

    @property
    def nbytes(self) -> int:
        """Size of all images and targets in bytes."""
        return len(self) * self.image_nbytes


def in_memory(key: str, shape: tuple[int, int], fill: Fill) -> Tensor:
    """Keep the rows in the memory of this process (a `Keep`).

    Raises:
        UserError: There is not enough memory.
    """
    require_memory(shape[0] * shape[1], "keeping the images in memory")
    rows = torch.empty(shape, dtype=torch.uint8)
    fill(rows.numpy())
    return rows


class CachedSamples:
    """Decoded and resized samples, all read once when the object is created.

    Args:
        samples: Samples to cache.
        keep: Where to keep them, one row per sample: the pixels of the image, then those of the target. The key that
            `keep` receives identifies the image ids and the output size, not the source of the images: a cache that
            outlives this process must add an identification of the source.

    Raises:
        UserError: An image or a mask cannot be read.
    """

    def __init__(self, samples: Samples, keep: Keep = in_memory) -> None:
        """Read the samples that are not in the cache yet."""
        self.image_ids = samples.image_ids
        self._size = samples.geometry.output_size
        logger.info("Caching %d decoded images: %.1f MB", len(samples), samples.nbytes / 1e6)
        self.image_nbytes = samples.image_nbytes
        contents = repr((self._size, self.image_ids.tolist()))
        key = hashlib.sha256(contents.encode(errors="surrogatepass")).hexdigest()[:16]
        self._rows = keep(key, (len(samples), self.image_nbytes), partial(_fill_rows, samples))
        self._row_numbers = np.arange(len(samples))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def subset(self, image_ids: Sequence[str]) -> Self:
        """Return the samples of some images, in the given order; the cache is shared, not copied."""
        row_of = {image_id: row for row, image_id in enumerate(self.image_ids.tolist())}
        part = copy.copy(self)
        part.image_ids = np.array(image_ids, dtype=np.str_)
        part._row_numbers = self._row_numbers[[row_of[image_id] for image_id in image_ids]]
        return part

    def read(self, positions: Iterable[int], *, pin_memory: bool = False) -> Batch:
        """Return the images and targets at the given positions as a batch, on the device where they are kept.

        Args:
            positions: Indices into `image_ids`.
            pin_memory: Whether to place the images and targets in pinned memory, for samples in the memory of this
                process.
        """
        order = np.fromiter(positions, np.int64)
        rows = self._row_numbers[order]
        if not isinstance(self._rows, Tensor):
            end = self._image_end
            images, targets = (
                torch.from_numpy(self._rows[rows, part]) for part in (slice(end), slice(end, None))
            )
            return torch.from_numpy(order), *self._unflatten(images, targets)
        index = copy_async(torch.from_numpy(rows), self._rows.device)
        if pin_memory and self._rows.device.type == "cpu":
            parts = [_select_pinned(part, index) for part in self._split(self._rows)]
            return torch.from_numpy(order), *self._unflatten(*parts)
        # Of four bytes at once: one operation of fewer and larger elements.
        gathered = self._rows.view(torch.int32).index_select(0, index).view(torch.uint8)
        return torch.from_numpy(order), *self._unflatten(*self._split(gathered))

    @property
    def in_memory(self) -> bool:
        """Whether the samples are in memory, that of this process or of a device."""
        return isinstance(self._rows, Tensor)

    @property
    def _image_end(self) -> int:
        height, width = self._size
        return height * width * 3

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows[:, : self._image_end], rows[:, self._image_end :]

    def _unflatten(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return images.unflatten(1, (*self._size, 3)), targets.unflatten(1, self._size)


def _select_pinned(rows: Tensor, index: Tensor) -> Tensor:
    # PyTorch gives pinned memory out again only after the copies from it have ended.
    out = torch.empty(len(index), rows.shape[1], dtype=rows.dtype, pin_memory=True)
    return torch.index_select(rows, 0, index, out=out)


@contextmanager
def errors_naming(image_id: str) -> Iterator[None]:
    """Convert any error inside the block to a `UserError` that names the image.

    Raises:
        UserError: The block raised an exception. A `UserError` is passed on unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{image_id} cannot be read: {type(error).__name__}: {error}") from error


def _fill_rows(samples: Samples, rows: NDArray[np.uint8], first: int = 0) -> None:
    """Read the samples from `first` on into rows `(n, h * w * 4)` uint8."""

    def read(number: int) -> None:
        image, target = samples[first + number]
        rows[number, : image.size] = image.ravel()
        rows[number, image.size :] = target.ravel()

    progress = partial(tqdm, desc="Decoding", unit=" images", leave=False, disable=None)
    with ThreadPoolExecutor() as threads:  # OpenCV and Pillow release the GIL while they decode
        for _ in progress(threads.map(read, range(len(rows))), total=len(samples), initial=first):
            pass
