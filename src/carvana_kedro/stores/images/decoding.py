"""Pictures of all sorts, upright and as RGB or as masks, whatever program or camera they come from."""

import math
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

_LARGEST_SIDE = 32_768
_MOST_PIXELS = 100_000_000
_LIMITS = f"at most {_LARGEST_SIDE} a side and {_MOST_PIXELS // 10**6} million in all"
_MOST_GRAY = 0.05

# `Image.open` raises on large headers before it tells their size, and takes the previews that phones put behind a
# photograph (MPO) for frames. The readers themselves do neither.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"GIF8"), GifImageFile),
    (re.compile(rb"BM"), BmpImageFile),
)

# "Grayscale" is but a name where a color is asked for as well; with the flags for color the order is BGR.
_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}

# From the stored to the upright picture, by EXIF orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class UnfitError(Exception):
    """A file that cannot be used. The message goes on where the file's name ends: `is empty`."""


class Header(NamedTuple):
    """What is known before decoding.

    `stored` and `upright` are (height, width); `turn` is the orientation that decoded pixels still have to get.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    turn: int


def read_header(path: Path) -> Header:
    """Return what is known before decoding.

    Raises:
        UnfitError: it is no picture, has several frames or too many pixels; so does everything below.
    """
    with _open(path) as picture:
        return _read_header(picture)


def check_pixels(path: Path) -> None:
    """Decode a picture to find whether that works, a jpg at an eighth of its size."""
    with _open(path) as picture:
        _check_kind(picture)
        # A jpg's coefficients are all read, but only every 64th pixel is computed.
        picture.draft(None, (1, 1))
        picture.load()


def read_rgb(path: Path, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Return the upright picture, (H, W, 3) uint8 RGB, a jpg perhaps smaller but good for `at_least`. No alpha."""
    with _open(path) as picture:
        header = _read_header(picture)
        if at_least and header.upright != header.stored:
            at_least = at_least[::-1]
        return _upright(_read_pixels(path, picture, at_least), header.turn)


def decode(
    content: bytes, size: tuple[int, int] | None = None, at_least: tuple[int, int] | None = None
) -> np.ndarray | None:
    """Decode a picture with OpenCV, as it is stored, whatever a camera says of up and down.

    Args:
        content: of the file.
        size: its (height, width).
        at_least: (height, width) that it is needed at. A jpg of this `size` is then decoded to a half, a quarter or an
            eighth if that leaves enough.

    Returns:
        (H, W, 3) uint8 RGB, or None if it is damaged.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if size and at_least:
        flags |= _reduction(size, at_least)
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def read_mask(path: Path) -> np.ndarray:
    """Return the upright mask, (H, W) uint8 of 0 and 1; it must be black and white."""
    with _open(path) as picture:
        turn = _read_header(picture).turn
        return _upright(_cut(_read_levels(picture)), turn)


@contextmanager
def _open(path: Path) -> Iterator[ImageFile]:
    """Open a picture of a sensible size and a single frame, without decoding it.

    Raises:
        UnfitError: it is none, or what is done with it while it is open fails.
    """
    reader = _find_reader(path)
    try:
        with reader(path) as picture:
            _check_size(picture)
            yield picture
    except UnfitError:
        raise
    except Image.DecompressionBombError as error:
        raise UnfitError(f"has too many pixels: {_LIMITS}") from error
    except Exception as error:  # there is little that decoders do not raise for damaged files
        reason = str(error) or type(error).__name__
        raise UnfitError(f"cannot be decoded: it is damaged or of a rare kind ({reason})") from error


def _find_reader(path: Path) -> type[ImageFile]:
    try:
        status = path.stat()
        # Opening a pipe would wait for ever.
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError("is not a plain file")
        if not status.st_size:
            raise UnfitError("is empty")
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        nowhere = path.is_symlink() and isinstance(error, FileNotFoundError)
        raise UnfitError(
            "is a link to nothing" if nowhere else f"cannot be opened: {error.strerror}"
        ) from error
    for magic, reader in _READERS:
        if magic.match(start):
            return reader
    raise UnfitError("is no image, whatever its name says")


def _check_size(picture: ImageFile) -> None:
    width, height = picture.size
    if max(width, height) > _LARGEST_SIDE or width * height > _MOST_PIXELS:
        raise UnfitError(f"is {width}x{height} pixels: {_LIMITS}")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise UnfitError(f"has {frames} frames: a photograph has one")


def _check_kind(picture: ImageFile) -> None:
    if picture.mode in ("I", "F"):
        raise UnfitError(
            "has 32 bits a pixel, and nothing says which of its values is white: save it with 8 or 16"
        )


def _read_header(picture: ImageFile) -> Header:
    width, height = picture.size
    if isinstance(picture, PngImageFile):
        picture.load()  # its tags may come after its pixels
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged tags do not make a damaged photograph
        orientation = 1
    if orientation not in _TURNS:
        orientation = 1
    given, swapped = (height, width), (width, height)
    across = orientation >= 5
    if isinstance(picture, TiffImageFile):
        # Pillow turns these, and these only, by itself.
        return Header(swapped if across else given, given, 1)
    return Header(given, swapped if across else given, orientation)


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    return np.ascontiguousarray(_TURNS[turn](pixels))


def _reduction(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """Return OpenCV's flag for decoding to 1/n, or 0.

    The cosine transform leaves other pixels than averaging does, the more so the larger n, the less so the more they
    are averaged afterwards: n / 2 times what is needed must be left. Fitted photographs then differ by less than half
    a gray level, as measured on the competition's. And n must divide both sides, or the whole picture shifts.
    """
    for n, flag in _REDUCTIONS.items():
        if all(
            side % n == 0 and side >= n * n / 2 * least for side, least in zip(size, at_least, strict=True)
        ):
            return flag
    return 0


def _read_pixels(path: Path, picture: ImageFile, at_least: tuple[int, int] | None) -> np.ndarray:
    """Return the pixels as they are stored, (H, W, 3) uint8 RGB; `at_least` is as they are stored, too."""
    _check_kind(picture)
    if isinstance(picture, JpegImageFile | WebPImageFile) and picture.mode != "CMYK":
        # In half of Pillow's time. With png and tiff OpenCV gains less, and prints warnings about good files.
        reducible = isinstance(picture, JpegImageFile)
        pixels = decode(path.read_bytes(), picture.size[::-1], at_least if reducible else None)
        if pixels is None:
            raise UnfitError("cannot be decoded: it is damaged or of a rare kind")
        return pixels
    if picture.mode.startswith("I;16"):
        gray = np.array(picture) // 257
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    return _read_colors(picture)


def _read_colors(picture: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, from Pillow."""
    if isinstance(picture, JpegImageFile) and picture.mode == "CMYK" and "adobe" not in picture.info:
        # Adobe's files hold what is left white. Pillow takes all files for theirs.
        picture = ImageChops.invert(picture)
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # to RGB at once, it warns of alpha
    return np.array(picture.convert("RGB"))


