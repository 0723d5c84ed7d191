"""Sizes and coordinates: from a photograph to what a network reads, and from its logits back again.

    photograph --fit--> output size --pad--> input size --network--> output size --restore--> photograph

The whole photograph is fitted to the network's *output*, and what a network of valid convolutions needs
around it is mirrored there (the overlap-tile strategy of Ronneberger et al. 2015, U-Net). So image, target
and logits line up pixel by pixel, whether a network keeps the size of its input or not.
Sizes are (height, width).
"""

from dataclasses import dataclass
from typing import Protocol, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

Size = tuple[int, int]


class Sized(Protocol):
    """A network that can tell the size of its logits."""

    def output_size(self, input_size: Size) -> Size:
        """Size of the logits for images of this size."""


@dataclass(frozen=True)
class Geometry:
    """How photographs of any size become the inputs and targets of one network.

    Attributes:
        input_size: (H, W) that the network reads.
        output_size: (h, w) of its logits, no larger; the rest is a margin, equal on opposite sides.

    Raises:
        ValueError: The margin is negative or odd.
    """

    input_size: Size
    output_size: Size

    def __post_init__(self) -> None:
        """Refuse sizes that leave no equal margins."""
        margins = [outer - inner for outer, inner in zip(self.input_size, self.output_size, strict=True)]
        if any(margin < 0 or margin % 2 for margin in margins):
            raise ValueError(f"No equal margins lead from {self.output_size} to {self.input_size}.")

    @classmethod
    def of(cls, network: Sized, input_size: Size) -> Self:
        """The geometry of a network at an input size.

        Raises:
            UserError: The network cannot take this size.
        """
        height, width = input_size
        return cls((height, width), network.output_size((height, width)))

    def fit_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a whole photograph to the output size, averaging over areas where it shrinks.

        Args:
            image: (H0, W0, 3) uint8.

        Returns:
            (h, w, 3) uint8.
        """
        return _resize(image, self.output_size)

    def fit_mask(self, mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a whole mask to the output size as a soft target: the share of each pixel that is covered.

        Args:
            mask: (H0, W0) bool, or uint8 in {0, 1}.

        Returns:
            (h, w) uint8, 0 for none of the pixel to 255 for all of it.
        """
        return _resize(np.multiply(mask, 255, dtype=np.uint8), self.output_size)

    def pad(self, images: Tensor) -> Tensor:
        """Mirror images at their borders up to the input size, the border pixels not repeated.

        Args:
            images: (N, C, h, w) of any dtype. Unlike in torch's own padding, the margin may exceed the image.

        Returns:
            (N, C, H, W), `images` in the center; `images` itself if there is no margin.
        """
        if self.input_size == self.output_size:
            return images
        rows, columns = (
            _mirrored(inner, outer, images.device)
            for inner, outer in zip(self.output_size, self.input_size, strict=True)
        )
        return images[:, :, rows[:, None], columns]

    def restore(self, logits: Tensor, size: Size) -> Tensor:
        """Resize logits to the photograph's size, bilinearly.

        To compare with the threshold only afterwards keeps the edge's place between the pixels.

        Args:
            logits: (N, h, w) floats.
            size: (H0, W0) of the photograph.

        Returns:
            (N, H0, W0) logits of the same dtype.
        """
        return interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _resize(picture: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    # OpenCV averages over areas only if both axes shrink: an axis that grows waits for a second, linear step.
    height, width = size
    smaller = min(width, picture.shape[1]), min(height, picture.shape[0])
    shrunk = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _mirrored(inner: int, outer: int, device: torch.device) -> Tensor:
    """Index into an axis of `inner` pixels for each of `outer`, e.g. 3 in 7: 2 1 0 1 2 1 0, centered."""
    period = max(2 * (inner - 1), 1)
    positions = (torch.arange(outer, device=device) - (outer - inner) // 2) % period
    return torch.where(positions < inner, positions, period - positions)
