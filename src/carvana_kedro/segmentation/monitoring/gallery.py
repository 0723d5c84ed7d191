"""A gallery of compared masks: groups of examples side by side, with a legend."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.monitoring.colors import BLACK, WHITE
from carvana_kedro.segmentation.monitoring.lettering import shortened, text_width, write

_PHOTOGRAPH = (152, 228)  # (height, width) in pixels
_DETAIL = 152  # width and height in pixels
_GAP = 4
_COLUMN = _PHOTOGRAPH[1] + _GAP + _DETAIL
_MARGIN = 12  # around each column
_ZOOM = 8  # the longer side of an image, divided by the side of the detail
_LEGEND = (
    (visualization.HIT, "hit: found"),
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
    caption = np.full((28, _COLUMN, 3), 255, np.uint8)
    write(caption, shortened(name, _COLUMN - text_width(score) - 16), 0, 20)
    write(caption, score, _COLUMN, 20, align=1)
    whole = visualization.errors(image, prediction, target)
    side = min(*target.shape, max(16, max(target.shape) // _ZOOM))
    top, left = visualization.largest_error(prediction, target, side)
    part = slice(top, top + side), slice(left, left + side)
    detail = [_enlarged(array[part]) for array in (image, prediction, target)]
    gap = np.full((_DETAIL, _GAP, 3), 255, np.uint8)
    drawn = [_framed(whole, top, left, side), gap, visualization.errors(*detail)]
    return np.concatenate([caption, np.concatenate(drawn, axis=1)])


def page(groups: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """Arrange groups of examples in columns, under their headings and a legend.

    Args:
        groups: What `example` returns, by heading. Groups without examples are left out.

    Returns:
        `(H, W, 3)` uint8 RGB. W is 1,200 for three groups; with a single group the legend is cut.

    Raises:
        ValueError: There are no examples.
    """
    shown = {heading: examples for heading, examples in groups.items() if examples}
    if not shown:
        raise ValueError("A gallery needs at least one example.")
    rows = max(map(len, shown.values()))
    columns = [_column(heading, examples, rows) for heading, examples in shown.items()]
    space = np.full((len(columns[0]), _MARGIN, 3), 255, np.uint8)
    body = np.concatenate([space, *(part for column in columns for part in (column, space))], axis=1)
    return np.concatenate([_legend(body.shape[1]), body, np.full((_MARGIN, *body.shape[1:]), 255, np.uint8)])


def _column(heading: str, examples: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Return examples below their heading, with white in place of missing rows."""
    bar = np.full((36, _COLUMN, 3), 255, np.uint8)
    write(bar, heading, 0, 26, scale=0.75, thickness=2)
    white = np.full(((rows - len(examples)) * len(examples[0]), _COLUMN, 3), 255, np.uint8)
    return np.concatenate([bar, *examples, white])


def _legend(width: int) -> np.ndarray:
    bar = np.full((36, width, 3), 255, np.uint8)
    x = _MARGIN
    for color, text in _LEGEND:
        cv2.rectangle(bar, (x, 12), (x + 14, 26), color, cv2.FILLED)
        cv2.rectangle(bar, (x, 12), (x + 14, 26), BLACK)
        write(bar, text, x + 22, 24)
        x += 22 + text_width(text) + 20
    write(bar, "frame: most errors, enlarged at the right", x + 20, 24)
    return bar


def _enlarged(array: np.ndarray) -> np.ndarray:
    """Return a part of an image, or of a mask, at the size of the detail."""
    size = (_DETAIL, _DETAIL)
    if array.ndim == 3:
        enlarges = len(array) < _DETAIL
        return cv2.resize(array, size, interpolation=cv2.INTER_CUBIC if enlarges else cv2.INTER_AREA)
    # Smooth outlines instead of steps.
    return np.asarray(cv2.resize(array.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5)


def _framed(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Return an image at the size of the photograph, with a frame around a square part of it."""
    small, scale, (y, x) = visualization.fitted(image, *_PHOTOGRAPH)
    first = (x + round(scale * left), y + round(scale * top))
    last = (x + round(scale * (left + side)), y + round(scale * (top + side)))
    cv2.rectangle(small, first, last, WHITE, 3)
    return cv2.rectangle(small, first, last, BLACK, 1)
