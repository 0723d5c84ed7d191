"""Plots of curves as images. All images are `(H, W, 3)` uint8 RGB."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from carvana_kedro.segmentation.monitoring.colors import BLUE, BLUISH_GREEN, ORANGE, VERMILION, Color
from carvana_kedro.segmentation.monitoring.lettering import text_width, write

Curve = tuple[np.ndarray, np.ndarray]
"""x and y of the points of a curve, `(n,)` each."""

BEST = BLUISH_GREEN
USED = ORANGE
CURVE = BLUE
TRAINING = BLUE
VALIDATION = VERMILION

_GRAY: Color = (60, 60, 60)
_LIGHT_GRAY: Color = (220, 220, 220)
_MOST_TICKS = 8


def threshold_curve(thresholds: np.ndarray, dice: np.ndarray, best: float, used: float) -> np.ndarray:
    """Plot the mean Dice coefficient against the threshold and mark the best and the used threshold.

    The vertical axis holds the values of the thresholds from 0.1 to 0.9 and the marked ones; lower values are left out.

    Args:
        thresholds: `(n,)` thresholds in [0, 1], ascending.
        dice: `(n,)` mean Dice coefficient at each threshold.
        best: Threshold to mark as the best.
        used: Threshold to mark as the one in use.

    Returns:
        `(640, 960, 3)` uint8 RGB.
    """
    marks = {"used": (used, USED), "best": (best, BEST)}
    if f"{used:.2f}" == f"{best:.2f}":
        marks = {"used and best": (best, BEST)}
    values = {name: float(np.interp(at, thresholds, dice)) for name, (at, _) in marks.items()}
    middle = dice[(thresholds >= 0.1) & (thresholds <= 0.9)]
    ticks = _ticks(*(float(end([*middle, *values.values()])) for end in (min, max)))
    plot = _Plot((0.0, 1.0), ticks)
    plot.label_x([tenths / 10 for tenths in range(0, 11, 2)], "threshold on the probability")
    column = plot.left
    for name, (threshold, color) in marks.items():
        plot.mark(threshold, values[name], color)
        text = f"{name}: {values[name]:.4f} at {threshold:.2f}"
        plot.write(text, column, plot.top - 24, color)
        column += plot.width(text) + 32
    shown = dice >= ticks[0]
    plot.curve(thresholds[shown], dice[shown], CURVE)
    plot.write("Mean Dice coefficient of the validation images", plot.left, 44)
    return plot.image


def learning_curves(panels: Mapping[str, tuple[Sequence[Curve], Sequence[Curve]]]) -> np.ndarray:
    """Plot quantities over the epochs, side by side.

    Args:
        panels: Curves of training and of validation, by the title of the panel. There may be several, such as those of
            the folds. Values that are not finite are left out.

    Returns:
        `(400, 600 * number of panels, 3)` uint8 RGB.
    """
    drawn = [_learning_curve(title, *sides) for title, sides in panels.items()]
    return cv2.resize(np.concatenate(drawn, axis=1), (600 * len(drawn), 400), interpolation=cv2.INTER_AREA)


def _learning_curve(title: str, training: Sequence[Curve], validation: Sequence[Curve]) -> np.ndarray:
    curves = [*training, *validation]
    epochs = np.concatenate([xs for xs, _ in curves])
    values = np.concatenate([ys for _, ys in curves])
    known = values[np.isfinite(values)]
    last = max(2, int(epochs.max(initial=2)))
    plot = _Plot((1.0, float(last)), _ticks(known.min(), known.max()) if len(known) else [0.0, 1.0])
    plot.label_x(range(1, last + 1, -(-last // _MOST_TICKS)), "epoch")
    plot.write(title, plot.left, 44)
    column = plot.left
    for name, color, side in (("training", TRAINING, training), ("validation", VALIDATION, validation)):
        plot.write(name, column, plot.top - 24, color)
        column += plot.width(name) + 32
        for xs, ys in side:
            shown = np.isfinite(ys)
            plot.curve(xs[shown], ys[shown], color, dots=True)
    return plot.image


class _Plot:
    """An image with axes. The y axis covers the range of its ticks.

    Lines are at least 3 pixels thick and text is large because TensorBoard shows a thumbnail of about every third row
    and column, in which thin lines have gaps.
    """

    left, right, top, bottom = 128, 928, 120, 536

    def __init__(self, x_range: tuple[float, float], ticks: Sequence[float]) -> None:
        self.image = np.full((640, 960, 3), 255, np.uint8)
        self._first, self._last = x_range
        self._low, self._high = ticks[0], ticks[-1]
        digits = _digits(ticks)
        for tick in ticks:
            y = self._y(tick)
            cv2.line(self.image, (self.left, y), (self.right, y), _LIGHT_GRAY, 3)
            self.write(f"{tick:.{digits}f}", self.left - 16, y + 10, align=1)
        cv2.line(self.image, (self.left, self.bottom), (self.right, self.bottom), _GRAY, 3)

    def label_x(self, ticks: Sequence[float], title: str) -> None:
        """Draw ticks below the x axis, and its title."""
        digits = 0 if all(float(tick).is_integer() for tick in ticks) else 1
        for tick in ticks:
            x = self._x(tick)
            cv2.line(self.image, (x, self.bottom), (x, self.bottom + 12), _GRAY, 3)
            self.write(f"{tick:.{digits}f}", x, self.bottom + 44, align=0.5)
        center = (self.left + self.right) // 2
        self.write(title, center, self.image.shape[0] - 20, align=0.5)

    def write(self, text: str, x: int, y: int, color: Color = _GRAY, align: float = 0.0) -> None:
        """Write text: see `carvana_kedro.segmentation.monitoring.lettering.write`."""
        write(self.image, text, x, y, scale=1, color=color, align=align)

    @staticmethod
    def width(text: str) -> int:
        """Return the width of a line of text in pixels."""
        return text_width(text, scale=1)

    def mark(self, x: float, y: float, color: Color) -> None:
        """Draw a vertical line at x and a dot at (x, y)."""
        column = self._x(x)
        cv2.line(self.image, (column, self.top), (column, self.bottom), color, 4)
        cv2.circle(self.image, (column, self._y(y)), 12, color, cv2.FILLED, cv2.LINE_AA)

    def curve(self, xs: np.ndarray, ys: np.ndarray, color: Color, dots: bool = False) -> None:
        """Draw a line through points, and dots at them on request."""
        points = [(self._x(x), self._y(y)) for x, y in zip(xs, ys, strict=True)]
        if points:
            cv2.polylines(self.image, [np.array(points)], False, color, 4, cv2.LINE_AA)
        for point in points if dots else ():
            cv2.circle(self.image, point, 7, color, cv2.FILLED, cv2.LINE_AA)

    def _x(self, value: float) -> int:
        share = (value - self._first) / (self._last - self._first)
        return round(self.left + share * (self.right - self.left))

    def _y(self, value: float) -> int:
        return round(self.bottom - (value - self._low) / (self._high - self._low) * (self.bottom - self.top))


def _digits(ticks: Sequence[float]) -> int:
    """Return how many digits after the point tell evenly spaced ticks apart, at least one."""
    return max(1, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


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
