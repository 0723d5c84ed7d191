"""What may be mended in a predicted mask when it is known to show one car."""

import cv2
import numpy as np
from numpy.typing import NDArray


def clean(mask: NDArray[np.bool_], *, largest: bool, filled: bool) -> NDArray[np.bool_]:
    """Keep the largest piece of a mask, (H, W), and fill its holes, if that is wanted."""
    if largest:
        mask = keep_largest(mask)
    return fill_holes(mask) if filled else mask


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest of the pieces that hang together, by edges or corners.

    Args:
        mask: (H, W).

    Returns:
        (H, W), `mask` itself if it is in one piece.

    >>> keep_largest(np.array([[1, 1, 0, 1]], dtype=bool)).astype(int)
    array([[1, 1, 0, 0]])
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count <= 2:  # the first is what is not the car
        return mask
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    return np.asarray(labels == largest)


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what is enclosed by the car, by edges.

    Args:
        mask: (H, W).

    Returns:
        (H, W), `mask` itself if it has no holes.

    >>> fill_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)).all()
    np.True_
    """
    # With a rim around it, all background that is no hole hangs together. Pieces by corners, holes by edges: else a
    # diagonal line would neither hang together nor enclose.
    background = np.pad(~mask, 1, constant_values=True)
    count, labels = cv2.connectedComponents(background.view(np.uint8), connectivity=4)
    if count <= 2:
        return mask
    return np.asarray(labels[1:-1, 1:-1] != labels[0, 0])
