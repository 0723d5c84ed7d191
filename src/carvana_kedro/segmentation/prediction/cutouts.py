"""Cut-outs: the car of an image on a transparent or plain background."""

from collections.abc import Iterator
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana_kedro.stores.images.pixels import as_mask, check_image, check_same_size

_TILE = 192  # pixels; the intermediate results of a tile fit into the processor's cache
_ALIGNED = 16  # tiles start at multiples of this, because OpenCV rounds the last, incomplete vector of a row otherwise
_BESIDE = np.ones((3, 3), np.uint8)  # a pixel and its neighbors
_OPAQUE = 0.95  # pixels with at least this alpha are opaque
_ON_LINE = 0.1  # distance from the line between two colors, as a share of its length
_DISTINCT = 20.0  # two colors are distinct if their distance is larger, in levels

_Area = tuple[slice, slice]


def alpha_of(
    probabilities: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.float32]:
    """Return the alpha channel of a cut-out.

    Along the edge of the mask, alpha follows the probability, scaled so that the threshold becomes 0.5. Elsewhere it
    follows the mask, so that removed pieces and filled holes have the same effect here.

    Args:
        probabilities: `(H, W)` floats in [0, 1].
        mask: `(H, W)` bool, or integers 0 and 1; postprocessing may have changed it.
        threshold: Threshold in (0, 1) that the mask was computed with.

    Returns:
        `(H, W)` float32 in [0, 1]; 1 is opaque.

    Raises:
        TypeError, ValueError: The mask is no mask (see `as_mask`), the probabilities have another dtype, size or range,
            or the threshold is not in (0, 1).
    """
    mask = as_mask(mask)
    _check_fractions(probabilities, "probabilities")
    check_same_size(probabilities, mask)
    if not 0 < threshold < 1:
        raise ValueError(f"The threshold must be above 0 and below 1, not {threshold}.")
    radius = 1 + max(mask.shape) // 400  # about one pixel of the network's output
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    alpha = mask.astype(np.float32)
    for window, inner in _tiles(mask.shape, radius):
        around = mask[window]
        if around.all() or not around.any():
            continue
        edge = cv2.morphologyEx(around.astype(np.uint8), cv2.MORPH_GRADIENT, kernel)[inner].astype(bool)
        alpha[window][inner][edge] = _soft(probabilities[window][inner][edge], threshold)
    return alpha


