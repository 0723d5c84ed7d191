"""The U-Net of the paper: convolutions without padding, so that no output pixel has seen an invented one."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import (
    SegmentationNetwork,
    convolution_block,
    scaled,
    upsample,
)

SMALLEST_INPUT = 188
MARGIN = 184  # input minus output: what the valid convolutions eat, both sides together


class UNetOriginal(SegmentationNetwork):
    """U-Net with valid convolutions (Ronneberger et al. 2015), BatchNorm added and bilinear up-sampling.

    Heights and widths of the input are 188 + 16 k and of the output 184 less, the centre: 572 gives 388.
    """

    stride = 16

    def __init__(self, width_multiplier: float = 1.0) -> None:
        """Random weights; `width_multiplier` scales the channels of every layer."""
        super().__init__()
        widths = scaled((64, 128, 256, 512, 1024), width_multiplier)
        *encoder, centre = zip((3, *widths[:-1]), widths, strict=True)
        decoder = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # (1024, 512), (512, 256), ...
        self.encoder = nn.ModuleList(_two_blocks(*channels) for channels in encoder)
        self.centre = _two_blocks(*centre)
        self.narrow = nn.ModuleList(_block(below, width) for below, width in decoder)
        self.merge = nn.ModuleList(_block(2 * width, width) for _, width in decoder)
        self.head = nn.Conv2d(widths[0], 1, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:  # sizes of the paper
        """Predict logits for the centre of the images: (N, 3, H, W) to (N, H - 184, W - 184).

        Raises:
            UserError: The images' size is not legal.
        """
        self.output_size((images.shape[2], images.shape[3]))
        features = images  # (N, 3, 572, 572)
        skips = []
        for stage in self.encoder:
            features = stage(features)  # (N, 64, 568, 568), ..., (N, 512, 64, 64)
            skips.append(features)
            features = max_pool2d(features, 2)  # (N, 64, 284, 284), ..., (N, 512, 32, 32)
        features = self.centre(features)  # (N, 1024, 28, 28)
        for narrow, merge, skip in zip(self.narrow, self.merge, reversed(skips), strict=True):
            height, width = features.shape[2:]
            features = narrow(upsample(features, (2 * height, 2 * width)))  # (N, 512, 54, 54), ...
            features = torch.cat([features, _centre(skip, features)], dim=1)  # (N, 1024, 54, 54), ...
            features = merge(features)  # (N, 512, 52, 52), ..., (N, 64, 388, 388)
        logits: Tensor = self.head(features)  # (N, 1, 388, 388)
        return logits.squeeze(1)

    def output_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Size of the logits for images of a size, both (height, width): 184 pixels less.

        Raises:
            UserError: A side is not 188 + 16 k; the message names the nearest that are.
        """
        height, width = input_size
        heights, widths = _nearest_legal(height), _nearest_legal(width)
        if heights != [height] or widths != [width]:
            raise UserError(
                f"Images of {height} x {width} (height x width) do not fit unet_original, whose valid "
                f"convolutions need 188 + 16 k pixels either way: the nearest legal heights are "
                f"{_listed(heights)}, the nearest legal widths {_listed(widths)}."
            )
        return height - MARGIN, width - MARGIN


def _nearest_legal(length: int) -> list[int]:
    """The legal lengths next to one, below and above; the length alone if it is legal.

    Four times, two 3x3 convolutions take 4 pixels and the rest must be even to be halved, so legal lengths
    lie 16 apart; from the least length that leaves an output, 4 pixels, the way back leads to 188.
    """
    below = max(SMALLEST_INPUT, length - (length - SMALLEST_INPUT) % 16)
    return [below] if length <= below else [below, below + 16]


def _listed(lengths: list[int]) -> str:
    return " and ".join(map(str, lengths))


def _centre(features: Tensor, like: Tensor) -> Tensor:
    """The centre of (N, C, H, W) features, as high and wide as `like`."""
    height, width = like.shape[2:]
    top, left = (features.shape[2] - height) // 2, (features.shape[3] - width) // 2
    return features[:, :, top : top + height, left : left + width]


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return convolution_block(channels_in, channels_out, padding=0, bias=True, eps=1e-5)


def _two_blocks(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_block(channels_in, channels_out), _block(channels_out, channels_out))
