"""Scores of a predicted mask against the true mask, in NumPy. The evaluation reports these scores.

Every function takes two masks of the same shape `(H, W)`, bool or integer. Pixels other than 0 belong to the mask.
"""

import math
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_] | NDArray[np.uint8]


def scores(prediction: Mask, target: Mask) -> dict[str, float]:
    """Return all scores of this module, those of the areas from one count of the pixels.

    Args:
        prediction: `(H, W)` mask.
        target: `(H, W)` mask.

    Returns:
        dice, iou, pixel_accuracy, boundary_dice with a width of 3 pixels, and boundary_error.

    Raises:
        ValueError: The shapes differ or are not (H, W), or a mask is neither bool nor integer.
    """
    counts = _Counts.of(prediction, target)
    return {
        "dice": counts.dice(),
        "iou": counts.iou(),
        "pixel_accuracy": counts.pixel_accuracy(),
        "boundary_dice": boundary_dice(prediction, target, width=3),
        "boundary_error": boundary_error(prediction, target),
    }


def dice(prediction: Mask, target: Mask) -> float:
    """Return the Dice coefficient `2 |X ∩ Y| / (|X| + |Y|)`, the score of the challenge; 1 if both masks are empty.

    Args:
        prediction: `(H, W)` mask.
        target: `(H, W)` mask.

    Raises:
        ValueError: The shapes differ or are not (H, W), or a mask is neither bool nor integer.

    >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.6666666666666666
    """
    return _Counts.of(prediction, target).dice()


def iou(prediction: Mask, target: Mask) -> float:
    """Return the intersection over union (Jaccard index) `|X ∩ Y| / (|X| + |Y| - |X ∩ Y|)`.

    The score is 1 if both masks are empty.

    Args:
        prediction: `(H, W)` mask.
        target: `(H, W)` mask.

    Raises:
        ValueError: The shapes differ or are not (H, W), or a mask is neither bool nor integer.

    >>> iou(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.5
    """
    return _Counts.of(prediction, target).iou()


def pixel_accuracy(prediction: Mask, target: Mask) -> float:
    """Return the fraction of pixels on which both masks agree; 1 for masks without pixels.

    Args:
        prediction: `(H, W)` mask.
        target: `(H, W)` mask.

    Raises:
        ValueError: The shapes differ or are not (H, W), or a mask is neither bool nor integer.

    >>> pixel_accuracy(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.6666666666666666
    """
    return _Counts.of(prediction, target).pixel_accuracy()


def boundary_dice(prediction: Mask, target: Mask, width: int) -> float:
    """Return the Dice coefficient of the two masks' boundaries: agreement of the edges, independent of the areas.

    The boundary of a mask is the set of its pixels within `width` of a pixel outside of it, as in Boundary IoU (Cheng
    et al. 2021), here with Dice. The border of the image is not an edge: a mask that is cut off by the border has no
    boundary there.

    Args:
        prediction: `(H, W)` mask.
        target: `(H, W)` mask.
        width: Width of the boundary in pixels, at least 1. A diagonal step counts as one pixel.

    Returns:
        A score in [0, 1]; 1 if both boundaries are empty.

    Raises:
        ValueError: The shapes differ or are not (H, W), or a mask is neither bool nor integer, or `width` is
            less than 1.
    """
    if width < 1:
        raise ValueError(f"The width of the boundary must be at least 1 pixel, not {width}.")
    _check_masks(prediction, target)
    return dice(_boundary(prediction, width), _boundary(target, width))


