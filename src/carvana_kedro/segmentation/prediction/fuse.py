"""Folds BatchNorm layers into the convolutions before them, for inference."""

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse_batch_norm(network: Network) -> Network:
    """Return a copy of a network whose BatchNorm layers are folded into the convolutions before them.

    In evaluation mode, BatchNorm multiplies by and adds constants, which can be part of the convolution's weights and
    bias (Jacob et al. 2018, section 3.2). The logits equal those of the network in evaluation mode, up to rounding.

    A BatchNorm layer is folded if it directly follows a convolution in `named_children` of the same module. The network
    must apply such a pair in this order, as all networks of this package do. Other BatchNorm layers are kept.

    Args:
        network: Network to copy; it is not modified.

    Returns:
        A copy in evaluation mode, not compiled and not suitable for training.

    >>> from torch import nn
    >>> fuse_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, norm_name, nn.Identity())
    return folded
