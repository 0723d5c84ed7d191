"""Encoding of images as png, webp and jpg files."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from carvana_kedro.errors import UserError

LARGEST_WEBP = 16_383
"""Pixels per side of a webp image, at most: a limit of the format."""

_CHANNELS = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
_QUALITY = 90  # of webp
_HEADER = 33  # bytes of a png before the first chunk that may be text: signature and header


def encode(image: NDArray[np.bool_] | NDArray[np.uint8], suffix: str, *, software: str = "") -> bytes:
    """Return the content of an image file.

    Args:
        image: (H, W) bool or uint8, (H, W, 3) uint8 RGB or (H, W, 4) uint8 RGBA.
        suffix: `.png`; `.webp`, of quality 90; or `.jpg`, without alpha.
        software: For the tag `Software` of a png or webp: see `software_of`. Empty: no tag.

    Raises:
        UserError: The image is too large for the format.
    """
    levels = image.astype(np.uint8, copy=False)
    if image.dtype == np.bool_:
        levels = 255 * levels
    if suffix == ".webp":
        return _encode_webp(levels, software)
    swapped = cv2.cvtColor(levels, _CHANNELS[levels.shape[2]]) if levels.ndim == 3 else levels
    done, encoded = cv2.imencode(suffix, swapped)
    if not done:
        raise RuntimeError(f"OpenCV does not encode {image.shape} {image.dtype} as {suffix}")
    content = encoded.tobytes()
    return content[:_HEADER] + _text_chunk(software) + content[_HEADER:] if software else content


def _encode_webp(levels: NDArray[np.uint8], software: str) -> bytes:
    height, width = levels.shape[:2]
    if max(height, width) > LARGEST_WEBP:
        raise UserError(
            f"A webp image has at most {LARGEST_WEBP} pixels per side, not {width}x{height}. Choose png."
        )
    exif = Image.Exif()
    if software:
        exif[ExifTags.Base.Software] = software
    file = BytesIO()
    Image.fromarray(levels).save(file, "WEBP", quality=_QUALITY, exif=exif.tobytes() if software else b"")
    return file.getvalue()


def _text_chunk(software: str) -> bytes:
    """Return a chunk of a png: https://www.w3.org/TR/png-3/#11tEXt."""
    content = b"tEXtSoftware\0" + software.encode("ascii")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def software_of(path: Path) -> str:
    """Return the tag `Software` of a png or webp file. Empty: it has none, or cannot be read."""
    try:
        with (WebPImageFile if path.suffix.lower() == ".webp" else PngImageFile)(path) as image:
            return str(image.info.get("Software") or image.getexif().get(ExifTags.Base.Software, ""))
    except (OSError, SyntaxError, ValueError):
        return ""
