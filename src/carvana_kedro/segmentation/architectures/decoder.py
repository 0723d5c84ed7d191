"""The decoder of the U-Nets with an encoder from elsewhere."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from carvana_kedro.segmentation.architectures.upsampling import upsample


def decode(stages: nn.ModuleList, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Enlarge the coarsest features stage by stage, each time joined with the next finer ones of the encoder.

    Args:
        stages: One more than there are finer features: the last one has none to join.
        features: Of the encoder, (N, C, h, w) each, from the finest to the coarsest.
        size: (H, W) of the result.

    Returns:
        (N, C, H, W) features of the last stage.
    """
    *skips, result = features
    for stage, skip in zip(stages, reversed(skips), strict=False):
        enlarged = upsample(result, (skip.shape[2], skip.shape[3]))
        result = stage(torch.cat([enlarged, skip], dim=1))
    finest: Tensor = stages[-1](upsample(result, size))
    return finest
