"""The networks: those of this package by name, others by dotted path."""

import math
from collections.abc import Mapping
from pathlib import Path

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures.base import SegmentationNetwork
from carvana_kedro.segmentation.architectures.imagenet import load_encoder
from carvana_kedro.segmentation.architectures.smp import SmpNetwork
from carvana_kedro.segmentation.architectures.unet import UNet
from carvana_kedro.segmentation.architectures.unet_lite0 import UNetLite0
from carvana_kedro.segmentation.architectures.unet_original import UNetOriginal
from carvana_kedro.segmentation.architectures.unet_resnet34 import UNetResNet34
from carvana_kedro.segmentation.extensions import SMP_PREFIX, Spec, is_dotted_path, make_object, split_spec

__all__ = ["ARCHITECTURES", "SegmentationNetwork", "build_network"]

ARCHITECTURES: Mapping[str, type[SegmentationNetwork]] = {
    name: network for network in (UNetOriginal, UNet, UNetLite0, UNetResNet34) for name in network.names
}
"""The class of each name."""


def build_network(
    architecture: Spec, *, width_multiplier: float = 1.0, pretrained: bool | str = False
) -> SegmentationNetwork:
    """Build a network.

    Args:
        architecture: One of `ARCHITECTURES`; a name of segmentation-models-pytorch, such as `smp:Unet/resnet34`; or the
            dotted path of a `SegmentationNetwork`, alone or as `type` beside its arguments. A dotted path is imported:
            it must come from the run's own parameters.
        width_multiplier: Scales the channels of every layer of this package's networks; below 1 for tests and small
            machines.
        pretrained: Start from ImageNet weights, if the network has some. If they are not installed or cannot be
            downloaded, a warning is logged and the weights are random. A path: those of this file.

    Raises:
        UserError: The name is unknown, the object cannot be imported or is no network, the network has no pretrained
            weights, their file cannot be read or does not fit, the network takes no `width_multiplier`, or this is not
            positive and finite.

    >>> sum(parameter.numel() for parameter in build_network("unet_small").parameters())
    1184649
    """
    if not 0 < width_multiplier < math.inf:
        raise UserError(f"width_multiplier must be positive and finite, not {width_multiplier}.")
    name, arguments = split_spec("architecture", architecture)
    network: SegmentationNetwork
    if name in ARCHITECTURES and not arguments:
        network = ARCHITECTURES[name].from_name(name, width_multiplier)
    elif width_multiplier != 1 and (is_dotted_path(name) or name.startswith(SMP_PREFIX)):
        raise UserError(
            f"The architecture {name} takes no width_multiplier: leave model_training.width_multiplier at 1."
        )
    elif is_dotted_path(name):
        network = make_object("architecture", architecture, SegmentationNetwork)
    elif name.startswith(SMP_PREFIX) and not arguments:
        network = SmpNetwork.from_name(name, width_multiplier)
    elif arguments and (name in ARCHITECTURES or name.startswith(SMP_PREFIX)):
        raise UserError(
            f"The architecture {name} takes no arguments. Remove: {', '.join(arguments)}. Write "
            f"model_training.architecture: {name}."
        )
    else:
        raise UserError(
            f"model_training.architecture = {name!r}: unknown architecture. Available: {', '.join(ARCHITECTURES)}, "
            f"{SMP_PREFIX}NAME/ENCODER of segmentation-models-pytorch, or the dotted path of your own class."
        )
    if isinstance(pretrained, str):
        load_encoder(network, Path(pretrained).expanduser())
    elif pretrained:
        network.load_pretrained()
    return network
