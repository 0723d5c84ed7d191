"""Edges of the masks of a batch, found right behind its logits without waiting for the device.

A GPU works behind the program. A question such as "how many edges are there?" would stop the program until the GPU has
reached it. So everything here has a size that is known in advance.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.prediction.doubt import doubts

_MOST_BYTES = 64 * 2**20  # of the logits of such neighbors; a single image may need more
_EDGES_PER_ROW = 8  # on average over the images of a part. The mask of a car has about two.


class Found(NamedTuple):
    """What the program knows about an image without asking the device.

    Attributes:
        is_finite: Whether all logits of the image are finite.
        doubt: See `doubts`.
        threshold: Threshold of the edges; None if none were requested.
        edges: What `run_lengths.find_edges` returns for the mask at this threshold; None if it has too many edges.
        stream: A stream of the GPU for later questions, which then need not wait for the next batch.
    """

    is_finite: bool
    doubt: float
    threshold: float | None
    edges: NDArray[np.int64] | None
    stream: torch.cuda.Stream | None


class BatchEdges:
    """Edges of the masks of a batch. Creating the object starts the work; `wait` returns the result.

    On a GPU, the result is copied to pinned memory, and an event is recorded behind the copy: waiting for this batch
    does not wait for the next one.

    Args:
        logits: (N, h, w) float32 at the network's output size.
        sizes: (H, W) of each image. Neighbors of equal size are enlarged together.
        geometry: Geometry of the network.
        threshold: On the probability; None: no edges are found.
        stream: See `Found`.
    """

    @torch.inference_mode()
    def __init__(
        self,
        logits: Tensor,
        sizes: Sequence[Size],
        geometry: Geometry,
        threshold: float | None,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """Start the work on the device."""
        self._threshold = threshold
        self._stream = stream
        self._finite = _copied(torch.isfinite(logits).flatten(1).all(1))
        self._doubts = _copied(doubts(logits))
        self._parts: list[tuple[int, Size, Tensor]] = []
        if threshold is not None:
            for part, size in equal_neighbors(sizes):
                masks = geometry.restore(logits[part], size) > math.log(threshold / (1 - threshold))
                self._parts.append((len(masks), size, _copied(_counts_and_edges(masks))))
        self._ready = None
        if logits.device.type == "cuda":
            self._ready = torch.cuda.Event(
                blocking=True
            )  # waiting leaves the core to the threads that decode
            self._ready.record(torch.cuda.current_stream(logits.device))

    def wait(self) -> list[Found]:
        """Wait for the device, and return what was found for each image."""
        if self._ready:
            self._ready.synchronize()
        finite = self._finite.tolist()
        edges: list[NDArray[np.int64] | None] = [
            found for part in self._parts for found in _split(*part)
        ] or [None] * len(finite)
        return [
            Found(is_finite, doubt, self._threshold, found, self._stream)
            for is_finite, doubt, found in zip(finite, self._doubts.tolist(), edges, strict=True)
        ]


def equal_neighbors(sizes: Sequence[Size]) -> Iterator[tuple[slice, Size]]:
    """Yield slices of neighbors that have the same size and whose enlarged logits take few bytes.

    >>> list(equal_neighbors([(2, 3), (2, 3), (4, 4)]))
    [(slice(0, 2, None), (2, 3)), (slice(2, 3, None), (4, 4))]
    """
    start = 0
    for size, group in groupby(sizes):
        end = start + len(list(group))
        step = max(1, _MOST_BYTES // (4 * size[0] * size[1]))
        for first in range(start, end, step):
            yield slice(first, min(first + step, end)), size
        start = end


def _counts_and_edges(masks: Tensor) -> Tensor:
    """Return the number of edges of each mask, followed by their positions in the sequence of all masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N + `_EDGES_PER_ROW` N H,) int64: one tensor, for one copy to the host. Edges that do not fit are missing.
    """
    pixels = masks.flatten(1)
    outside = pixels.new_zeros(len(pixels), 1)
    changes = torch.diff(pixels, prepend=outside, append=outside)  # (N, H W + 1)
    size = _EDGES_PER_ROW * masks.shape[0] * masks.shape[1]
    return torch.cat([changes.sum(1), torch.nonzero_static(changes.flatten(), size=size)[:, 0]])


def _split(count: int, size: Size, found: Tensor) -> Iterator[NDArray[np.int64] | None]:
    """Yield the edges of each of `count` masks, or None if they did not fit."""
    counts, positions = np.split(found.numpy(), [count])
    ends = counts.cumsum()
    for number, (end, edges) in enumerate(zip(ends, counts, strict=True)):
        first = number * (size[0] * size[1] + 1)  # where this mask begins in the sequence
        yield positions[end - edges : end] - first if end <= len(positions) else None


def _copied(tensor: Tensor) -> Tensor:
    """Copy a tensor to the host without waiting. From a GPU, torch copies to pinned memory."""
    return tensor.to("cpu", non_blocking=True)
