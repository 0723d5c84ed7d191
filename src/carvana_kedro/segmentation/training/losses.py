"""The training loss, and the Dice coefficient of a batch for the training log.

A loss is a function `loss(logits, targets, **arguments)`, or a class whose instances take `(logits, targets)`. It
computes a scalar from (N, H, W) logits and (N, H, W) targets in [0, 1]: the mean over the N images. It must be the
mean because a batch may be computed in parts (`accumulation_steps`): the losses of the parts are added, weighted by
their share of the images. A loss that is no mean, because its normalization depends on the batch, has a method
`for_batch(targets)`, which returns the loss for the parts of the batch with these targets. To be trained by several
processes, it takes a function as well, `for_batch(targets, mean)`: the targets are then those of this process, and
`mean(values)` is the mean over the values of all processes.
A loss has no state: its buffers are not part of a checkpoint, and its parameters are not trained.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, max_pool2d

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.extensions import check_arguments, create, import_object, split_spec

_BORDER_WIDTH = 5

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function from logits (N, H, W) and targets (N, H, W) in [0, 1] to a scalar."""


def build_loss(spec: Mapping[str, Any]) -> Loss:
    """Build the loss that a recipe names.

    Args:
        spec: Arguments of `segmentation_loss`; or `type`, the dotted path of a function or class, and its arguments. A
            dotted path is imported, so it must come from the run's own parameters.

    Raises:
        UserError: The path cannot be imported, the function or class does not take the arguments, or the weights are
            not valid.
    """
    if "type" not in spec:
        weights = [spec.get(name, 1.0) for name in ("bce_weight", "dice_weight")]
        if not (
            sum(weights) > 0 and all(0 <= w < math.inf for w in (*weights, spec.get("border_weight", 0.0)))
        ):
            raise UserError(
                "The weights of the loss must be finite and not negative, and bce_weight and dice_weight not both 0: "
                f"nothing would be learned from {dict(spec)}."
            )
        return SegmentationLoss(**spec)
    path, arguments = split_spec("loss", spec)
    found = import_object("loss", path)
    if inspect.isclass(found):
        return cast(Loss, create("loss", path, found, **arguments))
    check_arguments("loss", path, found, None, None, **arguments)
    return partial(found, **arguments)


class SegmentationLoss:
    """The loss of this package: see `segmentation_loss`, which takes the same arguments."""

    def __init__(self, **arguments: Any) -> None:
        """Store the arguments."""
        self._arguments = arguments

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of a batch."""
        return segmentation_loss(logits, targets, **self._arguments)

    def for_batch(self, targets: Tensor, mean: Callable[[Tensor], Tensor] = torch.mean) -> Loss:
        """Return the loss for the parts of a batch with these targets: `border_weight` is normalized over the batch."""
        border_weight = self._arguments.get("border_weight", 0.0)
        if not border_weight:
            return self
        weights = pixel_weights(targets, border_weight, self._arguments.get("border_width", _BORDER_WIDTH))
        return partial(segmentation_loss, **self._arguments, mean_weight=mean(weights))


def loss_of_parts(loss: Loss, targets: Tensor, *mean: Callable[[Tensor], Tensor]) -> Loss:
    """Return the loss for the parts of a batch with these targets: that of `for_batch`, if the loss has this method.

    Args:
        loss: A loss.
        targets: (N, H, W), those of this process.
        mean: With several processes, a function that returns the mean over the values of all of them.
    """
    for_batch: Callable[..., Loss] = getattr(loss, "for_batch", lambda targets, *mean: loss)
    return for_batch(targets, *mean)


def segmentation_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    bce_weight: float = 1.0,
    dice_weight: float = 1.0,
    border_weight: float = 0.0,
    border_width: int = _BORDER_WIDTH,
    mean_weight: Tensor | None = None,
) -> Tensor:
    """Compute the weighted sum of the binary cross-entropy and one minus the soft Dice coefficient.

    `bce_weight * BCE(sigmoid(logits), targets) + dice_weight * (1 - mean over images of soft_dice)`

    BCE is `Σ w bce / Σ w` over all pixels of the batch, with `w = 1 + border_weight` in the `border_band` and 1
    elsewhere. Ronneberger et al. (2015, U-Net, eq. 2) use a Gaussian instead of this box.

    Args:
        logits: (N, H, W). Half precision is converted to float32 first.
        targets: (N, H, W) floats in [0, 1].
        bce_weight: Weight of the cross-entropy, which is a mean over all pixels.
        dice_weight: Weight of the Dice term, which is a mean over the images.
        border_weight: Extra weight of the pixels near the mask's edge in the cross-entropy.
        border_width: Width of the border band on either side of the edge, in pixels; 5 is the paper's sigma.
        mean_weight: Mean of `w` over the batch that these images are a part of; None: they are the whole batch.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: The shapes differ or are not (N, H, W), or a tensor is not of a floating-point dtype.
    """
    logits, targets = _full_precision(logits, targets)
    if border_weight:
        weights = pixel_weights(targets, border_weight, border_width)
        total = weights.sum() if mean_weight is None else mean_weight * weights.numel()
        bce = binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / total
    else:
        bce = binary_cross_entropy_with_logits(logits, targets)
    return bce_weight * bce + dice_weight * (1 - soft_dice(logits, targets).mean())


def pixel_weights(targets: Tensor, border_weight: float, border_width: int) -> Tensor:
    """Return the weights `w` of the pixels in the cross-entropy, (N, H, W): see `segmentation_loss`."""
    return 1 + border_weight * border_band(targets, border_width)


def soft_dice(logits: Tensor, targets: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Compute the soft Dice coefficient of each image (Milletari et al. 2016, V-Net, but without the squares).

    With `p = sigmoid(logits)` and `t = targets`: `(2 Σ p t + smooth) / (Σ p + Σ t + smooth)`. `smooth` keeps
    the value finite for empty images: an almost empty prediction of an empty image scores almost 1.

    Args:
        logits: (N, H, W). Half precision is converted to float32 first.
        targets: (N, H, W) floats in [0, 1].
        smooth: Number of pixels added to numerator and denominator.

    Returns:
        (N,), at least float32, in (0, 1].

    Raises:
        ValueError: See `segmentation_loss`.
    """
    logits, targets = _full_precision(logits, targets)
    probabilities = logits.sigmoid()
    overlap = (probabilities * targets).sum((1, 2))
    total = probabilities.sum((1, 2)) + targets.sum((1, 2))
    return (2 * overlap + smooth) / (total + smooth)