def _read_levels(picture: ImageFile) -> np.ndarray:
    """Return (H, W), one number a pixel: 0 where the object is not."""
    picture.load()
    if picture.mode == "P":
        levels = _read_indices(picture)
        if levels is not None:
            return levels
    if picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;16"):
        return np.array(picture)
    if picture.has_transparency_data:
        alpha = np.array(picture.convert("RGBA").getchannel("A"))
        if (alpha != 255).any():
            return alpha
    return _read_colors(picture).max(axis=2)


def _read_indices(picture: ImageFile) -> np.ndarray | None:
    """Return the mask of a picture with a palette, or None if it is neither black and white nor has two indices."""
    used = [index for index, count in enumerate(picture.histogram()) if count]
    flat = picture.getpalette("RGB") or []
    colors = [tuple(flat[3 * index : 3 * index + 3]) for index in used]
    # Some programs put white first, so what can be seen goes before the numbers.
    if len(set(colors)) == len(used) and {*colors} <= {(0, 0, 0), (255, 255, 255)}:
        return np.isin(np.array(picture), [i for i, color in zip(used, colors, strict=True) if any(color)])
    return np.array(picture) if {*used} <= {0, 1} or {*used} <= {0, 255} else None


def _cut(levels: np.ndarray) -> np.ndarray:
    """Return uint8 of 0 and 1.

    A few grays are the soft edge of a white object, and are cut in the middle. They are not where there is nothing
    white or all of them are dark: labels are numbered from 1.

    Raises:
        UnfitError: it is not black and white.
    """
    for white in (1, 255, 65535):
        if ((levels == 0) | (levels == white)).all():
            return (levels == white).astype(np.uint8)
    white = 255 if levels.max() <= 255 else 65535
    gray = (levels != 0) & (levels != white)
    share = float(gray.mean())
    if share > _MOST_GRAY:
        raise UnfitError(
            f"is not a mask: {math.ceil(100 * share)} % of its pixels are neither black nor white"
        )
    grays = levels[gray]
    if grays.max() < white // 4 or not (levels == white).any():
        values = ", ".join(f"{value:g}" for value in np.unique(grays)[:5])
        raise UnfitError(f"is not a mask: besides black and white it has {values}, like a map of labels")
    return (levels >= (white + 1) // 2).astype(np.uint8)
