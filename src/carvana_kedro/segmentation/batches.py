"""From stored photographs to batches of tensors."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carvana_kedro.segmentation.geometry import Geometry

logger = logging.getLogger(__name__)

Sample = tuple[int, np.ndarray, np.ndarray]
"""Its position, the image (h, w, 3) uint8 and the target (h, w) uint8, 255 for all car."""


class ImageSource(Protocol):
    """What reads photographs and masks."""

    def read_image(self, image_id: str) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB."""

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return (H, W) uint8 of 0 and 1."""


class Samples(Dataset[Sample]):
    """Images and targets at a network's output size, read when asked."""

    def __init__(self, source: ImageSource, image_ids: Sequence[str], geometry: Geometry) -> None:
        """Nothing is read yet."""
        self.source = source
        self.image_ids = list(image_ids)
        self.geometry = geometry

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> Sample:
        """Read one image and its mask."""
        image_id = self.image_ids[position]
        image = self.geometry.fit_image(self.source.read_image(image_id))
        return position, image, self.geometry.fit_mask(self.source.read_mask(image_id))


class CachedSamples(Dataset[Sample]):
    """Samples that were all read beforehand and stay in memory."""

    def __init__(self, samples: Samples) -> None:
        """Read everything, in threads: OpenCV and Pillow decode outside Python's lock."""
        height, width = samples.geometry.output_size
        count = len(samples)
        logger.info("Keeping %d images in memory: %.1f MB", count, count * height * width * 4 / 1e6)
        self.image_ids = samples.image_ids
        self._images = np.empty((count, height, width, 3), np.uint8)
        self._targets = np.empty((count, height, width), np.uint8)

        def read(position: int) -> None:
            _, self._images[position], self._targets[position] = samples[position]

        with ThreadPoolExecutor() as threads:
            for _ in threads.map(read, range(count)):
                pass

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> Sample:
        """Return one image and its target."""
        return position, self._images[position], self._targets[position]


class Batches:
    """Batches of (positions (N,), images (N, h, w, 3) uint8, targets (N, h, w) uint8), epoch by epoch.

    The order is a function of (seed, epoch) alone: nothing has to be remembered to go on in the middle of a run.
    A seed means training: shuffled, and an incomplete last batch is left out, unless it is the only one.

    Args:
        samples: what to read.
        batch_size: images in a batch.
        seed: of the shuffling; None keeps the order and every image.
        workers: processes that read; 0 reads in this one.
    """

    def __init__(
        self, samples: Samples | CachedSamples, batch_size: int, *, seed: int | None = None, workers: int = 0
    ) -> None:
        """Nothing is read yet."""
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        # What lies in memory is not worth a process, which would get a copy of it all.
        self.workers = 0 if isinstance(samples, CachedSamples) else workers

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.samples), self.batch_size)
        return full if self._drops_last else full + bool(rest)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of an epoch."""
        order = np.arange(len(self.samples))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        yield from DataLoader(
            self.samples,
            batch_size=self.batch_size,
            sampler=order.tolist(),
            num_workers=self.workers,
            drop_last=self._drops_last,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def images(self) -> int:
        """Number of images in an epoch."""
        return len(self) * self.batch_size if self._drops_last else len(self.samples)

    @property
    def _drops_last(self) -> bool:
        return self.seed is not None and len(self.samples) >= self.batch_size
