"""Scores of one predicted mask against the true one, in NumPy: what evaluation reports.

Every function takes two masks of one shape, (H, W), bool or integers of which every value but 0 belongs to
the mask.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_] | NDArray[np.uint8]


def dice(prediction: Mask, target: Mask) -> float:
    """Dice coefficient `2 |X ∩ Y| / (|X| + |Y|)`, the challenge's score; 1 if both are empty.

    Raises:
        ValueError: The shapes differ.

    >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.6666666666666666
    """
    overlap, total = _overlap_and_total(prediction, target)
    return 2 * overlap / total if total else 1.0


def iou(prediction: Mask, target: Mask) -> float:
    """Intersection over union (Jaccard index) `|X ∩ Y| / (|X| + |Y| - |X ∩ Y|)`; 1 if both are empty.

    Raises:
        ValueError: The shapes differ.

    >>> iou(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.5
    """
    overlap, total = _overlap_and_total(prediction, target)
    return overlap / (total - overlap) if total else 1.0


def pixel_accuracy(prediction: Mask, target: Mask) -> float:
    """Share of the pixels on which both masks agree; 1 for masks without pixels.

    Raises:
        ValueError: The shapes differ.

    >>> pixel_accuracy(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
    0.6666666666666666
    """
    overlap, total = _overlap_and_total(prediction, target)
    return (target.size - (total - 2 * overlap)) / target.size if target.size else 1.0


def boundary_dice(prediction: Mask, target: Mask, width: int) -> float:
    """Dice coefficient of the two masks' inner rims: how well the edges agree, whatever the area.

    The rim of a mask is its pixels that lie within `width` of a pixel outside it, as in Boundary IoU (Cheng
    et al. 2021), here with Dice. The picture's border is no edge: where the car is cut off by it, there is no
    rim.

    Args:
        prediction: (H, W) mask.
        target: (H, W) mask.
        width: Width of the rim in pixels, diagonal steps counting as one; at least 1.

    Returns:
        A score in [0, 1]; 1 if both rims are empty.

    Raises:
        ValueError: The shapes differ, or the width is below 1.
    """
    if width < 1:
        raise ValueError(f"The rim must be at least 1 pixel wide, not {width}.")
    return dice(_rim(prediction, width), _rim(target, width))


def boundary_error(prediction: Mask, target: Mask) -> float:
    """Mean distance between the two masks' edges, in pixels: how far off the outline is.

    For each pixel of either edge, the distance to the nearest of the other's: the average symmetric surface distance
    (Heimann et al. 2009) of the masks' inner rims of one pixel. The picture's border is no edge.

    Args:
        prediction: (H, W) mask.
        target: (H, W) mask.

    Returns:
        Pixels; 0 if neither mask has an edge, the picture's diagonal if only one has.

    Raises:
        ValueError: The shapes differ.

    >>> import numpy as np
    >>> square, moved = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    >>> square[5:10, 5:10] = moved[5:10, 7:12] = True
    >>> boundary_error(square, moved)
    1.0
    """
    _overlap_and_total(prediction, target)
    rims = _rim(prediction, 1), _rim(target, 1)
    if not all(rim.any() for rim in rims):
        return math.hypot(*target.shape) if any(rim.any() for rim in rims) else 0.0
    distances = [
        cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[rim]
        for rim, other in (rims, rims[::-1])
    ]
    return float(np.concatenate(distances).mean())


def _rim(mask: Mask, width: int) -> NDArray[np.bool_]:
    inside = mask.astype(np.bool_, copy=False).view(np.uint8)
    # OpenCV's own border value for an erosion counts everything outside the picture as inside the mask.
    core = cv2.erode(inside, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    return (inside - core).view(np.bool_)


def _overlap_and_total(prediction: Mask, target: Mask) -> tuple[int, int]:
    if prediction.shape != target.shape:
        raise ValueError(f"The prediction is {prediction.shape} but the target is {target.shape}.")
    predicted, expected = prediction.astype(np.bool_, copy=False), target.astype(np.bool_, copy=False)
    overlap = int(np.count_nonzero(predicted & expected))
    return overlap, int(np.count_nonzero(predicted) + np.count_nonzero(expected))
