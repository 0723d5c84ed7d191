"""The family of padded U-Nets: one class and a table of widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from carvana_kedro.segmentation.architectures.base import (
    SegmentationNetwork,
    convolution_blocks,
    scaled,
)
from carvana_kedro.segmentation.architectures.upsampling import upsample


@dataclass(frozen=True)
class Widths:
    """Channels of a padded U-Net.

    Attributes:
        encoder: Channels of each encoder stage, from the finest. A stage has two blocks and then halves the size.
        centre: Channels of each block between encoder and decoder.
        decoder: Channels of each decoder stage, from the coarsest; as many stages as the encoder has.
        decoder_blocks: Blocks per decoder stage.
    """

    encoder: tuple[int, ...]
    centre: tuple[int, ...]
    decoder: tuple[int, ...]
    decoder_blocks: int = 3


WIDTHS: Mapping[str, Widths] = {
    # Five halvings give each logit a receptive field of most of a 384 x 256 image. A lean decoder is fast on a CPU.
    "unet_small": Widths((16, 32, 64, 128, 128), (256,), (64, 32, 16, 16, 8), decoder_blocks=1),
    "unet_128": Widths((128, 256, 512, 1024), (1024,), (512, 256, 128, 64)),
    "unet_256": Widths((32, 64, 128, 256, 512), (1024, 1024), (512, 256, 128, 64, 32)),
    "unet_512": Widths((16, 32, 64, 128, 256, 512), (1024, 1024), (512, 256, 128, 64, 32, 16)),
    "unet_1024": Widths((24, 64, 128, 256, 512, 768), (768,), (512, 256, 128, 64, 24, 24)),
}


class UNet(SegmentationNetwork):
    """U-Net (Ronneberger et al. 2015) with padded convolutions, BatchNorm and bilinear up-sampling.

    The logits have the size of the input, which need not be a multiple of anything.
    """

    names = tuple(WIDTHS)
    has_fusible_batch_norm = True
    computes_in_dtype_of_weights = True

    @classmethod
    def from_name(cls, name: str, width_multiplier: float) -> "UNet":
        """Build the network with the widths of that name."""
        return cls(WIDTHS[name], width_multiplier)

    def __init__(self, widths: Widths, width_multiplier: float = 1.0) -> None:
        """Build the network with random weights.

        Args:
            widths: Channels of the layers.
            width_multiplier: Scales the channels of every layer.
        """
        super().__init__()
        encoder = scaled(widths.encoder, width_multiplier)
        centre = scaled(widths.centre, width_multiplier)
        decoder = scaled(widths.decoder, width_multiplier)
        self.stride = 2 ** len(encoder)
        self.encoder = nn.ModuleList(_blocks(below, width, width) for below, width in pairwise((3, *encoder)))
        # The names of these attributes are part of every weights file.
        self.centre = _blocks(encoder[-1], *centre)
        self.decoder = nn.ModuleList(
            _blocks(below + skip, *[width] * widths.decoder_blocks)
            for (below, width), skip in zip(pairwise((centre[-1], *decoder)), reversed(encoder), strict=True)
        )
        self.head = nn.Conv2d(decoder[-1], 1, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:  # channels and sizes of unet_1024 at its own size
        """Predict logits: (N, 3, H, W) to (N, H, W)."""
        features = images.to(self.head.weight.dtype)  # (N, 3, 1024, 1024)
        skips = []
        for stage in self.encoder:
            features = stage(features)  # (N, 24, 1024, 1024), ..., (N, 768, 32, 32)
            skips.append(features)
            features = max_pool2d(features, 2)  # (N, 24, 512, 512), ..., (N, 768, 16, 16)
        features = self.centre(features)  # (N, 768, 16, 16)
        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            features = upsample(features, skip.shape[2:])  # (N, 768, 32, 32), ...
            features = torch.cat([features, skip], dim=1)  # (N, 1536, 32, 32), ...
            features = stage(features)  # (N, 512, 32, 32), ..., (N, 24, 1024, 1024)
        logits: Tensor = self.head(features)  # (N, 1, 1024, 1024)
        return logits.squeeze(1)


def _blocks(*widths: int) -> nn.Sequential:
    return convolution_blocks(*widths, padding=1, bias=False, eps=1e-4)
