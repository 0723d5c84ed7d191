"""Reads the images of a batch at the output size of a network."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana_kedro.errors import StoreError, UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import ImageReader, errors_naming
from carvana_kedro.stores.images.pixels import check_image

_MOST_BYTES = 16 * 2**20  # of an image that is left to the GPU to resize


class ImageBatch(NamedTuple):
    """The images of a batch.

    Attributes:
        ids: Their ids.
        images: (N, h, w, 3) uint8 at the output size. From `read_in_threads`: one (H, W, 3) per image, at the output
            size, or larger along one or both axes.
        sizes: (H, W) of the original images.
        problems: Why an image could not be read; an empty text if it could.
    """

    ids: list[str]
    images: Tensor | Sequence[Tensor]
    sizes: list[Size]
    problems: list[str]


class FittedImages:
    """Reads images, and fits them to the output size.

    Args:
        source: Reads the images.
        image_ids: Ids of the images.
        geometry: Fits them.
        allow_bad: Whether an image that cannot be read is replaced by a black one, instead of raising an error.
    """

    def __init__(
        self, source: ImageReader, image_ids: Sequence[str], geometry: Geometry, allow_bad: bool
    ) -> None:
        """Store the arguments; nothing is read."""
        self.source = source
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry
        self.allow_bad = allow_bad

    @property
    def image_nbytes(self) -> int:
        """Size of one image of a batch in bytes."""
        height, width = self.geometry.output_size
        return height * width * 3

    def read(self, positions: Iterable[int]) -> ImageBatch:
        """Read the images at the given positions.

        Raises:
            UserError: An image cannot be read, and bad ones are not allowed.
        """
        images = [self._read(position, self.geometry.fit_image) for position in positions]
        return _batch(images, torch.from_numpy(np.stack([image.pixels for image in images])))

    def read_in_threads(
        self, batches: Iterable[NDArray[np.int64]], num_threads: int, *, pin_memory: bool = False
    ) -> Generator[ImageBatch]:
        """Read batches in threads of this process, in order and some batches ahead.

        OpenCV and Pillow decode without the lock of the interpreter. Few images are read ahead: two per thread, and the
        rest of their batch. Images that only have to shrink are left as they are, for the GPU to resize them, which
        takes a core twice as long as decoding.

        Args:
            batches: Positions of the images of each batch.
            num_threads: Number of threads.
            pin_memory: Whether the batches are placed in pinned memory, which torch reuses as soon as a copy to the GPU
                has finished.

        Raises:
            UserError: An image cannot be read, and bad ones are not allowed.
        """
        parts = cv2.getNumThreads()  # of one image, which OpenCV would hand to threads of its own
        waiting: deque[list[Future[tuple[_Image, Tensor]]]] = deque()
        with ThreadPoolExecutor(num_threads, "images") as threads:
            try:
                cv2.setNumThreads(0)
                for positions in batches:
                    waiting.append(
                        [
                            threads.submit(self._read_tensor, number, pin_memory)
                            for number in positions.tolist()
                        ]
                    )
                    if sum(map(len, waiting)) - len(waiting[0]) >= 2 * num_threads:
                        yield _collected(waiting.popleft())
                while waiting:
                    yield _collected(waiting.popleft())
            finally:
                threads.shutdown(cancel_futures=True)
                cv2.setNumThreads(parts)

    def _read_tensor(self, position: int, pin_memory: bool) -> "tuple[_Image, Tensor]":
        image = self._read(position, self._fitted_if_necessary)
        tensor = torch.empty(image.pixels.shape, dtype=torch.uint8, pin_memory=pin_memory)
        tensor.numpy()[:] = image.pixels
        return image._replace(pixels=tensor.numpy()), tensor

    def _fitted_if_necessary(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shrinks = all(np.greater_equal(pixels.shape[:2], self.geometry.output_size))
        return pixels if shrinks and pixels.nbytes <= _MOST_BYTES else self.geometry.fit_image(pixels)

    def _read(self, position: int, fit: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> "_Image":
        image_id = str(self.image_ids[position])
        try:
            with errors_naming(image_id):
                image = self.source.read_image(image_id, at_least=self.geometry.output_size)
                check_image(image)
                return _Image(image_id, fit(image), self.source.size(image_id), "")
        except UserError as error:
            if not self.allow_bad or isinstance(error, StoreError):
                raise
            size = self.geometry.output_size
            return _Image(image_id, np.zeros((*size, 3), np.uint8), size, str(error))


class _Image(NamedTuple):
    image_id: str
    pixels: NDArray[np.uint8]
    size: Size
    problem: str


def _batch(read: Sequence[_Image], images: Tensor | Sequence[Tensor]) -> ImageBatch:
    return ImageBatch(
        [image.image_id for image in read],
        images,
        [image.size for image in read],
        [image.problem for image in read],
    )


def _collected(jobs: Iterable[Future[tuple[_Image, Tensor]]]) -> ImageBatch:
    read, tensors = zip(*(job.result() for job in jobs), strict=True)
    return _batch(read, tensors)
