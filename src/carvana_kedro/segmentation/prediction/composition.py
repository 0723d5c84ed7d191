"""The picture of a cut-out: what is behind the car, and which part is shown. It does not need PyTorch."""

import re
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from carvana_kedro.errors import UserError, shown
from carvana_kedro.segmentation.prediction.cutouts import cut_out
from carvana_kedro.stores.images.reading import ImageLike, read_image

Color = tuple[int, int, int]

_SMALL = 512  # pixels of the longer side at which a background is blurred
_SIGMAS = (0.3, 0.08, 0.02)  # of the blur, as shares of the longer side; the last one is what one sees
_TINY = 0.05  # share of known pixels at which a finer blur takes over
_VISIBLE = 0.5  # alpha of a pixel that counts as the car


class Composition(TypedDict, total=False):
    """The options of `compose`."""

    background: "str | Color | ImageLike"
    crop: bool
    margin: float
    canvas: tuple[int, int] | None


def compose(
    photograph: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    *,
    background: "str | Color | ImageLike" = "transparent",
    crop: bool = False,
    margin: float = 0.05,
    canvas: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Return the picture of a cut-out.

    Args:
        photograph: `(H, W, 3)` uint8 RGB.
        alpha: `(H, W)` float32 in [0, 1], 1 inside the car: see `alpha_of`.
        background: `transparent`; `blur`, the blurred photograph without the car; a color, such as `#fff`, `white` or
            `(255, 255, 255)`; or a picture, which is scaled to fill the background and cut at its edges.
        crop: Whether to show only the car and a margin. If there is no car, the whole photograph is shown.
        margin: Free space on each side, as a share: with `canvas` of its width and height, with `crop` of the longer
            side of the car.
        canvas: (width, height) of the picture, with the car in its center, scaled to fit. None: as the photograph.

    Returns:
        `(h, w, 4)` uint8 RGBA if the background is transparent, else `(h, w, 3)` uint8 RGB.

    Raises:
        UserError: The background is neither a color nor a picture, or a size is out of range.
        TypeError, ValueError: The photograph or alpha has another dtype, size or range.

    >>> photograph, alpha = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.float32)
    >>> alpha[5:15, 5:25] = 1
    >>> compose(photograph, alpha, crop=True).shape
    (14, 24, 4)
    >>> compose(photograph, alpha, canvas=(80, 60), background="#fff").shape
    (60, 80, 3)
    """
    behind = read_background(background)
    check_layout(margin, canvas)
    box = _box_of_the_car(alpha, 0 if canvas else margin) if crop or canvas else None
    rows, columns = box or (slice(0, alpha.shape[0]), slice(0, alpha.shape[1]))
    car = cut_out(photograph[rows, columns], alpha[rows, columns])
    if canvas:
        car = _centered(car, canvas, margin)
    if behind is None:
        return car
    size = car.shape[1], car.shape[0]
    if isinstance(behind, tuple):
        picture = Image.new("RGB", size, behind)
    elif isinstance(behind, np.ndarray):
        picture = ImageOps.fit(Image.fromarray(behind), size)
    else:
        blurred = _blurred(photograph, alpha)
        picture = (
            ImageOps.fit(blurred, size) if canvas else _enlarged(blurred, photograph.shape, rows, columns)
        )
    picture.paste(Image.fromarray(car), mask=Image.fromarray(car[..., 3]))
    return np.asarray(picture)


def read_background(background: "str | Color | ImageLike") -> NDArray[np.uint8] | Color | str | None:
    """Return what is behind the car: pixels of a picture, a color, the text `blur`, or None for transparent.

    Args:
        background: See `compose`.

    Raises:
        UserError: It is neither a color nor an image that can be read.

    >>> read_background("#fff"), read_background("transparent"), read_background((1, 2, 3))
    ((255, 255, 255), None, (1, 2, 3))
    """
    if isinstance(background, tuple):
        if len(background) == 3 and all(isinstance(value, int) and 0 <= value <= 255 for value in background):
            return background
        raise UserError(f"A color has three whole numbers in 0..255 (red, green, blue), unlike {background}.")
    if not isinstance(background, str):
        return read_image(background)
    if background == "transparent":
        return None
    if background == "blur":
        return background
    if color := color_of(background):
        return color
    if not Path(background).exists():
        raise UserError(
            f"The background {background} is neither a file nor a color. Choose transparent, blur, the name of a "
            "color, six digits such as #ffffff, or the path of a picture."
        )
    return read_image(background)


def color_of(text: str) -> Color | None:
    """Return the color with a name or with hexadecimal digits. None: it is no color.

    >>> color_of("white"), color_of("#fff"), color_of("ffffff"), color_of("white.png")
    ((255, 255, 255), (255, 255, 255), (255, 255, 255), None)
    """
    digits = re.fullmatch(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", text)
    if not digits and text.lower() not in ImageColor.colormap:
        return None
    red, green, blue, *_ = ImageColor.getrgb(f"#{text.removeprefix('#')}" if digits else text)
    return red, green, blue


def canvas_of(text: str) -> tuple[int, int]:
    """Return the (width, height) of a canvas.

    Raises:
        UserError: It is not written like 800x600, or a side is out of range.

    >>> canvas_of("800x600")
    (800, 600)
    """
    if not re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", text):
        raise UserError(f"The canvas is written like 800x600, width x height, not {shown(text)}.")
    width, height = (int(side) for side in text.split("x"))
    check_layout(0, (width, height))
    return width, height


def check_layout(margin: float, canvas: tuple[int, int] | None) -> None:
    """Check the sizes of a picture.

    Raises:
        UserError: The margin is not in [0, 0.5), or the canvas is not from 16 to 16384 pixels per side.
    """
    if not 0 <= margin < 0.5:
        raise UserError(f"The margin is a share of at least 0 and below 0.5, not {margin:g}.")
    if canvas and not 16 <= min(canvas) <= max(canvas) <= 16384:
        raise UserError(f"The canvas has 16 to 16384 pixels per side, not {canvas[0]}x{canvas[1]}.")


def _box_of_the_car(alpha: NDArray[np.float32], margin: float) -> tuple[slice, slice] | None:
    """Return the rows and columns of the car with a margin, as far as the image reaches. None: there is no car."""
    visible = alpha >= _VISIBLE
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        return None
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    free = 1 + int(margin * longer)  # at least the soft edge
    height, width = alpha.shape
    return (
        slice(max(0, int(rows[0]) - free), min(height, int(rows[-1]) + 1 + free)),
        slice(max(0, int(columns[0]) - free), min(width, int(columns[-1]) + 1 + free)),
    )


def _centered(car: NDArray[np.uint8], canvas: tuple[int, int], margin: float) -> NDArray[np.uint8]:
    """Return a canvas of this (width, height) with the car, RGBA, in its center."""
    height, width = car.shape[:2]
    scale = (1 - 2 * margin) * min(canvas[0] / width, canvas[1] / height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    # Pillow multiplies the colors by alpha before it resizes RGBA.
    scaled = Image.fromarray(car).resize(size, Image.Resampling.LANCZOS)
    result = Image.new("RGBA", canvas)
    result.paste(scaled, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    return np.asarray(result)


def _blurred(photograph: NDArray[np.uint8], alpha: NDArray[np.float32]) -> Image.Image:
    """Return the blurred photograph, without the colors of the car, at a small size."""
    height, width = alpha.shape
    scale = min(1, _SMALL / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    colors = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    car = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    outside = (cv2.dilate(car, np.ones((5, 5), np.uint8)) < 0.02).astype(np.float32)
    # From coarse to fine: where a blur reaches no pixel outside the car, the coarser one stays.
    result = np.full_like(colors, colors.mean((0, 1)))
    for sigma in _SIGMAS:
        pixels = sigma * max(size)
        weight = cv2.GaussianBlur(outside, (0, 0), pixels)[..., None]
        found = cv2.GaussianBlur(colors * outside[..., None], (0, 0), pixels) / np.maximum(weight, 1e-6)
        result += np.minimum(weight / _TINY, 1) * (found - result)
    return Image.fromarray(result.clip(0, 255).round().astype(np.uint8))


def _enlarged(blurred: Image.Image, shape: tuple[int, ...], rows: slice, columns: slice) -> Image.Image:
    """Return the part of a blurred photograph that is behind these rows and columns, at their size."""
    down, across = blurred.height / shape[0], blurred.width / shape[1]
    part = (across * columns.start, down * rows.start, across * columns.stop, down * rows.stop)
    size = columns.stop - columns.start, rows.stop - rows.start
    return blurred.resize(size, Image.Resampling.BICUBIC, part)
