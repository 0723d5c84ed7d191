"""Pictures of masks. All images are (H, W, 3) uint8 RGB, all masks (H, W) bool or {0, 1}."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

CAR = (0, 158, 115)
"""Colors that people with any color vision tell apart (Okabe & Ito 2008)."""
HIT, MISS, FALSE_ALARM = (240, 240, 240), (230, 159, 0), (0, 114, 178)


def overlay(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int] = CAR) -> np.ndarray:
    """Tint the masked part of an image and draw the mask's outline."""
    inside = mask.astype(bool)
    tinted = image.copy()
    tinted[inside] = (0.6 * image[inside] + 0.4 * np.array(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape) / 600))
    return cv2.drawContours(tinted, outlines, -1, color, thickness)


def agreement(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Paint where both masks agree on car (light), the car was missed (orange) or imagined (blue)."""
    predicted, expected = prediction.astype(bool), target.astype(bool)
    picture = np.zeros((*target.shape, 3), np.uint8)
    picture[predicted & expected] = HIT
    picture[~predicted & expected] = MISS
    picture[predicted & ~expected] = FALSE_ALARM
    return picture


def comparison(image: np.ndarray, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Set side by side: the image, the masks' agreement, the expected and the predicted overlay."""
    parts = [image, agreement(prediction, target), overlay(image, target), overlay(image, prediction)]
    return np.concatenate(parts, axis=1)


def captioned(image: np.ndarray, caption: str, width: int) -> np.ndarray:
    """Resize an image to a width and write a caption above it."""
    height = round(image.shape[0] * width / image.shape[1])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.concatenate([text_bar(caption, width), small])


def text_bar(text: str, width: int) -> np.ndarray:
    """Write a line of text on white, (28, width, 3)."""
    bar = np.full((28, width, 3), 255, np.uint8)
    return cv2.putText(bar, text, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)


def grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Set pictures of any sizes in rows, on white.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("A grid needs at least one picture.")
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + 8), columns * (width + 8), 3), 255, np.uint8)
    for position, picture in enumerate(pictures):
        top, left = position // columns * (height + 8), position % columns * (width + 8)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def threshold_curve(thresholds: np.ndarray, dice: np.ndarray, best: float, used: float) -> np.ndarray:
    """Plot the mean Dice coefficient by the threshold, with the best and the used threshold marked, (640, 960, 3).

    Args:
        thresholds: in [0, 1], ascending.
        dice: at each of them.
        best: the threshold that is marked as such.
        used: likewise.
    """
    # Until it is clicked on, TensorBoard shows about every third row and column of it: thin strokes would have gaps.
    width, height = 960, 640
    left, right, top, bottom = 128, width - 32, 120, height - 104
    ticks = _ticks(float(dice.min()), float(dice.max()))
    digits = max(1, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    picture = np.full((height, width, 3), 255, np.uint8)
    gray, light = (60, 60, 60), (220, 220, 220)

    def x(threshold: float) -> int:
        return round(left + threshold * (right - left))

    def y(value: float) -> int:
        return round(bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top))

    def write(text: str, x: int, y: int, color: tuple[int, int, int] = gray, align: float = 0.0) -> None:
        (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1, 2)
        place = (round(x - align * length), y)
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 1, color, 2, cv2.LINE_AA)

    for tick in ticks:
        cv2.line(picture, (left, y(tick)), (right, y(tick)), light, 3)
        write(f"{tick:.{digits}f}", left - 16, y(tick) + 10, align=1)
    for tenths in range(0, 11, 2):
        cv2.line(picture, (x(tenths / 10), bottom), (x(tenths / 10), bottom + 12), gray, 3)
        write(f"{tenths / 10:.1f}", x(tenths / 10), bottom + 44, align=0.5)
    cv2.rectangle(picture, (left, top), (right, bottom), gray, 3)
    for name, threshold, color, column in (("used", used, MISS, left), ("best", best, CAR, left + 420)):
        value = float(np.interp(threshold, thresholds, dice))
        cv2.line(picture, (x(threshold), top), (x(threshold), bottom), color, 4)
        cv2.circle(picture, (x(threshold), y(value)), 12, color, cv2.FILLED, cv2.LINE_AA)
        write(f"{name}: {value:.4f} at {threshold:.2f}", column, top - 24, color)
    points = [(x(threshold), y(value)) for threshold, value in zip(thresholds, dice, strict=True)]
    cv2.polylines(picture, [np.array(points)], False, FALSE_ALARM, 4, cv2.LINE_AA)
    write("Mean Dice coefficient of the validation images", left, 44)
    write("threshold on the probability", (left + right) // 2, height - 20, align=0.5)
    return picture


def _ticks(low: float, high: float) -> list[float]:
    """Return up to eight round numbers from below `low` to above `high`, equally far apart.

    >>> _ticks(0.871, 0.993)
    [0.85, 0.9, 0.95, 1.0]
    """
    span = max(high - low, 1e-3)
    size = 10.0 ** math.floor(math.log10(span))
    steps = (size * factor for factor in (0.1, 0.2, 0.5, 1, 2))
    step = next(step for step in steps if span / step <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 9) for number in range(first, max(last, first + 1) + 1)]
