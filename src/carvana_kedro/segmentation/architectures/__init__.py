"""The networks, by name."""

from collections.abc import Callable, Mapping
from functools import partial

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import SegmentationNetwork
from carvana_kedro.segmentation.architectures.unet import WIDTHS, UNet
from carvana_kedro.segmentation.architectures.unet_original import UNetOriginal
from carvana_kedro.segmentation.architectures.unet_resnet34 import UNetResNet34

__all__ = ["ARCHITECTURES", "SegmentationNetwork", "build"]

ARCHITECTURES: Mapping[str, Callable[[float], SegmentationNetwork]] = {
    "unet_original": UNetOriginal,
    **{name: partial(UNet, widths) for name, widths in WIDTHS.items()},
    "unet_resnet34": UNetResNet34,
}
"""A function from the width multiplier to a network with random weights, for each name."""


def build(name: str, *, width_multiplier: float = 1.0, pretrained: bool = False) -> SegmentationNetwork:
    """Build a network.

    Args:
        name: One of `ARCHITECTURES`.
        width_multiplier: Scales the channels of every layer; below 1 for tests and small machines.
        pretrained: Start from ImageNet weights where the architecture has some. If they cannot be had, a
            warning is logged and the weights are random.

    Raises:
        UserError: The name is unknown, or there are no pretrained weights for the architecture or its width.

    >>> sum(parameter.numel() for parameter in build("unet_small").parameters())
    1184649
    """
    if name not in ARCHITECTURES:
        raise UserError(f"There is no architecture {name!r}: choose one of {', '.join(ARCHITECTURES)}.")
    network = ARCHITECTURES[name](width_multiplier)
    if pretrained:
        network.load_pretrained()
    return network
