"""Images as callers have them: in a file, as the bytes of a file, from Pillow, or as an array."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana_kedro.errors import UserError, shown
from carvana_kedro.stores.images import decoding
from carvana_kedro.stores.images.pixels import check_image

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""The path of an image file, its content, an image of Pillow, or (H, W, 3) uint8 RGB."""


def read_image(image: ImageLike, *, name: str = "") -> NDArray[np.uint8]:
    """Return an image as an array: upright, as its EXIF orientation says, in sRGB and without alpha.

    Args:
        image: The path of a jpg, png, webp, tiff, bmp, avif or heic file; its content; an image of Pillow; or an array,
            which is only checked.
        name: What errors call it; by default its path, if it has one.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: The image is missing, cannot be decoded or is too large.
        TypeError, ValueError: The array is not an image: see `check_image`.

    >>> read_image(Image.new("L", (30, 20), 255)).shape
    (20, 30, 3)
    """
    try:
        if isinstance(image, str | os.PathLike):
            name = name or shown(os.fspath(image))
            return decoding.read_rgb(Path(image))
        if isinstance(image, bytes):
            return decoding.read_rgb(image)
        if isinstance(image, Image.Image):
            return decoding.rgb_of(image)
    except decoding.UnusableImageError as error:
        raise UserError(f"{name or 'The image'} {error}.") from error
    check_image(image)
    return image
