"""BatchNorm folded into the convolutions before it, for networks that only predict."""

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse_batch_norm(network: Network) -> Network:
    """Return a copy of a network in which convolutions do what the BatchNorm behind them did.

    In evaluation BatchNorm multiplies and adds constants, which can as well be part of the convolution's weights
    (Jacob et al. 2018, section 3.2). The logits are those of the network in evaluation, to rounding.

    In all networks here a BatchNorm that directly follows a convolution among its parent's children works on its
    output; one that does not is left as it is.

    Args:
        network: is not changed.

    Returns:
        A copy in evaluation mode, uncompiled; it cannot be trained.

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
