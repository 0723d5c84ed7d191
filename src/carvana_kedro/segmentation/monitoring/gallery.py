"""A gallery of compared masks: groups of examples side by side, with a legend."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.monitoring.colors import BLACK, WHITE
from carvana_kedro.segmentation.monitoring.lettering import shortened, text_width, write

_PHOTOGRAPH = (152, 228)  # (height, width) in pixels
_DETAIL = 152  # width and height in pixels
_GAP = 4
_COLUMN = _PHOTOGRAPH[1] + _GAP + _DETAIL
_CAPTION = 28
_EXAMPLE = _CAPTION + _DETAIL
_BAR = 36  # height of the legend and of a heading
_MARGIN = 12  # around each column
_VIEW = 320  # the longer side of each view in a snapshot
_ZOOM = 8  # the longer side of an image, divided by the side of the detail
_LARGE: dict[str, Any] = {"scale": 0.75, "thickness": 2}
_LEGEND = {  # by whether it is found, and whether it is of the car
    (True, True): "hit: found, the lighter gray",
    (False, True): "miss: not found",
    (True, False): "false alarm: wrongly found",
}


def example(
    image: np.ndarray, prediction: np.ndarray, target: np.ndarray, name: str, score: str
) -> np.ndarray:
    """Draw one example: a caption, the image with its errors, and the largest error enlarged.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        prediction: `(H, W)` predicted mask.
        target: `(H, W)` true mask.
        name: Left end of the caption; shortened if it is too long.
        score: Right end of the caption.

    Returns:
        `(180, 384, 3)` uint8 RGB. A frame in the image marks the enlarged part.
    """
    caption = _white(_CAPTION, _COLUMN)
    write(caption, shortened(name, _COLUMN - text_width(score) - 16), 0, 20)
    write(caption, score, _COLUMN, 20, align=1)
    height, width = target.shape
    # A small image is enlarged first, so that outlines are as fine as in the others.
    factor = max(1, 2 * _PHOTOGRAPH[1] // max(height, width))
    image, prediction, target = (
        visualization.resized(array, factor * height, factor * width) for array in (image, prediction, target)
    )
    whole = visualization.errors(image, prediction, target)
    side = min(*target.shape, max(16, max(target.shape) // _ZOOM))
    top, left = visualization.largest_error(prediction, target, side, side)
    part = slice(top, top + side), slice(left, left + side)
    detail = [visualization.resized(array[part], _DETAIL, _DETAIL) for array in (image, prediction, target)]
    gap = _white(_DETAIL, _GAP)
    drawn = [_framed(whole, top, left, side), gap, visualization.errors(*detail)]
    return np.concatenate([caption, np.concatenate(drawn, axis=1)])


def page(groups: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """Arrange groups of examples in columns, under their headings and a legend.

    Args:
        groups: What `example` returns, by heading. Groups without examples are left out.

    Returns:
        `(H, W, 3)` uint8 RGB. W is 1,200 for three groups.

    Raises:
        ValueError: There are no examples.
    """
    shown = {heading: examples for heading, examples in groups.items() if examples}
    if not shown:
        raise ValueError("A gallery needs at least one example.")
    sheet = _white(
        2 * _BAR + max(map(len, shown.values())) * _EXAMPLE + _MARGIN,
        max(len(shown), 2) * (_COLUMN + _MARGIN) + _MARGIN,  # the legend is wider than one column
    )
    behind = _draw_legend(sheet, _MARGIN, 15, _LEGEND.values())
    write(sheet, "frame: most errors, enlarged", behind, 24)
    for number, (heading, examples) in enumerate(shown.items()):
        left = _MARGIN + number * (_COLUMN + _MARGIN)
        write(sheet, heading, left, _BAR + 26, scale=0.75, thickness=2)
        column = np.concatenate(examples)
        sheet[2 * _BAR : 2 * _BAR + len(column), left : left + _COLUMN] = column
    return sheet


def snapshot(image: np.ndarray, prediction: np.ndarray, target: np.ndarray, title: str) -> np.ndarray:
    """Draw what a network finds in an image: the image, its errors, and both masks, under a title and a legend.

    Text is large because TensorBoard shows a thumbnail of about half the width.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        prediction: `(H, W)` predicted mask.
        target: `(H, W)` true mask.
        title: Text above the image.

    Returns:
        `(h, 648, 3)` uint8 RGB.
    """
    scale = _VIEW / max(target.shape)
    size = [max(1, round(scale * side)) for side in target.shape]
    image, prediction, target = (visualization.resized(array, *size) for array in (image, prediction, target))
    views = {
        title: image,
        "": visualization.errors(image, prediction, target),
        "true mask": visualization.overlay(image, target),
        "predicted mask": visualization.overlay(image, prediction),
    }
    cells = [_captioned_view(caption, view) for caption, view in views.items()]
    _draw_legend(cells[1], 0, 19, [text.partition(":")[0] for text in _LEGEND.values()], **_LARGE)
    gap = _white(len(cells[0]), 8)
    return np.concatenate([np.concatenate([cells[i], gap, cells[i + 1]], axis=1) for i in (0, 2)])


def _captioned_view(caption: str, view: np.ndarray) -> np.ndarray:
    bar = _white(40, _VIEW)
    write(bar, caption, 0, 28, **_LARGE)
    box, _, _ = visualization.fitted(view, len(view), _VIEW)
    return np.concatenate([bar, box])


def _white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _draw_legend(picture: np.ndarray, x: int, side: int, texts: Iterable[str], **letters: Any) -> int:
    """Draw a legend into the first rows of a picture. Its colors are those of a gray image with errors.

    Args:
        picture: It is changed.
        x: First column of the legend.
        side: Width and height of a swatch in pixels.
        texts: For the cases of `_LEGEND`.
        letters: Options of `write`.

    Returns:
        The column behind the legend.
    """
    gray = np.full((side, side, 3), 128, np.uint8)
    for (found, is_car), text in zip(_LEGEND, texts, strict=True):
        masks = (np.full((side, side), value) for value in (found, is_car))
        swatch = visualization.errors(gray, *masks)
        cv2.rectangle(swatch, (0, 0), (side - 1, side - 1), BLACK)
        picture[12 : 12 + side, x : x + side] = swatch
        write(picture, text, x + side + 6, 9 + side, **letters)
        x += side + 6 + text_width(text, **letters) + 16
    return x


def _framed(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Return an image at the size of the photograph, with a frame around a square part of it."""
    small, scale, (y, x) = visualization.fitted(image, *_PHOTOGRAPH)
    first = (x + round(scale * left), y + round(scale * top))
    last = (x + round(scale * (left + side)), y + round(scale * (top + side)))
    cv2.rectangle(small, first, last, WHITE, 3)
    return cv2.rectangle(small, first, last, BLACK, 1)
