"""A U-Net with a ResNet-34 encoder, optionally with ImageNet weights."""

import logging
from collections.abc import Mapping
from http.client import HTTPException
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SegmentationNetwork,
    convolution_blocks,
    scaled,
)
from carvana_kedro.segmentation.architectures.decoder import decode

logger = logging.getLogger(__name__)


class UNetResNet34(SegmentationNetwork):
    """U-Net (Ronneberger et al. 2015) whose encoder is a ResNet-34 (He et al. 2016).

    Images are in [0, 1], as for every network here. The network standardizes them as ImageNet weights expect.
    """

    names = ("unet_resnet34",)
    has_fusible_batch_norm = True
    computes_in_dtype_of_weights = True
    stride = 32

    def __init__(self, width_multiplier: float = 1.0) -> None:
        """Build the network with random weights; `width_multiplier` scales the channels of every layer."""
        super().__init__()
        encoder = scaled((64, 64, 128, 256, 512), width_multiplier)
        decoder = scaled((256, 128, 64, 32, 16), width_multiplier)
        self.encoder = ResNet34Encoder(encoder)
        skips = (*encoder[-2::-1], 0)  # the finest decoder stage has no skip connection
        self.decoder = nn.ModuleList(
            convolution_blocks(below + skip, width, width, padding=1, bias=False, eps=1e-5)
            for (below, width), skip in zip(pairwise((encoder[-1], *decoder)), skips, strict=True)
        )
        self.head = nn.Conv2d(decoder[-1], 1, kernel_size=1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits: (N, 3, H, W) to (N, H, W)."""
        standardized = ((images - self.mean) / self.std).to(self.head.weight.dtype)
        features = decode(self.decoder, self.encoder(standardized), (images.shape[2], images.shape[3]))
        logits: Tensor = self.head(features)  # (N, 16, H, W) to (N, 1, H, W)
        return logits.squeeze(1)

    def check_pretrained(self) -> None:
        """Check that ImageNet weights fit the encoder.

        Raises:
            UserError: The width multiplier is not 1.
        """
        if self.encoder.conv1.out_channels != 64:
            raise UserError(
                "The ImageNet weights of unet_resnet34 need a width multiplier of 1: leave "
                "model_training.width_multiplier at 1, or set model_training.pretrained to false."
            )

    def load_pretrained(self) -> None:
        """Load torchvision's ImageNet weights into the encoder; log a warning if they cannot be downloaded.

        Raises:
            UserError: The width multiplier is not 1.
        """
        self.check_pretrained()
        from torchvision.models.resnet import ResNet34_Weights

        try:
            weights = ResNet34_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except (
            OSError,
            HTTPException,
            RuntimeError,
        ) as error:  # no connection, a broken download, a wrong hash
            logger.warning(
                "The encoder starts from random weights: its ImageNet weights cannot be downloaded (%s)",
                error,
            )
            return
        self.load_encoder(weights)

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of torchvision's classifier into the encoder.

        Raises:
            RuntimeError: They do not fit.
        """
        self.encoder.load_state_dict(
            {name: weight for name, weight in weights.items() if not name.startswith("fc.")}
        )


class ResNet34Encoder(nn.Module):
    """ResNet-34 without its classifier. Its parameters have torchvision's names, so that weights fit."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        """Build it with random weights; `widths` are the channels of the stem and of the four stages."""
        super().__init__()
        stem, *stages = widths
        self.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _residual_stage(stem, stages[0], blocks=3, stride=1)
        self.layer2 = _residual_stage(stages[0], stages[1], blocks=4, stride=2)
        self.layer3 = _residual_stage(stages[1], stages[2], blocks=6, stride=2)
        self.layer4 = _residual_stage(stages[2], stages[3], blocks=3, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features of five sizes, from the finest."""
        features = [relu(self.bn1(self.conv1(images)))]  # (N, 64, H/2, W/2)
        features.append(self.layer1(max_pool2d(features[-1], 3, stride=2, padding=1)))  # (N, 64, H/4, W/4)
        features.append(self.layer2(features[-1]))  # (N, 128, H/8, W/8)
        features.append(self.layer3(features[-1]))  # (N, 256, H/16, W/16)
        features.append(self.layer4(features[-1]))  # (N, 512, H/32, W/32)
        return features


def _residual_stage(channels_in: int, channels_out: int, *, blocks: int, stride: int) -> nn.Sequential:
    # Imported here: torchvision takes as long to import as torch, and only this network needs it.
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(channels_out),
        )
    first = BasicBlock(channels_in, channels_out, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out) for _ in range(blocks - 1)))
