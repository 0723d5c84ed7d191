"""Batches of images and targets, epoch by epoch."""

from collections.abc import Iterator

import numpy as np

from carvana_kedro.segmentation.data.reader import Reader
from carvana_kedro.segmentation.data.samples import Batch, CachedSamples, Samples


class Batches:
    """Batches of images and targets, epoch by epoch.

    The order is a function of (seed, epoch) alone: nothing has to be remembered to go on in the middle of a run.
    A seed means training: shuffled, and an incomplete last batch is left out, unless it is the only one.

    Args:
        samples: what to read.
        batch_size: images in a batch.
        seed: of the shuffling; None keeps the order and every image.
        num_workers: processes that read; 0 reads in this one.
        pin_memory: whether a batch lies where a GPU can fetch it while it computes.
    """

    def __init__(
        self,
        samples: Samples | CachedSamples,
        batch_size: int,
        *,
        seed: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Nothing is read yet."""
        self.image_ids = samples.image_ids
        self.batch_size = batch_size
        self.seed = seed
        # What lies in memory is sooner copied than handed over by another process.
        here = isinstance(samples, CachedSamples) and samples.in_memory
        self._reader = Reader(
            samples.read, samples.image_ids, 0 if here else num_workers, pin_memory=pin_memory
        )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.image_ids), self.batch_size)
        return full if self._drops_last else full + bool(rest)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on; this ends an epoch that is still under way.

        Raises:
            UserError: an image cannot be read, or a worker was killed.
        """
        order = np.arange(len(self.image_ids))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        size = self.batch_size
        return self._reader([order[size * batch : size * (batch + 1)] for batch in range(start, len(self))])

    @property
    def images(self) -> int:
        """Number of images in an epoch."""
        return len(self) * self.batch_size if self._drops_last else len(self.image_ids)

    @property
    def _drops_last(self) -> bool:
        return self.seed is not None and len(self.image_ids) >= self.batch_size
