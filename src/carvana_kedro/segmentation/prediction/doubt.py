"""How unsure a network is of its masks, which tells images that are unlike those it was trained on."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the limit is also needed where loading PyTorch would take too long
    from torch import Tensor

DOUBTFUL = 10.0
"""Above this doubt, in pixels of the network, a mask is doubtful."""

_UNCERTAIN = math.log(9)  # logits of the probabilities 0.1 and 0.9


def doubts(logits: "Tensor") -> "Tensor":
    """Return how wide the uncertain band along the outline of each mask is, on average.

    Uncertain are the pixels with a probability between 0.1 and 0.9. Their number is divided by the length of the
    outline of a square with the mask's area, not by that of the mask's own outline: where a network is in doubt, that
    is long too.

    Args:
        logits: (N, h, w) float32 at the network's output size.

    Returns:
        (N,) float32, in pixels of the network's output.
    """
    uncertain = (logits.abs() < _UNCERTAIN).flatten(1).sum(1)
    area = (logits > 0).flatten(1).sum(1).clamp(min=1)
    return uncertain / (4 * area.sqrt())
