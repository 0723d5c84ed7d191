"""Postprocessing of predicted masks. It assumes that an image shows exactly one car."""

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana_kedro.stores.images.pixels import as_mask


def postprocess(mask: NDArray[np.bool_], *, largest: bool, filled: bool) -> NDArray[np.bool_]:
    """Apply the selected postprocessing steps to a mask.

    Args:
        mask: `(H, W)` bool, or integers 0 and 1.
        largest: Whether to apply `keep_largest`.
        filled: Whether to apply `fill_holes`, after `keep_largest`.

    Returns:
        `(H, W)` bool; `mask` itself if nothing changes.

    Raises:
        TypeError, ValueError: It is not a mask: see `as_mask`.
    """
    mask = as_mask(mask)
    if largest:
        mask = keep_largest(mask)
    return fill_holes(mask) if filled else mask


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep only the largest connected component of a mask. Diagonal neighbors are connected (8-connectivity).

    Args:
        mask: `(H, W)` bool, or integers 0 and 1.

    Returns:
        `(H, W)` bool; `mask` itself if it has at most one component.

    Raises:
        TypeError, ValueError: It is not a mask: see `as_mask`.

    >>> keep_largest(np.array([[1, 1, 0, 1]], dtype=bool)).astype(int)
    array([[1, 1, 0, 0]])
    """
    mask = as_mask(mask)
    if not mask.size:  # OpenCV crashes
        return mask
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count <= 2:  # label 0 is the background
        return mask
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    return np.asarray(labels == largest)


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the background pixels that the mask encloses. Diagonal neighbors are not connected (4-connectivity).

    Args:
        mask: `(H, W)` bool, or integers 0 and 1.

    Returns:
        `(H, W)` bool; `mask` itself if it has no holes.

    Raises:
        TypeError, ValueError: It is not a mask: see `as_mask`.

    >>> fill_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)).all()
    np.True_
    """
    mask = as_mask(mask)
    # The padding connects all of the background that is not a hole. The background uses 4-connectivity because the mask
    # uses 8-connectivity: otherwise a diagonal line would not separate the pixels on its two sides.
    background = np.pad(~mask, 1, constant_values=True)
    count, labels = cv2.connectedComponents(background.view(np.uint8), connectivity=4)
    if count <= 2:
        return mask
    return np.asarray(labels[1:-1, 1:-1] != labels[0, 0])
