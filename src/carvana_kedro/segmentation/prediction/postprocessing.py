"""Postprocessing of predicted masks. It assumes that an image shows exactly one car."""

import cv2
import numpy as np
from numpy.typing import NDArray


def postprocess(mask: NDArray[np.bool_], *, largest: bool, filled: bool) -> NDArray[np.bool_]:
    """Apply the selected postprocessing steps to a mask.

    Args:
        mask: `(H, W)` bool.
        largest: Whether to apply `keep_largest`.
        filled: Whether to apply `fill_holes`, after `keep_largest`.

    Returns:
        `(H, W)` bool; `mask` itself if nothing changes.
    """
    if largest:
        mask = keep_largest(mask)
    return fill_holes(mask) if filled else mask


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep only the largest connected component of a mask. Diagonal neighbors are connected (8-connectivity).

    Args:
        mask: `(H, W)` bool.

    Returns:
        `(H, W)` bool; `mask` itself if it has at most one component.

    >>> keep_largest(np.array([[1, 1, 0, 1]], dtype=bool)).astype(int)
    array([[1, 1, 0, 0]])
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count <= 2:  # label 0 is the background
        return mask
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    return np.asarray(labels == largest)


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the background pixels that the mask encloses. Diagonal neighbors are not connected (4-connectivity).

    Args:
        mask: `(H, W)` bool.

    Returns:
        `(H, W)` bool; `mask` itself if it has no holes.

    >>> fill_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)).all()
    np.True_
    """
    # The padding connects all of the background that is not a hole. The background uses 4-connectivity because the mask
    # uses 8-connectivity: otherwise a diagonal line would not separate the pixels on its two sides.
    background = np.pad(~mask, 1, constant_values=True)
    count, labels = cv2.connectedComponents(background.view(np.uint8), connectivity=4)
    if count <= 2:
        return mask
    return np.asarray(labels[1:-1, 1:-1] != labels[0, 0])
