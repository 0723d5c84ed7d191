"""Images of masks. All images are `(H, W, 3)` uint8 RGB; all masks are `(H, W)`, bool or integers 0 and 1.

Other arrays raise a TypeError or ValueError that says how to convert them: see `carvana_kedro.stores.images.pixels`.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from carvana_kedro.segmentation.monitoring.colors import BLUE, BLUISH_GREEN, ORANGE, WHITE, Color
from carvana_kedro.segmentation.monitoring.lettering import shortened, write
from carvana_kedro.stores.images.pixels import as_mask, check_image, check_same_size

CAR = BLUISH_GREEN
HIT: Color = (240, 240, 240)
MISS = ORANGE
FALSE_ALARM = BLUE

MARGIN = 8
"""Pixels around each image of a grid."""

_OUTLINE: Color = (30, 30, 30)


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


def spotlight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image whose colors remain within a mask, which is outlined; the rest is pale and gray.

    Unlike a tint, this shows the mask on a car of any color, and the car's own color.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mask: `(H, W)`.
    """
    check_image(image)
    inside = as_mask(mask)
    check_same_size(image, inside)
    pale = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 112
    drawn = np.where(inside[..., None], image, pale[..., None])
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, outlines, -1, CAR, max(1, round(max(image.shape) / 480)))


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


def errors(image: np.ndarray, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return a gray copy of an image with true positives (light), false negatives (orange) and false positives (blue).

    The image is gray, so that the errors are visible on cars of any color.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        prediction: `(H, W)` predicted mask.
        target: `(H, W)` true mask.

    Returns:
        `(H, W, 3)` uint8 RGB. Errors are outlined.
    """
    check_image(image)
    predicted, expected = as_mask(prediction), as_mask(target)
    check_same_size(image, predicted)
    check_same_size(predicted, expected)
    misses, false_alarms = expected & ~predicted, predicted & ~expected
    cases = (predicted & expected) + 2 * misses.view(np.uint8) + 3 * false_alarms.view(np.uint8)
    result = _TINTS[cases, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)]
    for area in (misses, false_alarms):
        outlines, _ = cv2.findContours(area.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(result, outlines, -1, _OUTLINE)
    return result


def _tints(*tints: tuple[Color, float]) -> np.ndarray:
    """Return the colors of gray levels, `(1 + number of tints, 256, 3)` uint8: without a tint, and with each of them.

    Args:
        tints: Colors and their opacities, in [0, 1].
    """
    # Without black, on which outlines would be invisible, and without white, so that light areas stand out.
    grays = np.repeat(np.linspace(60, 200, 256)[:, None], 3, axis=1)
    tinted = [(1 - opacity) * grays + opacity * np.array(color) for color, opacity in tints]
    return np.stack([grays, *tinted]).astype(np.uint8)


_TINTS = _tints((WHITE, 0.5), (MISS, 0.85), (FALSE_ALARM, 0.85))


def largest_error(prediction: np.ndarray, target: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """Return the part of an image in which the most pixels differ between two masks.

    Args:
        prediction: `(H, W)` predicted mask.
        target: `(H, W)` true mask.
        height: Height of the part in pixels, at most H.
        width: Width of the part in pixels, at most W.

    Returns:
        The part's first row and first column. The differing pixels are in its middle, as far as the image reaches. If
        the masks are equal, it is the middle of the image.
    """
    predicted, expected = as_mask(prediction), as_mask(target)
    check_same_size(predicted, expected)
    wrong = (predicted != expected).astype(np.float32)
    sides = height, width
    corner = [(length - side) // 2 for length, side in zip(wrong.shape, sides, strict=True)]
    if wrong.any():
        # Sums over the parts, at their first row and column.
        sums = cv2.boxFilter(
            wrong, -1, (width, height), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        found = np.unravel_index(sums.argmax(), sums.shape)
        top, left = (int(start) for start in found)
        inside = np.argwhere(wrong[top : top + height, left : left + width]).mean(0)
        corner = [
            start + round(middle - (side - 1) / 2)
            for start, middle, side in zip((top, left), inside, sides, strict=True)
        ]
    top, left = (
        min(max(start, 0), length - side)
        for start, length, side in zip(corner, wrong.shape, sides, strict=True)
    )
    return top, left


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


def resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image, or a bool mask, whose outline gets smooth."""
    if array.ndim == 3:
        interpolation = cv2.INTER_CUBIC if len(array) < height else cv2.INTER_AREA
        return cv2.resize(array, (width, height), interpolation=interpolation)
    share = cv2.resize(array.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(share > 0.5)


def captioned(image: np.ndarray, caption: str, width: int) -> np.ndarray:
    """Resize an image to a width in pixels, keeping its aspect ratio, and add a caption above it."""
    check_image(image)
    height = round(image.shape[0] * width / image.shape[1])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.concatenate([text_bar(caption, width), small])


def text_bar(text: str, width: int, margin: int = 0) -> np.ndarray:
    """Return a line of text on white, `(28, width, 3)` uint8. Text that is too long is shortened."""
    bar = np.full((28, width, 3), 255, np.uint8)
    write(bar, shortened(text, width - 2 * margin), margin, 20)
    return bar


def fitted(
    image: np.ndarray, height: int, width: int, background: Color = WHITE
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Resize an image to fit into a box, and center it there.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        height: Height of the box in pixels.
        width: Width of the box in pixels.
        background: Color of the rest of the box.

    Returns:
        `(height, width, 3)` uint8 RGB; the factor that the image was scaled with; and the row and column of its first
        pixel in the box.
    """
    check_image(image)
    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = (max(1, round(scale * length)) for length in image.shape[:2])
    small = cv2.resize(
        image, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    top, left = (height - rows) // 2, (width - columns) // 2
    box = np.full((height, width, 3), background, np.uint8)
    box[top : top + rows, left : left + columns] = small
    return box, scale, (top, left)


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arrange images of any sizes in a grid on white, row by row, each with a margin of 8 pixels.

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
    height = max(image.shape[0] for image in images) + 2 * MARGIN
    width = max(image.shape[1] for image in images) + 2 * MARGIN
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for position, image in enumerate(images):
        top, left = position // columns * height + MARGIN, position % columns * width + MARGIN
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
