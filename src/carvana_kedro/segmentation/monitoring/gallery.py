"""A gallery of compared masks: groups of examples side by side, with a legend."""

from collections.abc import Mapping, Sequence
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
_LEGEND = (
    (visualization.HIT, "hit: found (lighter)"),
    (visualization.MISS, "miss: not found"),
    (visualization.FALSE_ALARM, "false alarm: wrongly found"),
)


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
        _resized(array, factor * height, factor * width) for array in (image, prediction, target)
    )
    whole = visualization.errors(image, prediction, target)
    side = min(*target.shape, max(16, max(target.shape) // _ZOOM))
    top, left = visualization.largest_error(prediction, target, side, side)
    part = slice(top, top + side), slice(left, left + side)
    detail = [_resized(array[part], _DETAIL, _DETAIL) for array in (image, prediction, target)]
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
    _draw_legend(sheet)
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
    image, prediction, target = (_resized(array, *size) for array in (image, prediction, target))
    views = {
        title: image,
        "": visualization.errors(image, prediction, target),
        "true mask": visualization.overlay(image, target),
        "predicted mask": visualization.overlay(image, prediction),
    }
    cells = [_captioned_view(caption, view) for caption, view in views.items()]
    x = 0
    for color, text in ((color, text.partition(":")[0]) for color, text in _LEGEND):
        cv2.rectangle(cells[1], (x, 12), (x + 18, 30), color, cv2.FILLED)
        cv2.rectangle(cells[1], (x, 12), (x + 18, 30), BLACK)
        write(cells[1], text, x + 24, 28, **_LARGE)
        x += 24 + text_width(text, **_LARGE) + 16
    gap = _white(len(cells[0]), 8)
    return np.concatenate([np.concatenate([cells[i], gap, cells[i + 1]], axis=1) for i in (0, 2)])


def _captioned_view(caption: str, view: np.ndarray) -> np.ndarray:
    bar = _white(40, _VIEW)
    write(bar, caption, 0, 28, **_LARGE)
    box, _, _ = visualization.fitted(view, len(view), _VIEW)
    return np.concatenate([bar, box])


def _white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _draw_legend(sheet: np.ndarray) -> None:
    """Draw the legend into the first rows of a page."""
    x = _MARGIN
    for color, text in _LEGEND:
        cv2.rectangle(sheet, (x, 12), (x + 14, 26), color, cv2.FILLED)
        cv2.rectangle(sheet, (x, 12), (x + 14, 26), BLACK)
        write(sheet, text, x + 22, 24)
        x += 22 + text_width(text) + 20
    write(sheet, "frame: most errors, enlarged at the right", x + 20, 24)


def _resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image, or a mask, whose outline gets smooth."""
    if array.ndim == 3:
        interpolation = cv2.INTER_CUBIC if len(array) < height else cv2.INTER_AREA
        return cv2.resize(array, (width, height), interpolation=interpolation)
    share = cv2.resize(array.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(share > 0.5)


def _framed(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Return an image at the size of the photograph, with a frame around a square part of it."""
    small, scale, (y, x) = visualization.fitted(image, *_PHOTOGRAPH)
    first = (x + round(scale * left), y + round(scale * top))
    last = (x + round(scale * (left + side)), y + round(scale * (top + side)))
    cv2.rectangle(small, first, last, WHITE, 3)
    return cv2.rectangle(small, first, last, BLACK, 1)