def border_band(targets: Tensor, width: int) -> Tensor:
    """Find the pixels near the mask's edge.

    Args:
        targets: (N, H, W) floats in [0, 1]. A pixel above 0.5 belongs to the mask.
        width: In pixels, at least 1.

    Returns:
        (N, H, W) bool: whether a pixel of the other class is at most `width` rows and columns away. Pixels outside the
        image do not count.

    >>> border_band(torch.tensor([[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]]), width=2)
    tensor([[[False,  True,  True,  True,  True, False]]])
    """
    highest, lowest = _window_maximum(targets, width), -_window_maximum(-targets, width)
    return (highest > 0.5) & (lowest <= 0.5)


@torch.no_grad()
def batch_dice(logits: Tensor, targets: Tensor, threshold: float = 0.5) -> Tensor:
    """Compute the Dice coefficient of each image of a batch, on the device of the logits.

    Args:
        logits: (N, H, W).
        targets: (N, H, W) floats in [0, 1]. A pixel above 0.5 belongs to the mask.
        threshold: In (0, 1). A pixel belongs to the predicted mask if its probability exceeds the threshold.

    Returns:
        (N,) float32 in [0, 1]; 1 if the predicted mask and the target are both empty.

    Raises:
        ValueError: See `segmentation_loss`.

    >>> batch_dice(torch.tensor([[[2.0, -2.0]], [[-1.0, -1.0]]]), torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]]))
    tensor([0.6667, 1.0000])
    """
    _check_batch(logits, targets)
    predicted = logits > math.log(threshold / (1 - threshold))
    expected = targets > 0.5
    overlap = (predicted & expected).sum((1, 2))
    total = predicted.sum((1, 2)) + expected.sum((1, 2))
    return torch.where(total == 0, 1.0, 2 * overlap / total.clamp(min=1))


def _window_maximum(images: Tensor, reach: int) -> Tensor:
    # Rows, then columns: the cost is proportional to the window's side, not to its area.
    size = 2 * reach + 1
    rows = max_pool2d(images, (size, 1), stride=1, padding=(reach, 0))
    return max_pool2d(rows, (1, size), stride=1, padding=(0, reach))


def _check_batch(logits: Tensor, targets: Tensor) -> None:
    # Other shapes would be broadcast, and integers are in 0..255. The range of floats is not checked: reading it would
    # make the CPU wait for the GPU in every step.
    if logits.dim() != 3 or logits.shape != targets.shape:
        raise ValueError(
            f"Logits and targets must have the same shape (N, H, W), not {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}."
        )
    if not (logits.is_floating_point() and targets.is_floating_point()):
        raise ValueError(
            f"Logits and targets must be floats, not {logits.dtype} and {targets.dtype}. Targets are in [0, 1]: pass "
            "targets.float(), divided by 255 if they are in 0..255."
        )


def _full_precision(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    _check_batch(logits, targets)
    # Sums over a million pixels need at least float32.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), targets.to(dtype)
