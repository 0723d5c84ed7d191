"""The U-Net of the paper: convolutions without padding, so that no output pixel depends on padding."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import (
    SegmentationNetwork,
    convolution_block,
    convolution_blocks,
    scaled,
)
from carvana_kedro.segmentation.architectures.upsampling import upsample

SMALLEST_INPUT = 188
MARGIN = 184  # input size minus output size: the valid convolutions remove half of it on each side

_VALID: Any = {"padding": 0, "bias": True, "eps": 1e-5}


class UNetOriginal(SegmentationNetwork):
    """U-Net with valid convolutions (Ronneberger et al. 2015), BatchNorm added and bilinear up-sampling.

    Input heights and widths are 188 + 16 k. The output is the center of the input, 184 pixels smaller: 572 gives 388.
    """

    names = ("unet_original",)
    has_fusible_batch_norm = True
    computes_in_dtype_of_weights = True
    stride = 16

    def __init__(self, width_multiplier: float = 1.0) -> None:
        """Build the network with random weights; `width_multiplier` scales the channels of every layer."""
        super().__init__()
        widths = scaled((64, 128, 256, 512, 1024), width_multiplier)
        *encoder, centre = zip((3, *widths[:-1]), widths, strict=True)
        decoder = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # (1024, 512), (512, 256), ...
        self.encoder = nn.ModuleList(
            convolution_blocks(*channels, channels[1], **_VALID) for channels in encoder
        )
        # The names of these attributes are part of every weights file.
        self.centre = convolution_blocks(*centre, centre[1], **_VALID)
        self.narrow = nn.ModuleList(convolution_block(below, width, **_VALID) for below, width in decoder)
        self.merge = nn.ModuleList(convolution_block(2 * width, width, **_VALID) for _, width in decoder)
        self.head = nn.Conv2d(widths[0], 1, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:  # sizes of the paper
        """Predict logits for the center of the images: (N, 3, H, W) to (N, H - 184, W - 184).

        Raises:
            UserError: The images' size is not legal.
        """
        self.output_size((images.shape[2], images.shape[3]))
        features = images.to(self.head.weight.dtype)  # (N, 3, 572, 572)
        skips = []
        for stage in self.encoder:
            features = stage(features)  # (N, 64, 568, 568), ..., (N, 512, 64, 64)
            skips.append(features)
            features = max_pool2d(features, 2)  # (N, 64, 284, 284), ..., (N, 512, 32, 32)
        features = self.centre(features)  # (N, 1024, 28, 28)
        for narrow, merge, skip in zip(self.narrow, self.merge, reversed(skips), strict=True):
            height, width = features.shape[2:]
            features = narrow(upsample(features, (2 * height, 2 * width)))  # (N, 512, 54, 54), ...
            features = torch.cat([features, _center_crop(skip, features)], dim=1)  # (N, 1024, 54, 54), ...
            features = merge(features)  # (N, 512, 52, 52), ..., (N, 64, 388, 388)
        logits: Tensor = self.head(features)  # (N, 1, 388, 388)
        return logits.squeeze(1)

    def output_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the logits for an input size, both (height, width): 184 pixels less.

        Raises:
            UserError: A side is not 188 + 16 k. The message names the nearest legal sides.
        """
        height, width = input_size
        heights, widths = _nearest_legal(height), _nearest_legal(width)
        if heights != [height] or widths != [width]:
            raise UserError(
                f"The input size {height} x {width} (height x width) does not fit unet_original, whose unpadded "
                f"convolutions need 188 + 16 k pixels per side. The nearest valid heights are "
                f"{_listed(heights)}, the nearest valid widths are {_listed(widths)}."
            )
        return height - MARGIN, width - MARGIN


def _nearest_legal(length: int) -> list[int]:
    """Return the nearest legal lengths below and above; the length alone if it is legal.

    Four times, two 3x3 convolutions remove 4 pixels and the rest must be even to be halved. So legal lengths are 16
    apart. The smallest output, 4 pixels, belongs to an input of 188.
    """
    below = max(SMALLEST_INPUT, length - (length - SMALLEST_INPUT) % 16)
    return [below] if length <= below else [below, below + 16]


def _listed(lengths: list[int]) -> str:
    return " and ".join(map(str, lengths))


def _center_crop(features: Tensor, like: Tensor) -> Tensor:
    """Crop (N, C, H, W) features at their center to the height and width of `like`."""
    height, width = like.shape[2:]
    top, left = (features.shape[2] - height) // 2, (features.shape[3] - width) // 2
    return features[:, :, top : top + height, left : left + width]
