"""Reads the images of a batch at the output size of a network."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import ImageReader, errors_naming


class FittedBatch(NamedTuple):
    """The images of a batch.

    Attributes:
        ids: Their ids.
        fitted: (N, h, w, 3) uint8 at the output size.
        sizes: (H, W) of the original images.
        problems: Why an image could not be read; an empty text if it could.
    """

    ids: list[str]
    fitted: Tensor
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

    def read(self, positions: Iterable[int]) -> FittedBatch:
        """Read the images at the given positions.

        Raises:
            UserError: An image cannot be read, and bad ones are not allowed.
        """
        images = [self._read(position) for position in positions]
        return _batch(images, torch.from_numpy(np.stack([image.fitted for image in images])))

    def read_in_threads(
        self, batches: Iterable[NDArray[np.int64]], num_threads: int, *, pin_memory: bool = False
    ) -> Iterator[FittedBatch]:
        """Read batches in threads of this process, in order and some batches ahead.

        OpenCV and Pillow decode without the lock of the interpreter. Few images are read ahead: two per thread, and the
        rest of their batch.

        Args:
            batches: Positions of the images of each batch.
            num_threads: Number of threads.
            pin_memory: Whether the batches are placed in pinned memory, which torch reuses as soon as a copy to the GPU
                has finished.

        Raises:
            UserError: An image cannot be read, and bad ones are not allowed.
        """
        parts = cv2.getNumThreads()  # of one image, which OpenCV would hand to threads of its own
        waiting: deque[tuple[Tensor, list[Future[_Image]]]] = deque()
        with ThreadPoolExecutor(num_threads, "images") as threads:
            try:
                cv2.setNumThreads(0)
                for positions in batches:
                    shape = (len(positions), *self.geometry.output_size, 3)
                    fitted = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
                    jobs = [
                        threads.submit(self._read_into, position, place)
                        for position, place in zip(positions.tolist(), fitted.numpy(), strict=True)
                    ]
                    waiting.append((fitted, jobs))
                    ahead = sum(len(jobs) for _, jobs in waiting) - len(waiting[0][1])
                    if ahead >= 2 * num_threads:
                        yield _collected(*waiting.popleft())
                while waiting:
                    yield _collected(*waiting.popleft())
            finally:
                threads.shutdown(cancel_futures=True)
                cv2.setNumThreads(parts)

    def _read_into(self, position: int, place: NDArray[np.uint8]) -> "_Image":
        image = self._read(position)
        place[:] = image.fitted
        return image._replace(fitted=place)

    def _read(self, position: int) -> "_Image":
        image_id = str(self.image_ids[position])
        try:
            with errors_naming(image_id):
                image = self.source.read_image(image_id, at_least=self.geometry.output_size)
                return _Image(image_id, self.geometry.fit_image(image), self.source.size(image_id), "")
        except UserError as error:
            if not self.allow_bad:
                raise
            size = self.geometry.output_size
            return _Image(image_id, np.zeros((*size, 3), np.uint8), size, str(error))


class _Image(NamedTuple):
    image_id: str
    fitted: NDArray[np.uint8]
    size: Size
    problem: str


def _batch(images: Sequence[_Image], fitted: Tensor) -> FittedBatch:
    ids, _, sizes, problems = zip(*images, strict=True)
    return FittedBatch(list(ids), fitted, list(sizes), list(problems))


def _collected(fitted: Tensor, jobs: Iterable[Future[_Image]]) -> FittedBatch:
    return _batch([job.result() for job in jobs], fitted)
