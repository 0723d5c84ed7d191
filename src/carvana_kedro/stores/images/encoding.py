"""Encoding of images as png, webp and jpg files."""

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana_kedro.errors import UserError

_CHANNELS = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
_SETTINGS = {".webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}
_LARGEST_WEBP = 16_383  # pixels per side, a limit of the format


def encode(image: NDArray[np.bool_] | NDArray[np.uint8], suffix: str) -> bytes:
    """Return the content of an image file.

    Args:
        image: (H, W) bool or uint8, (H, W, 3) uint8 RGB or (H, W, 4) uint8 RGBA.
        suffix: `.png`; `.webp`, of quality 90; or `.jpg`, without alpha.

    Raises:
        UserError: The image is too large for the format.
    """
    if suffix == ".webp" and max(image.shape[:2]) > _LARGEST_WEBP:
        height, width = image.shape[:2]
        raise UserError(
            f"A webp image has at most {_LARGEST_WEBP} pixels per side, not {width}x{height}. Choose png."
        )
    levels = (
        cv2.cvtColor(image.astype(np.uint8, copy=False), _CHANNELS[image.shape[2]])
        if image.ndim == 3
        else image.astype(np.uint8) * (255 if image.dtype == np.bool_ else 1)
    )
    done, encoded = cv2.imencode(suffix, levels, _SETTINGS.get(suffix, []))
    if not done:
        raise RuntimeError(f"OpenCV does not encode {image.shape} {image.dtype} as {suffix}")
    return encoded.tobytes()
