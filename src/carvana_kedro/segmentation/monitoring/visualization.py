"""Images of masks. All images are `(H, W, 3)` uint8 RGB; all masks are `(H, W)`, bool or integers 0 and 1.

Other arrays raise a TypeError or ValueError that says how to convert them: see `carvana_kedro.stores.images.pixels`.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from carvana_kedro.stores.images.pixels import as_mask, check_image, check_same_size

Color = tuple[int, int, int]

# Colors that people with any type of color vision can tell apart (Okabe & Ito 2008).
CAR: Color = (0, 158, 115)
HIT: Color = (240, 240, 240)
MISS: Color = (230, 159, 0)
FALSE_ALARM: Color = (0, 114, 178)

_GRAY: Color = (60, 60, 60)
_LIGHT_GRAY: Color = (220, 220, 220)


def overlay(image: np.ndarray, mask: np.ndarray, color: Color = CAR) -> np.ndarray:
    """Return a copy of an image with the masked area tinted and outlined.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mask: `(H, W)`.
        color: RGB color of the tint and the outline.
    """
    check_image(image)
    inside = as_mask(mask)
    check_same_size(image, inside)
    area = np.ascontiguousarray(inside).view(np.uint8)
    levels = (0.6 * np.arange(256)[:, None] + 0.4 * np.array(color)).astype(np.uint8)
    tinted = image.copy()
    cv2.copyTo(cv2.LUT(tinted, levels[None]), area, tinted)
    outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape) / 600))
    return cv2.drawContours(tinted, outlines, -1, color, thickness)


def agreement(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return an image of true positives (light), false negatives (orange) and false positives (blue) on black.

    Args:
        prediction: `(H, W)` predicted mask.
        target: `(H, W)` true mask.

    Returns:
        `(H, W, 3)` uint8 RGB.
    """
    predicted, expected = as_mask(prediction), as_mask(target)
    check_same_size(predicted, expected)
    image = np.zeros((*target.shape, 3), np.uint8)
    image[predicted & expected] = HIT
    image[~predicted & expected] = MISS
    image[predicted & ~expected] = FALSE_ALARM
    return image


def comparison(image: np.ndarray, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return four images side by side: image, agreement of the masks, overlay of the target, overlay of the prediction.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        prediction: `(H, W)` predicted mask.
        target: `(H, W)` true mask.

    Returns:
        `(H, 4 * W, 3)` uint8 RGB.
    """
    parts = [image, agreement(prediction, target), overlay(image, target), overlay(image, prediction)]
    return np.concatenate(parts, axis=1)


def captioned(image: np.ndarray, caption: str, width: int) -> np.ndarray:
    """Resize an image to a width in pixels, keeping its aspect ratio, and add a caption above it."""
    check_image(image)
    height = round(image.shape[0] * width / image.shape[1])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.concatenate([text_bar(caption, width), small])


def text_bar(text: str, width: int) -> np.ndarray:
    """Return a line of text on white, `(28, width, 3)` uint8."""
    bar = np.full((28, width, 3), 255, np.uint8)
    return cv2.putText(bar, text, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arrange images of any sizes in a grid on white, row by row.

    Args:
        images: Images `(H, W, 3)` uint8 RGB.
        columns: Number of columns.

    Raises:
        ValueError: There are no images.
    """
    if not images:
        raise ValueError("A grid needs at least one image.")
    for image in images:
        check_image(image)
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + 8), columns * (width + 8), 3), 255, np.uint8)
    for position, image in enumerate(images):
        top, left = position // columns * (height + 8), position % columns * (width + 8)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def threshold_curve(thresholds: np.ndarray, dice: np.ndarray, best: float, used: float) -> np.ndarray:
    """Plot the mean Dice coefficient against the threshold and mark the best and the used threshold.

    Args:
        thresholds: `(n,)` thresholds in [0, 1], ascending.
        dice: `(n,)` mean Dice coefficient at each threshold.
        best: Threshold to mark as the best.
        used: Threshold to mark as the one in use.

    Returns:
        `(640, 960, 3)` uint8 RGB.
    """
    plot = _Plot(_ticks(float(dice.min()), float(dice.max())))
    for name, threshold, color, column in (("used", used, MISS, 0), ("best", best, CAR, 420)):
        value = float(np.interp(threshold, thresholds, dice))
        plot.mark(threshold, value, color)
        plot.write(f"{name}: {value:.4f} at {threshold:.2f}", plot.left + column, plot.top - 24, color)
    plot.curve(thresholds, dice, FALSE_ALARM)
    plot.write("Mean Dice coefficient of the validation images", plot.left, 44)
    center = (plot.left + plot.right) // 2
    plot.write("threshold on the probability", center, plot.image.shape[0] - 20, align=0.5)
    return plot.image


