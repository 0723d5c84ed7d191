"""The prediction for one image."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.prediction.batch_edges import Found
from carvana_kedro.segmentation.prediction.cutouts import alpha_of
from carvana_kedro.segmentation.prediction.doubt import doubts
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.processes import map_in_threads

T = TypeVar("T")

_PIXELS = 100_000_000  # of all images in progress: their arrays take about 20 bytes per pixel


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image. Its logits stay on the device, and are enlarged to the image's size on demand.

    Several threads may ask at once. On a GPU, the predictions of `Predictor.predict` do not wait for the next batch.

    Attributes:
        image_id: Id of the image.
        size: (H, W) of the image.
        logits: (h, w) float32 at the network's output size.
        geometry: Geometry of the network.
        problem: Why the image could not be read, in which case its mask is empty; otherwise an empty text.
        found: What was found together with the other images of the batch; None: nothing yet.
    """

    image_id: str
    size: Size
    logits: Tensor
    geometry: Geometry
    problem: str = ""
    found: Found | None = None

    def probabilities(self) -> NDArray[np.float32]:
        """Return the probability that a pixel belongs to the car, (H, W) float32.

        Raises:
            UserError: The logits are not finite.
        """
        with self.computing():
            probabilities: NDArray[np.float32] = self.enlarged().sigmoid().cpu().numpy()
        return probabilities

    def mask(self, threshold: float) -> NDArray[np.bool_]:
        """Return where the probability exceeds the threshold, (H, W) bool.

        The logits are enlarged to the image's size before they are compared with the threshold. This keeps the subpixel
        position of the mask's edge.

        Raises:
            UserError: The threshold is not in (0, 1), or the logits are not finite.
        """
        with self.computing():
            mask: NDArray[np.bool_] = self._exceeding(threshold).cpu().numpy()
        return mask

    def alpha(self, mask: NDArray[np.bool_], threshold: float) -> NDArray[np.float32]:
        """Return the alpha channel of the cut-out: see `alpha_of`.

        Args:
            mask: (H, W) bool, of this threshold; postprocessing may have changed it.
            threshold: On the probability.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            UserError: The logits are not finite.
        """
        return alpha_of(self.probabilities(), mask, threshold)

    def edges(self, threshold: float) -> NDArray[np.int64]:
        """Return the edges of the mask's runs: see `run_lengths.find_edges`.

        On a GPU they are computed there: copying 6 kB of edges is faster than copying a mask of 2.5 MB. If this is the
        threshold that `Predictor.predict` was given, they are already there.

        Raises:
            UserError: The threshold is not in (0, 1), or the logits are not finite.
        """
        if self.found and self.found.edges is not None and self.found.threshold == threshold:
            self._require_finite()
            return self.found.edges
        with self.computing():
            mask = self._exceeding(threshold)
            if not mask.is_cuda:
                return run_lengths.find_edges(mask.cpu().numpy())
            pixels = torch.nn.functional.pad(mask.flatten(), (1, 1))
            edges: NDArray[np.int64] = (pixels[1:] != pixels[:-1]).nonzero()[:, 0].cpu().numpy()
        return edges

    def doubt(self) -> float:
        """Return how unsure the network is of the mask, in pixels of its output: see `doubts`."""
        if self.found:
            return self.found.doubt
        with self.computing():
            return doubts(self.logits[None]).item()

    def enlarged(self) -> Tensor:
        """Return the logits at the image's size, (H, W) float32, on the device. Use them within `computing`.

        Raises:
            UserError: The logits are not finite.
        """
        self._require_finite()
        return self.geometry.restore(self.logits[None], self.size)[0]

    def _exceeding(self, threshold: float) -> Tensor:
        check_threshold(threshold)
        return self.enlarged() > math.log(threshold / (1 - threshold))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, and on a GPU beside the next batch: both settings belong to a thread."""
        stream = self.found and self.found.stream
        with torch.inference_mode(), torch.cuda.stream(stream) if stream else nullcontext():
            yield

    def _require_finite(self) -> None:
        if not (self.found.is_finite if self.found else torch.isfinite(self.logits).all()):
            raise UserError(
                f"The network computes NaN or infinity{f' for {self.image_id}' if self.image_id else ''}: its weights "
                "are too large, because its training diverged. Use another checkpoint, or train again with a smaller "
                "learning rate: model_training.optimizer.learning_rate"
            )


def map_in_order(function: Callable[[Prediction], T], predictions: Iterable[Prediction]) -> Iterator[T]:
    """Yield the result of a function for every prediction, in order, computed in threads: see `map_in_threads`.

    In each of them, PyTorch computes with this one thread: on a CPU it would start as many threads again for each.
    """
    threads = torch.get_num_threads()
    try:
        yield from map_in_threads(
            function,
            predictions,
            size=lambda prediction: math.prod(prediction.size),
            limit=_PIXELS,
            prepare=partial(torch.set_num_threads, 1),
        )
    finally:
        torch.set_num_threads(threads)  # PyTorch gives later threads the number that was set last


def check_threshold(threshold: float) -> None:
    """Check that a threshold can be compared with probabilities.

    Raises:
        UserError: It is not in (0, 1).
    """
    if not 0 < threshold < 1:
        raise UserError(f"The threshold is a probability above 0 and below 1, not {threshold}.")
