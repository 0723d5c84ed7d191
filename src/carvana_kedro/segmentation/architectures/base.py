"""What all networks share: the contract, and the blocks they are built of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from carvana_kedro.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SegmentationNetwork(nn.Module, ABC):
    """A network for binary segmentation: one logit per pixel, object against background.

    Derive your own network from this class, set `stride`, and write `forward`. The defaults describe a network with
    padded convolutions: it takes any size from `stride` on and keeps it. A network with other legal sizes overrides
    `output_size`; one with pretrained weights overrides `check_pretrained`, `load_pretrained` and `load_encoder`.

    Attributes:
        stride: Input pixels per pixel of the coarsest feature map.
        names: The names that the parameters know the class by; none for a class that is named by its dotted path.
        has_fusible_batch_norm: Whether each BatchNorm2d that follows a Conv2d among the children of a module also
            follows it in `forward`. Prediction then fuses the two. A derived class does not inherit it, but declares it
            again. Leave it False if you are not sure: the results are the same, a little slower.
        computes_in_dtype_of_weights: Whether `forward` converts the images to the dtype of its convolutions, and needs
            no autocast if that is not float32. Prediction then runs without autocast, which on a GPU would compute
            some layers in float32. A derived class declares it again, as above.
    """

    stride: int
    names: ClassVar[tuple[str, ...]] = ()
    has_fusible_batch_norm: ClassVar[bool] = False
    computes_in_dtype_of_weights: ClassVar[bool] = False

    @classmethod
    def from_name(cls, name: str, width_multiplier: float) -> "SegmentationNetwork":
        """Build the network that one of `names` stands for, with random weights.

        Args:
            name: One of `names`.
            width_multiplier: Scales the channels of every layer.
        """
        return cls(width_multiplier)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Predict a logit for every pixel.

        Args:
            images: (N, 3, H, W) floats in [0, 1], RGB.

        Returns:
            (N, h, w) logits, where (h, w) is `output_size((H, W))`.
        """

    def output_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the logits for an input size, both (height, width).

        Raises:
            UserError: The network does not take images of this size. The message names the nearest size that it takes.
        """
        height, width = input_size
        if min(input_size) < self.stride:
            raise UserError(
                f"The input size {height} x {width} (height x width) is too small for this network, which needs "
                f"at least {self.stride} pixels per side. The nearest valid size is "
                f"{max(height, self.stride)} x {max(width, self.stride)}."
            )
        return height, width

    def check_pretrained(self) -> None:
        """Check that pretrained weights exist for this network, without loading them.

        Raises:
            UserError: There are none.
        """
        raise UserError(
            f"{type(self).__name__} has no pretrained weights: set model_training.pretrained to false, or choose "
            "unet_lite0 or unet_resnet34."
        )

    def load_pretrained(self) -> None:
        """Replace the random weights by pretrained ones; log a warning if they cannot be downloaded.

        Raises:
            UserError: There are none for this network.
        """
        self.check_pretrained()

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the random weights of the encoder by those of a file that the user names.

        Args:
            weights: The file's state dict.

        Raises:
            UserError: This network takes no file.
            RuntimeError: They do not fit.
        """
        raise UserError(
            f"{type(self).__name__} takes no file of pretrained weights: set model_training.pretrained to true or "
            "false."
        )


def convolution_block(
    channels_in: int, channels_out: int, *, padding: int, bias: bool, eps: float
) -> nn.Sequential:
    """Build a 3x3 convolution, BatchNorm (Ioffe & Szegedy 2015) and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=padding, bias=bias),
        nn.BatchNorm2d(channels_out, eps=eps),
        nn.ReLU(inplace=True),
    )


def convolution_blocks(*widths: int, padding: int, bias: bool, eps: float) -> nn.Sequential:
    """Build one `convolution_block` per pair of neighboring widths.

    >>> len(convolution_blocks(3, 16, 16, padding=1, bias=False, eps=1e-5))
    2
    """
    return nn.Sequential(
        *(convolution_block(a, b, padding=padding, bias=bias, eps=eps) for a, b in pairwise(widths))
    )


def scaled(widths: tuple[int, ...], multiplier: float) -> tuple[int, ...]:
    """Multiply the channels of each layer; at least one channel is left.

    >>> scaled((24, 64, 128), 0.02)
    (1, 1, 3)
    """
    return tuple(max(1, round(width * multiplier)) for width in widths)
