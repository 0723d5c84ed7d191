"""What all networks share: the contract, and the block they are built of."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn.functional import interpolate

from carvana_kedro.errors import UserError


class SegmentationNetwork(nn.Module, ABC):
    """A network that finds one kind of object in an image.

    This base is for networks whose convolutions are padded: they take any size from `stride` on and keep it.

    Attributes:
        stride: Pixels of the input for each pixel of the network's coarsest features.
    """

    stride: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Predict a logit for every pixel.

        Args:
            images: (N, 3, H, W) floats in [0, 1], RGB.

        Returns:
            (N, h, w) logits, (h, w) being `output_size((H, W))`.
        """

    def output_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Size of the logits for images of a size, both (height, width).

        Raises:
            UserError: The network cannot take images of this size; the message names the nearest that it can.
        """
        height, width = input_size
        if min(input_size) < self.stride:
            raise UserError(
                f"Images of {height} x {width} (height x width) are too small for this network, which needs "
                f"{self.stride} pixels either way: the nearest legal size is "
                f"{max(height, self.stride)} x {max(width, self.stride)}."
            )
        return height, width

    def load_pretrained(self) -> None:
        """Replace random weights by pretrained ones.

        Raises:
            UserError: There are none for this network.
        """
        raise UserError(
            f"There are no pretrained weights for {type(self).__name__}: set pretrained to false, or choose "
            "unet_resnet34."
        )


def convolution_block(
    channels_in: int, channels_out: int, *, padding: int, bias: bool, eps: float
) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm (Ioffe & Szegedy 2015) and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=padding, bias=bias),
        nn.BatchNorm2d(channels_out, eps=eps),
        nn.ReLU(inplace=True),
    )


def scaled(widths: tuple[int, ...], multiplier: float) -> tuple[int, ...]:
    """Channels of each layer, times the multiplier, at least one.

    >>> scaled((24, 64, 128), 0.02)
    (1, 1, 3)
    """
    return tuple(max(1, round(width * multiplier)) for width in widths)


def upsample(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) features to (N, C, *size) bilinearly, by the pixels' outer edges."""
    return interpolate(features, size, mode="bilinear", align_corners=False)
