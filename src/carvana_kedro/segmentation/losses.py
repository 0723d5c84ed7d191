"""The training loss, and the Dice coefficient of a batch for the training log."""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def segmentation_loss(
    logits: Tensor, targets: Tensor, *, bce_weight: float = 1.0, dice_weight: float = 1.0
) -> Tensor:
    """Weighted sum of the mean binary cross-entropy and one minus the mean soft Dice of each image.

    `bce_weight * BCE(sigmoid(logits), targets) + dice_weight * (1 - mean over images of soft_dice)`

    Args:
        logits: (N, H, W); half precision is raised to float32 first.
        targets: (N, H, W) floats in [0, 1].
        bce_weight: Weight of the cross-entropy, a mean over all pixels.
        dice_weight: Weight of the Dice term, a mean over images.

    Returns:
        A scalar, at least float32.
    """
    logits, targets = _full_precision(logits, targets)
    bce = binary_cross_entropy_with_logits(logits, targets)
    return bce_weight * bce + dice_weight * (1 - soft_dice(logits, targets).mean())


def soft_dice(logits: Tensor, targets: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Soft Dice coefficient of each image (Milletari et al. 2016, V-Net), without the squares.

    With `p = sigmoid(logits)` and `t = targets`: `(2 Σ p t + smooth) / (Σ p + Σ t + smooth)`. `smooth` keeps
    empty images finite and lets an all but empty prediction of an empty image count as nearly 1.

    Args:
        logits: (N, H, W); half precision is raised to float32 first.
        targets: (N, H, W) floats in [0, 1].
        smooth: In pixels, added to both sides of the fraction.

    Returns:
        (N,), at least float32, in (0, 1].
    """
    logits, targets = _full_precision(logits, targets)
    probabilities = logits.sigmoid()
    overlap = (probabilities * targets).sum((1, 2))
    total = probabilities.sum((1, 2)) + targets.sum((1, 2))
    return (2 * overlap + smooth) / (total + smooth)


@torch.no_grad()
def batch_dice(logits: Tensor, targets: Tensor, threshold: float = 0.5) -> Tensor:
    """Dice coefficient of each image of a batch after the threshold, where the logits live.

    Args:
        logits: (N, H, W).
        targets: (N, H, W) floats in [0, 1]; a pixel above one half belongs to the mask.
        threshold: A pixel is predicted where its probability exceeds this, in (0, 1).

    Returns:
        (N,) float32 in [0, 1]; 1 where prediction and target are both empty.

    >>> batch_dice(torch.tensor([[[2.0, -2.0]], [[-1.0, -1.0]]]), torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]]))
    tensor([0.6667, 1.0000])
    """
    predicted = logits > math.log(threshold / (1 - threshold))
    expected = targets > 0.5
    overlap = (predicted & expected).sum((1, 2))
    total = predicted.sum((1, 2)) + expected.sum((1, 2))
    return torch.where(total == 0, 1.0, 2 * overlap / total.clamp(min=1))


def _full_precision(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    # Sums over a million pixels need float32; float64 stays as it is.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), targets.to(dtype)