class _Plot:
    """An image with axes: x from 0 to 1, y over the range of the ticks.

    Lines are thick and text is large because TensorBoard shows a thumbnail of about every third row and column, in
    which thin lines have gaps.
    """

    left, right, top, bottom = 128, 928, 120, 536

    def __init__(self, ticks: Sequence[float]) -> None:
        self.image = np.full((640, 960, 3), 255, np.uint8)
        self._low, self._high = ticks[0], ticks[-1]
        digits = max(1, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
        for tick in ticks:
            y = self._y(tick)
            cv2.line(self.image, (self.left, y), (self.right, y), _LIGHT_GRAY, 3)
            self.write(f"{tick:.{digits}f}", self.left - 16, y + 10, align=1)
        for tenths in range(0, 11, 2):
            x = self._x(tenths / 10)
            cv2.line(self.image, (x, self.bottom), (x, self.bottom + 12), _GRAY, 3)
            self.write(f"{tenths / 10:.1f}", x, self.bottom + 44, align=0.5)
        cv2.rectangle(self.image, (self.left, self.top), (self.right, self.bottom), _GRAY, 3)

    def write(self, text: str, x: int, y: int, color: Color = _GRAY, align: float = 0.0) -> None:
        """Write text at a pixel: x is its left end for align=0, its center for 0.5, its right end for 1."""
        (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1, 2)
        start = (round(x - align * length), y)
        cv2.putText(self.image, text, start, cv2.FONT_HERSHEY_SIMPLEX, 1, color, 2, cv2.LINE_AA)

    def mark(self, x: float, y: float, color: Color) -> None:
        """Draw a vertical line at x and a dot at (x, y)."""
        column = self._x(x)
        cv2.line(self.image, (column, self.top), (column, self.bottom), color, 4)
        cv2.circle(self.image, (column, self._y(y)), 12, color, cv2.FILLED, cv2.LINE_AA)

    def curve(self, xs: np.ndarray, ys: np.ndarray, color: Color) -> None:
        """Draw a line through points."""
        points = [(self._x(x), self._y(y)) for x, y in zip(xs, ys, strict=True)]
        cv2.polylines(self.image, [np.array(points)], False, color, 4, cv2.LINE_AA)

    def _x(self, value: float) -> int:
        return round(self.left + value * (self.right - self.left))

    def _y(self, value: float) -> int:
        return round(self.bottom - (value - self._low) / (self._high - self._low) * (self.bottom - self.top))


def _ticks(low: float, high: float) -> list[float]:
    """Return up to eight evenly spaced round numbers whose range contains `low` and `high`.

    >>> _ticks(0.871, 0.993)
    [0.85, 0.9, 0.95, 1.0]
    """
    span = max(high - low, 1e-3)
    size = 10.0 ** math.floor(math.log10(span))
    steps = (size * factor for factor in (0.1, 0.2, 0.5, 1, 2))
    step = next(step for step in steps if span / step <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 9) for number in range(first, max(last, first + 1) + 1)]
