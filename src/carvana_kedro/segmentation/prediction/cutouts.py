"""Cut-outs: the car of an image on a transparent or plain background."""

import cv2
import numpy as np
from numpy.typing import NDArray

_OPAQUE = 0.95  # pixels with at least this alpha show only the car


def alpha_of(
    probabilities: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.float32]:
    """Return the alpha channel of a cut-out.

    Along the edge of the mask, alpha follows the probability, scaled so that the threshold becomes 0.5. Elsewhere it
    follows the mask, so that removed pieces and filled holes have the same effect here.

    Args:
        probabilities: `(H, W)` float32 in [0, 1].
        mask: `(H, W)` bool; postprocessing may have changed it.
        threshold: Threshold in (0, 1) that the mask was computed with.

    Returns:
        `(H, W)` float32 in [0, 1]; 1 is opaque.
    """
    # A piecewise linear function maps 0, threshold and 1 to 0, 0.5 and 1. Values around 0.5 are then spread out,
    # because probabilities come close to 0 and 1 only at some distance from the edge.
    centered = np.where(
        probabilities < threshold,
        0.5 * probabilities / threshold,
        0.5 + 0.5 * (probabilities - threshold) / (1 - threshold),
    )
    soft = np.clip(1.5 * (centered - 0.5) + 0.5, 0, 1).astype(np.float32)
    radius = 1 + max(mask.shape) // 400  # about one pixel of the network's output
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(bool)
    return np.where(edge, soft, mask.astype(np.float32))


def cut_out(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], background: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """Cut the car out of an image.

    Pixels at the edge mix the colors of the car and of the studio. They get the color of the nearby car, so that the
    cut-out has no halo.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        alpha: `(H, W)` float32 in [0, 1].
        background: RGB color of the background; None makes it transparent.

    Returns:
        `(H, W, 4)` uint8 RGBA if the background is transparent, else `(H, W, 3)` uint8 RGB.
    """
    opaque = (alpha >= _OPAQUE).astype(np.float32)
    mixed = (alpha > 0) & (alpha < _OPAQUE)
    # A blur over the opaque pixels only (normalized convolution) extends the colors of the car beyond its edge.
    sigma = 1 + max(alpha.shape) / 800
    weight = cv2.GaussianBlur(opaque, (0, 0), sigma)
    blurred = cv2.GaussianBlur(image.astype(np.float32) * opaque[..., None], (0, 0), sigma)
    near_car = mixed & (weight > 1e-3)
    colors = image.astype(np.float32)
    colors[near_car] = blurred[near_car] / weight[near_car, None]
    if background is None:
        colors[alpha == 0] = 0  # invisible pixels compress better if they are black
        return np.dstack([colors, 255 * alpha]).round().astype(np.uint8)
    blended = alpha[..., None] * colors + (1 - alpha[..., None]) * np.array(background, np.float32)
    return np.asarray(blended.round(), dtype=np.uint8)
