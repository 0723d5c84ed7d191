"""Text on images, which are `(H, W, 3)` uint8 RGB."""

import cv2
import numpy as np

from carvana_kedro.segmentation.monitoring.colors import Color

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK: Color = (40, 40, 40)


def write(
    image: np.ndarray,
    text: str,
    x: int,
    y: int,
    *,
    scale: float = 0.5,
    thickness: int = 1,
    color: Color = _DARK,
    align: float = 0.0,
) -> None:
    """Write a line of text on an image.

    Args:
        image: `(H, W, 3)` uint8 RGB; it is changed.
        text: The text.
        x: Column of the text's left end for `align` 0, its center for 0.5, its right end for 1.
        y: Row of the text's baseline.
        scale: Size of the font; capital letters are about 22 pixels high at 1.
        thickness: Width of the strokes in pixels.
        color: RGB color.
        align: See `x`.
    """
    start = round(x - align * text_width(text, scale, thickness))
    cv2.putText(image, text, (start, y), _FONT, scale, color, thickness, cv2.LINE_AA)


def text_width(text: str, scale: float = 0.5, thickness: int = 1) -> int:
    """Return the width of a line of text in pixels. The arguments are those of `write`."""
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    return int(width)


def shortened(text: str, width: int, scale: float = 0.5) -> str:
    """Return a text that is at most `width` pixels wide: its middle is replaced by dots if it is too long.

    >>> shortened("car_01", 400)
    'car_01'
    >>> shortened("a_very_long_name_of_a_photograph_01", 150)
    'a_very_l...raph_01'
    """
    kept = len(text)
    short = text
    while kept > 1 and text_width(short, scale) > width:
        kept -= 1
        short = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    return short
