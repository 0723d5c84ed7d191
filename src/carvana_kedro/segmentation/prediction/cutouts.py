"""Cars cut out of their photographs."""

import cv2
import numpy as np
from numpy.typing import NDArray

_OPAQUE = 0.95  # alpha from which on a pixel shows nothing but the car


def alpha_of(
    probabilities: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.float32]:
    """Return how opaque each pixel of a cut-out is.

    Along the edge of the mask the probability, stretched so that the threshold becomes a half, is what the pixel shows
    of the car. Elsewhere the mask decides: what was dropped from it, or filled, is so here too.

    Args:
        probabilities: (H, W) float32 in [0, 1].
        mask: (H, W), perhaps mended.
        threshold: that the mask was cut at.

    Returns:
        (H, W) float32 in [0, 1].
    """
    # Piecewise linear: 0, threshold and 1 become 0, a half and 1. Its middle is stretched, since probabilities come
    # close to 0 and 1 far from the edge only.
    centered = np.where(
        probabilities < threshold,
        0.5 * probabilities / threshold,
        0.5 + 0.5 * (probabilities - threshold) / (1 - threshold),
    )
    soft = np.clip(1.5 * (centered - 0.5) + 0.5, 0, 1).astype(np.float32)
    reach = 1 + max(mask.shape) // 400  # about a pixel of the network either way
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(bool)
    return np.where(band, soft, mask.astype(np.float32))


def cut_out(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], background: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """Cut the car out of its photograph.

    Pixels of the edge are mixtures of car and studio. They get the color of the car beside them, so that no halo of
    the studio goes along.

    Args:
        image: (H, W, 3) uint8 RGB.
        alpha: (H, W) float32 in [0, 1].
        background: a color to set it on; None: transparent.

    Returns:
        (H, W, 4) uint8 RGBA, or (H, W, 3) uint8 RGB on a color.
    """
    opaque = (alpha >= _OPAQUE).astype(np.float32)
    mixed = (alpha > 0) & (alpha < _OPAQUE)
    # Blurring the car alone, and what is the car alike, carries its colors outwards.
    sigma = 1 + max(alpha.shape) / 800
    weight = cv2.GaussianBlur(opaque, (0, 0), sigma)
    carried = cv2.GaussianBlur(image.astype(np.float32) * opaque[..., None], (0, 0), sigma)
    known = mixed & (weight > 1e-3)
    colors = image.astype(np.float32)
    colors[known] = carried[known] / weight[known, None]
    if background is None:
        colors[alpha == 0] = 0  # what cannot be seen need not be stored
        return np.dstack([colors, 255 * alpha]).round().astype(np.uint8)
    set_on = alpha[..., None] * colors + (1 - alpha[..., None]) * np.array(background, np.float32)
    return np.asarray(set_on.round(), dtype=np.uint8)
