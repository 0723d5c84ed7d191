"""Sizes and coordinates: from an image to the network's input, and from its logits back to the image.

    image --fit--> output size --pad--> input size --network--> output size --restore--> image

The whole image is fitted to the *output* size of the network. A network of valid convolutions needs a margin around
it; the margin is filled by mirroring (the overlap-tile strategy of U-Net, Ronneberger et al. 2015). So image, target
and logits line up pixel by pixel, whether or not a network keeps the size of its input.
All sizes are (height, width).
"""

from dataclasses import dataclass
from typing import Protocol, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from carvana_kedro.stores.images.pixels import as_mask, check_image

Size = tuple[int, int]


class Sized(Protocol):
    """A network that knows the size of its logits."""

    def output_size(self, input_size: Size) -> Size:
        """Return the (h, w) of the logits for images of this size."""


@dataclass(frozen=True)
class Geometry:
    """Converts images of any size to the inputs and targets of a network, and logits back.

    Attributes:
        input_size: (H, W) of the network's input.
        output_size: (h, w) of its logits. The input extends beyond it by the same margin on opposite sides.

    Raises:
        ValueError: The difference of the sizes is negative or odd.
    """

    input_size: Size
    output_size: Size

    def __post_init__(self) -> None:
        """Check that the margins on opposite sides are equal."""
        margins = [outer - inner for outer, inner in zip(self.input_size, self.output_size, strict=True)]
        if any(margin < 0 or margin % 2 for margin in margins):
            raise ValueError(
                f"The input size {self.input_size} must exceed the output size {self.output_size} by an even number of "
                "pixels (0 or more) along each axis."
            )

    @classmethod
    def of(cls, network: Sized, input_size: Size) -> Self:
        """Return the geometry of a network for an input size.

        Args:
            network: Network that computes its output size.
            input_size: (H, W) of the network's input.

        Raises:
            UserError: The network does not support this size.
        """
        height, width = input_size
        return cls((height, width), network.output_size((height, width)))

    def fit_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image to the output size. An axis that shrinks is resized by averaging over areas.

        Args:
            image: `(H0, W0, 3)` uint8.

        Returns:
            `(h, w, 3)` uint8.

        Raises:
            TypeError, ValueError: It is not an image: see `check_image`.
        """
        check_image(image)
        return _resize(image, self.output_size)

    def fit_mask(self, mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a mask to the output size as a soft target: the fraction of each pixel that the mask covers.

        Args:
            mask: `(H0, W0)` bool, or integers 0 and 1; at least one pixel.

        Returns:
            `(h, w)` uint8, from 0 (not covered) to 255 (fully covered).

        Raises:
            TypeError, ValueError: It is not a mask: see `as_mask`.
        """
        covered = np.multiply(as_mask(mask), 255, dtype=np.uint8)
        if not covered.size:
            raise ValueError(f"A mask of shape {covered.shape} has no pixels to resize.")
        return _resize(covered, self.output_size)

    def pad(self, images: Tensor) -> Tensor:
        """Pad images to the input size by reflection; border pixels are not repeated.

        Unlike in `torch.nn.functional.pad`, the margin may be larger than the image.

        Args:
            images: `(N, C, h, w)` of any dtype.

        Returns:
            `(N, C, H, W)` with `images` in the center, in channels_last; `images` itself if there is no margin.
        """
        if self.input_size == self.output_size:
            return images
        rows, columns = (
            _reflected_indices(inner, outer, images.device)
            for inner, outer in zip(self.output_size, self.input_size, strict=True)
        )
        return images.permute(0, 2, 3, 1)[:, rows[:, None], columns].permute(0, 3, 1, 2)

    def restore(self, logits: Tensor, size: Size) -> Tensor:
        """Resize logits to the size of the original image by bilinear interpolation.

        Apply the threshold to the result, not before resizing: this keeps the subpixel position of the mask's edge.

        Args:
            logits: `(N, h, w)` of a floating-point dtype.
            size: (H0, W0) of the original image.

        Returns:
            `(N, H0, W0)` logits of the same dtype.
        """
        return interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _resize(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    # INTER_AREA averages over areas only if both axes shrink. So shrink first, then enlarge in a second step.
    height, width = size
    smaller = min(width, image.shape[1]), min(height, image.shape[0])
    resized = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def _reflected_indices(inner: int, outer: int, device: torch.device) -> Tensor:
    """Return the indices that pad an axis of `inner` pixels to `outer` pixels by reflection.

    >>> _reflected_indices(3, 7, torch.device("cpu")).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    period = max(2 * (inner - 1), 1)
    positions = (torch.arange(outer, device=device) - (outer - inner) // 2) % period
    return torch.where(positions < inner, positions, period - positions)
