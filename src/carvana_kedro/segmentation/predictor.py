"""From photographs to masks with a trained model."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork, build
from carvana_kedro.segmentation.batches import ImageSource, Reader, naming
from carvana_kedro.segmentation.geometry import Geometry, Size
from carvana_kedro.segmentation.hardware import choose_device, choose_precision, mixed_precision


class Predictor:
    """A network that is ready to predict.

    >>> from carvana_kedro.segmentation.architectures import build
    >>> predictor = Predictor(build("unet_small"), (64, 96), device="cpu")
    >>> predictor(np.zeros((100, 150, 3), np.uint8)).shape
    (100, 150)
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        input_size: tuple[int, int],
        *,
        threshold: float = 0.5,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> None:
        """Put a network on a device; `input_size` is (H, W), `threshold` what calls use if they name none."""
        self.threshold = threshold
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.geometry = Geometry.of(network, input_size)
        self.network = network.eval().to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def from_model(cls, model: Mapping[str, Any], **options: Any) -> Self:
        """Build a predictor from what training stored as `model`; `options` are those of the constructor.

        Raises:
            UserError: it is no such thing, or the weights do not fit the architecture they are said to be of.
        """
        missing = {"architecture", "width_multiplier", "input_size", "threshold", "weights"} - model.keys()
        if missing:
            raise UserError(f"This is not a model of ours: it lacks {', '.join(sorted(missing))}.")
        network = build(model["architecture"], width_multiplier=model["width_multiplier"])
        try:
            network.load_state_dict(model["weights"])
        except RuntimeError as error:
            raise UserError(f"The weights do not fit {model['architecture']}: {error}") from error
        height, width = model["input_size"]
        return cls(network, (height, width), threshold=model["threshold"], **options)

    def __call__(self, image: np.ndarray, threshold: float | None = None) -> np.ndarray:
        """Return the mask, (H, W) bool, of an image (H, W, 3) uint8 RGB of any size."""
        threshold = self.threshold if threshold is None else threshold
        (mask,) = self.masks([self.geometry.fit_image(image)], [image.shape[:2]], threshold)
        return mask

    @torch.inference_mode()
    def masks(
        self, fitted: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], threshold: float
    ) -> Iterator[np.ndarray]:
        """Yield the masks of a batch.

        The logits are up-sampled to the image's own size and *then* compared with the threshold: that keeps the edge
        between the network's pixels.

        Args:
            fitted: images at the geometry's output size, (h, w, 3) uint8.
            sizes: (H, W) of each image itself.
            threshold: on the probability, in (0, 1).

        Yields:
            (H, W) bool.
        """
        images = torch.from_numpy(np.stack(fitted)).to(self.device).permute(0, 3, 1, 2).float() / 255
        with mixed_precision(self.device, self.precision):
            logits = self.network(self.geometry.pad(images)).float()  # (N, h, w)
        for logit, size in zip(logits, sizes, strict=True):
            mask = self.geometry.restore(logit[None], size)[0] > math.log(threshold / (1 - threshold))
            yield mask.cpu().numpy()

    def predict(
        self,
        source: ImageSource,
        image_ids: Sequence[str],
        *,
        threshold: float = 0.5,
        batch_size: int = 8,
        workers: int = 0,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (image id, mask (H, W) bool) for every image, in order, a batch in memory at a time.

        Raises:
            UserError: an image cannot be read, or a worker was killed.
        """
        photographs = _Photographs(source, image_ids, self.geometry)
        on_gpu = self.device.type == "cuda"
        read = Reader(photographs.read, photographs.image_ids, workers, pin_memory=on_gpu)
        positions = np.arange(len(image_ids))
        for ids, fitted, sizes in read(
            [positions[start : start + batch_size] for start in range(0, len(image_ids), batch_size)]
        ):
            yield from zip(ids, self.masks(list(fitted.numpy()), sizes, threshold), strict=True)


class _Photographs:
    """Images fitted to the output size, and their own sizes."""

    def __init__(self, source: ImageSource, image_ids: Sequence[str], geometry: Geometry) -> None:
        self.source = source
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry

    def read(self, positions: Iterable[int]) -> tuple[list[str], Tensor, list[Size]]:
        ids, fitted, sizes = [], [], []
        for position in positions:
            image_id = str(self.image_ids[position])
            with naming(image_id):
                image = self.source.read_image(image_id, at_least=self.geometry.output_size)
                fitted.append(self.geometry.fit_image(image))
                sizes.append(self.source.size(image_id))
            ids.append(image_id)
        return ids, torch.from_numpy(np.stack(fitted)), sizes
