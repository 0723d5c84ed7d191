"""The values of a mask's pixels as they are stored, before anything is decided about them."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from carvana_kedro.stores.images.decoding import UnusableImageError, colors_of
from carvana_kedro.stores.images.mask_values import MaskValues, Value

Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class MaskPixels:
    """The values of all pixels, before anything is decided about them.

    Attributes:
        codes: (H, W), one number per pixel: a gray value, an index, or a color, red in the highest bits.
        bits: per channel of a color. 0: the codes are gray values or indices.
        white: the largest gray value, or white.
        palette: color of each index, if the codes are indices.
        lossy: whether compression may have changed the values.
        source: where the values come from, for messages.
    """

    codes: np.ndarray
    bits: int = 0
    white: float = 255
    palette: Palette = ()
    lossy: bool = False
    source: str = "it"

    def vectors(self, codes: np.ndarray) -> np.ndarray:
        """Return (N, channels) float64, from 0 to 255."""
        if not self.bits:
            return codes.astype(float)[:, None] * (255 / self.white)
        shifts = np.array([2 * self.bits, self.bits, 0])
        largest = (1 << self.bits) - 1
        return (codes[:, None].astype(np.int64) >> shifts & largest) * (255 / largest)

    def codes_of(self, value: Value) -> list[int]:
        """Return the codes that a value of the parameters means in this image."""
        if isinstance(value, int):
            return [value * 0x010101] if self.bits == 8 and value < 256 else [value]
        if self.palette:
            return [index for index, color in enumerate(self.palette) if color == value]
        if self.bits:
            scale = ((1 << self.bits) - 1) // 255
            return [int(_pack(np.array(value) * scale, self.bits))]
        return [int(value[0] * self.white / 255)] if len(set(value)) == 1 else []

    def name(self, code: float) -> str:
        """Return a code as the parameters take it."""
        if self.palette:
            return f"index {code} (#{bytes(self.palette[int(code)]).hex()})"
        if self.bits == 8:
            return f"#{int(code):06x}"
        return (
            str(tuple((int(code) >> shift) & 0xFFFF for shift in (32, 16, 0))) if self.bits else f"{code:g}"
        )


def read_pixels(path: Path, image: ImageFile, meaning: MaskValues) -> tuple[MaskPixels, np.ndarray | None]:
    """Return the values of an image that is not decoded yet, and its alpha channel.

    Args:
        path: the file.
        image: what `open_image` returns.
        meaning: what the parameters say. With numbers in it, the values of a palette image are its indices.

    Returns:
        The values, and (H, W) uint8 or uint16 alpha, or None if there is none.

    Raises:
        UnusableImageError: the values cannot be told apart.
    """
    deep = ";16" in str(image.tile) and not image.mode.startswith("I;16")
    lossy = _is_lossy(path, image)
    if deep and isinstance(image, TiffImageFile) and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        raise UnusableImageError(
            "has 16 bits per color and an EXIF orientation: rotate it, or save it as png"
        )
    channels = _read_deep(path) if deep else None
    image.load()
    return _pixels_of(image, channels, lossy, meaning), _alpha_of(image, channels)


def _is_lossy(path: Path, image: ImageFile) -> bool:
    if isinstance(image, WebPImageFile):
        with path.open("rb") as file:
            return b"VP8L" not in file.read(1 << 16)
    if isinstance(image, TiffImageFile):
        return image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    return not isinstance(image, PngImageFile | GifImageFile | BmpImageFile)


def _read_deep(path: Path) -> np.ndarray | None:
    """Return the channels of a color image of 16 bits, (H, W, 3 or 4) uint16 RGB, which Pillow reduces to 8 bits."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
    if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint16:
        return None
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _alpha_of(image: ImageFile, deep: np.ndarray | None) -> np.ndarray | None:
    if deep is not None:
        return deep[..., 3] if deep.shape[2] == 4 else None
    if _is_single_channel(image) or not image.has_transparency_data:
        return None
    return np.array(image.convert("RGBA").getchannel("A"))


def _pixels_of(image: ImageFile, deep: np.ndarray | None, lossy: bool, meaning: MaskValues) -> MaskPixels:
    if _is_single_channel(image):
        return _gray(np.array(image), lossy)
    if image.mode == "P":
        palette = _palette_of(image)
        if _means_indices(image, palette, meaning):
            return MaskPixels(np.array(image), palette=palette)
    colors = colors_of(image) if deep is None else deep
    if (colors[..., 0] == colors[..., 1]).all() and (colors[..., 0] == colors[..., 2]).all():
        return _gray(colors[..., 0], lossy)
    bits = 8 * colors.dtype.itemsize
    return MaskPixels(_pack(colors, bits), bits, (1 << 3 * bits) - 1, lossy=lossy)


def _is_single_channel(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")


def _gray(levels: np.ndarray, lossy: bool) -> MaskPixels:
    if levels.dtype == bool:
        levels = levels.astype(np.uint8) * 255
    if levels.dtype == np.float32 and not np.isfinite(levels).all():
        raise UnusableImageError("is not a mask: it has pixels that are not numbers (NaN or infinite)")
    largest = levels.max()
    white = next((white for white in (1, 255) if largest <= white), 65535)
    # Only 0 and 1 of integers can be black and white. Between 0 and 1 of floats there may be a soft edge.
    return MaskPixels(levels, white=white if levels.dtype == np.float32 or white != 1 else 255, lossy=lossy)


def _pack(colors: np.ndarray, bits: int) -> np.ndarray:
    """Return one number per color, (...) from (..., 3)."""
    red, green, blue = np.moveaxis(colors[..., :3].astype(np.int64 if bits == 16 else np.int32), -1, 0)
    packed: np.ndarray = red << 2 * bits | green << bits | blue
    return packed


def _palette_of(image: ImageFile) -> Palette:
    flat = image.getpalette("RGB") or []
    colors = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    return tuple(colors + [(0, 0, 0)] * (256 - len(colors)))


def _means_indices(image: ImageFile, palette: Palette, meaning: MaskValues) -> bool:
    """Return whether the indices of a palette are the values of the mask, and not the colors.

    Some programs put white first in the palette, so colors take precedence. The indices 0 and 1, or 0 and 255, count if
    the colors say nothing: neither black nor white is among them, or all are equal.
    """
    if meaning.background is not None or meaning.objects:
        return any(isinstance(value, int) for value in (meaning.background, *meaning.objects))
    used = [index for index, count in enumerate(image.histogram()) if count]
    colors = {palette[index] for index in used}
    is_binary = {*used} <= {0, 1} or {*used} <= {0, 255}
    if len(colors) == 1 and (len(used) > 1 or len({*palette}) == 1):
        if not is_binary:
            names = " and ".join(map(str, used[:2]))
            raise UnusableImageError(f"is not a mask: its palette has one color for the indices {names}")
        return True
    black_is_second = used == [0] and palette[1] == (0, 0, 0)
    return is_binary and not black_is_second and not colors & {(0, 0, 0), (255, 255, 255)}