def _soft(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Return the alpha of pixels along the edge."""
    # A piecewise linear function maps 0, threshold and 1 to 0, 0.5 and 1. Values around 0.5 are then spread out,
    # because probabilities come close to 0 and 1 only at some distance from the edge.
    centered = np.where(
        probabilities < threshold,
        0.5 * probabilities / threshold,
        0.5 + 0.5 * (probabilities - threshold) / (1 - threshold),
    )
    return np.asarray(np.clip(1.5 * (centered - 0.5) + 0.5, 0, 1), dtype=np.float32)


def cut_out(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], background: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """Cut the car out of an image.

    Pixels at the edge mix the colors of the car and of the studio. The color of the car is estimated there, so that the
    cut-out has no halo.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        alpha: `(H, W)` floats in [0, 1].
        background: RGB color of the background, 0..255; None makes it transparent.

    Returns:
        `(H, W, 4)` uint8 RGBA if the background is transparent, else `(H, W, 3)` uint8 RGB.

    Raises:
        TypeError, ValueError: The image is no image (see `check_image`), alpha has another dtype, size or range, or the
            background is no color.
    """
    check_image(image)
    _check_fractions(alpha, "alpha")
    check_same_size(image, alpha)
    if background is not None and (
        len(background) != 3 or not all(0 <= value <= 255 for value in background)
    ):
        raise ValueError(f"The background must be (red, green, blue) in 0..255, not {background}.")
    sigma = 1 + max(alpha.shape) / 2000
    opaque = (alpha >= _OPAQUE).view(np.uint8)
    unclear = (alpha > 0) & (cv2.erode(opaque, _BESIDE) == 0)  # the pixels whose color is estimated
    result = np.empty((*alpha.shape, 4 if background is None else 3), np.uint8)
    for window, inner in _tiles(alpha.shape, 2 + int(4 * sigma)):
        opacity, tile = alpha[window][inner], result[window][inner]
        if unclear[window][inner].any():
            colors = _colors_of_the_car(image[window].astype(np.float32), alpha[window], sigma)[inner]
        elif not opacity.any():  # most tiles are plain, and need no floats
            tile[:] = 0 if background is None else background
            continue
        elif (opacity == 1).all():
            tile[..., 3:] = 255
            tile[..., :3] = image[window][inner]
            continue
        else:
            colors = image[window][inner].astype(np.float32)
        tile[:] = _over(colors, opacity, background)
    return result


def _over(
    colors: NDArray[np.float32], alpha: NDArray[np.float32], background: tuple[int, int, int] | None
) -> NDArray[np.uint8]:
    """Return the pixels of a cut-out: see `cut_out`."""
    if background is None:
        colors[alpha == 0] = 0  # invisible pixels compress better if they are black
        return np.dstack([colors, 255 * alpha]).round().astype(np.uint8)
    blended = alpha[..., None] * colors + (1 - alpha[..., None]) * np.array(background, np.float32)
    return np.asarray(blended.round(), dtype=np.uint8)


def _colors_of_the_car(
    image: NDArray[np.float32], alpha: NDArray[np.float32], sigma: float
) -> NDArray[np.float32]:
    """Estimate the color of the car in the pixels at its edge, `(H, W, 3)` float32. `sigma`: see `_local_mean`."""
    colors, opaque, studio = image.copy(), alpha >= _OPAQUE, alpha <= 1 - _OPAQUE
    # In translucent pixels: the color that explains the pixel with this alpha and is close to the local mean of the
    # car. This is one step of the multi-level estimation by Germer et al. 2020, which pymatting implements.
    known, car = _local_mean(image, opaque, sigma)
    has_studio, behind = _local_mean(image, studio, sigma)
    at = (alpha > 0) & ~opaque & known
    share, near = alpha[at][:, None], car[at]
    misfit = image[at] - share * near - (1 - share) * np.where(has_studio[at][:, None], behind[at], near)
    colors[at] = np.clip(near + share * misfit / (share**2 + (1 - share) ** 2), 0, 255)
    # Alpha is steeper than the edge in the image, so that pixels beside it may be mixed although they are opaque. They
    # show themselves by their color: it is on the line from the studio's color to the car's.
    core, known, car = _beyond_the_edge(image, opaque, sigma)
    _, has_studio, behind = _beyond_the_edge(image, studio, sigma)
    at = (alpha > 0) & ~core & known & has_studio
    pixels, near, far = image[at], car[at], behind[at]
    line = near - far
    length = np.maximum((line**2).sum(-1), 1)
    position = ((pixels - far) * line).sum(-1) / length
    distance = ((pixels - far - position[:, None] * line) ** 2).sum(-1)
    on_line = (position > 0.4) & (position < 1) & (distance < _ON_LINE**2 * length)
    mixed = on_line & (length > _DISTINCT**2)
    colors[at] = np.where(mixed[:, None], near, colors[at])
    return colors


def _beyond_the_edge(
    image: NDArray[np.float32], area: NDArray[np.bool_], sigma: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
    """Return the area without the pixels beside its edge, and its local mean: see `_local_mean`."""
    inner = cv2.erode(area.astype(np.uint8), _BESIDE).astype(bool)
    return inner, *_local_mean(image, inner, sigma)


def _local_mean(
    image: NDArray[np.float32], area: NDArray[np.bool_], sigma: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return where an area is near, and its mean color there: a blur over its pixels only (normalized convolution).

    `sigma` is the standard deviation of the blur, in pixels.
    """
    inside = area.astype(np.float32)
    weight = cv2.GaussianBlur(inside, (0, 0), sigma)
    blurred = cv2.GaussianBlur(image * inside[..., None], (0, 0), sigma)
    return weight > 1e-3, np.asarray(blurred / np.maximum(weight, 1e-3)[..., None], dtype=np.float32)


def _tiles(shape: tuple[int, ...], margin: int) -> Iterator[tuple[_Area, _Area]]:
    """Yield the tiles of an image, so that memory holds the intermediate results of one tile only.

    Args:
        shape: (H, W) of the image.
        margin: Pixels that are needed around a tile to compute it, at least.

    Yields:
        The area of the tile with its margin, as far as the image reaches; and the tile itself within that area.
    """
    margin = -(-margin // _ALIGNED) * _ALIGNED
    tops, lefts = (range(0, side, _TILE) for side in shape)
    for corner in product(tops, lefts):
        window = [slice(max(0, start - margin), start + _TILE + margin) for start in corner]
        inner = [
            slice(start - one.start, start - one.start + _TILE)
            for start, one in zip(corner, window, strict=True)
        ]
        yield (window[0], window[1]), (inner[0], inner[1])


def _check_fractions(values: NDArray[np.float32], name: str) -> None:
    if not isinstance(values, np.ndarray):
        raise TypeError(
            f"{name} must be a NumPy array, (H, W) floats in [0, 1], not {type(values).__name__}."
        )
    # The comparison is False for NaN.
    if (
        values.ndim != 2
        or values.dtype.kind != "f"
        or not values.size
        or not (0 <= values.min() <= values.max() <= 1)
    ):
        extremes = f" from {values.min():.4g} to {values.max():.4g}" if values.size else ""
        raise ValueError(
            f"{name} must be (H, W) floats in [0, 1], not {values.dtype} of shape {values.shape}{extremes}. "
            "Apply the sigmoid to logits first; divide 0..255 by 255."
        )
