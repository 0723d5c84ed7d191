"""Batches of images and targets, one epoch after another."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from carvana_kedro.segmentation.data.reader import Reader
from carvana_kedro.segmentation.data.samples import Batch, CachedSamples, Samples

Deal = Callable[[list[NDArray[np.int64]]], list[NDArray[np.int64]]]
"""From the batches of an epoch, arrays of positions, to those that one of several processes reads: see `Batches`."""


class Batches:
    """Batches of images and targets, one epoch after another.

    The order of an epoch depends only on the seed and the number of the epoch, so resuming in the middle of an epoch
    needs no stored state. With a seed, for training, images are shuffled, and an incomplete last batch is dropped
    unless it is the only one.

    Args:
        samples: Images and targets to read.
        batch_size: Number of images per batch.
        seed: Seed of the shuffling; None keeps the order and every image.
        num_workers: Number of processes that read images; 0 reads in this process. Samples that are cached in memory
            are always taken from there in this process: that is faster than to receive them from another one.
        pin_memory: Whether batches are placed in pinned memory, which speeds up the copy to a GPU.
        deal: With several processes, returns what this one takes of an epoch's batches: some of them, or a part of
            each.
    """

    def __init__(
        self,
        samples: Samples | CachedSamples,
        batch_size: int,
        *,
        seed: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        deal: Deal | None = None,
    ) -> None:
        """Store the arguments; reading starts with `epoch`."""
        self.image_ids = samples.image_ids
        self.batch_size = batch_size
        self.seed = seed
        self._deal = deal
        self._read: Callable[[Sequence[NDArray[np.int64]]], Iterator[Batch]]
        if isinstance(samples, CachedSamples) and samples.in_memory:
            self._read = partial(map, partial(samples.read, pin_memory=pin_memory))
        else:
            self._read = Reader(
                samples.read,
                samples.image_ids,
                num_workers,
                image_nbytes=samples.image_nbytes,
                pin_memory=pin_memory,
            )

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        full, rest = divmod(len(self.image_ids), self.batch_size)
        return full if self._drops_last else full + bool(rest)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, or what `deal` takes of them.

        Starting an epoch ends the one that is still being decoded.

        Args:
            number: Number of the epoch, at least 0; it determines the order.
            start: Index of the first batch to yield, for resuming in the middle of an epoch.

        Yields:
            Positions `(N,)` of the images in the data set, int64 on the CPU; images `(N, h, w, 3)` uint8 and targets
            `(N, h, w)` uint8: on the device that keeps them, otherwise on the CPU.

        Raises:
            UserError: An image cannot be read, or a worker process was killed.
        """
        order = np.arange(len(self.image_ids))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        size = self.batch_size
        batches = [order[size * batch : size * (batch + 1)] for batch in range(start, len(self))]
        return self._read(self._deal(batches) if self._deal else batches)

    @property
    def images(self) -> int:
        """Number of images per epoch."""
        return len(self) * self.batch_size if self._drops_last else len(self.image_ids)

    @property
    def _drops_last(self) -> bool:
        return self.seed is not None and len(self.image_ids) >= self.batch_size