def boundary_error(prediction: Mask, target: Mask) -> float:
    """Return the mean distance between the edges of two masks in pixels.

    This is the average symmetric surface distance (Heimann et al. 2009): the mean, over the edge pixels of both masks,
    of the distance to the nearest edge pixel of the other mask. Edge pixels are the boundary with a width of 1 pixel;
    the border of the image is not an edge.

    Args:
        prediction: `(H, W)` mask.
        target: `(H, W)` mask.

    Returns:
        A distance in pixels; 0 if neither mask has an edge, and the diagonal of the image if only one of them has.

    Raises:
        ValueError: The shapes differ or are not (H, W), or a mask is neither bool nor integer.

    >>> import numpy as np
    >>> square, moved = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    >>> square[5:10, 5:10] = moved[5:10, 7:12] = True
    >>> boundary_error(square, moved)
    1.0
    """
    _check_masks(prediction, target)
    edges = _boundary(prediction, 1), _boundary(target, 1)
    if not all(edge.any() for edge in edges):
        return math.hypot(*target.shape) if any(edge.any() for edge in edges) else 0.0
    return float(np.concatenate([_distances(*edges), _distances(*edges[::-1])]).mean())


def _distances(edge: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the distance of each pixel of an edge, in row-major order, to the nearest pixel of the other edge.

    Edges of similar masks are near each other. So the search starts in the row of the pixel and continues in the rows
    above and below, as long as they can hold a nearer one. If that takes too many steps, all distances are computed.
    """
    height, width = edge.shape
    # Pixels as sorted numbers. The gap between two rows is longer than any distance, so the neighbors of a number are
    # the nearest pixels of its row, or too far away to matter.
    stride = height + 2 * width
    pixels, others = (
        flat + flat // width * (stride - width) for flat in (np.flatnonzero(edge), np.flatnonzero(other))
    )
    end = stride * (height + stride)  # no number that is sought lies beyond
    others = np.concatenate([[-end], others, [end]])
    squares = np.full(len(pixels), stride**2)
    active, rows, steps = np.arange(len(pixels)), 0, 0
    while len(active):
        steps += 2 * len(active)
        if steps > edge.size // 8:  # about the time of the distance transform
            distances = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            return distances[edge]
        nearest = squares[active]
        for shift in {rows, -rows}:
            sought = pixels[active] + shift * stride
            after = np.searchsorted(others, sought)
            columns = np.minimum(others[after] - sought, sought - others[after - 1])
            nearest = np.minimum(nearest, np.minimum(columns, stride) ** 2 + rows**2)
        squares[active] = nearest
        rows += 1
        active = active[nearest > rows**2]
    return np.sqrt(squares)


def _boundary(mask: Mask, width: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask within `width` of a pixel outside of it, `(H, W)` bool."""
    inside = mask.astype(np.bool_, copy=False).view(np.uint8)
    # By default, OpenCV's erosion treats everything outside the image as part of the mask, as wanted here.
    core = cv2.erode(inside, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    return (inside - core).view(np.bool_)


class _Counts(NamedTuple):
    """Numbers of pixels: in both masks, in each mask together, and of the image."""

    overlap: int
    total: int
    size: int

    @classmethod
    def of(cls, prediction: Mask, target: Mask) -> Self:
        _check_masks(prediction, target)
        predicted, expected = (mask.astype(np.bool_, copy=False) for mask in (prediction, target))
        overlap = int(np.count_nonzero(predicted & expected))
        return cls(overlap, int(np.count_nonzero(predicted) + np.count_nonzero(expected)), target.size)

    def dice(self) -> float:
        return 2 * self.overlap / self.total if self.total else 1.0

    def iou(self) -> float:
        return self.overlap / (self.total - self.overlap) if self.total else 1.0

    def pixel_accuracy(self) -> float:
        return (self.size - (self.total - 2 * self.overlap)) / self.size if self.size else 1.0


def _check_masks(prediction: Mask, target: Mask) -> None:
    for name, mask in (("prediction", prediction), ("target", target)):
        if not isinstance(mask, np.ndarray):
            raise TypeError(f"The {name} must be a NumPy array, not {type(mask).__name__}.")
        if mask.ndim != 2 or mask.dtype.kind not in "bui":
            raise ValueError(
                f"The {name} must be (H, W), bool or integers other than 0 for the object, not {mask.dtype} of shape "
                f"{mask.shape}. Compare probabilities with a threshold, and score one mask at a time."
            )
    if prediction.shape != target.shape:
        raise ValueError(
            f"The prediction has shape {prediction.shape} but the target has shape {target.shape}."
        )
