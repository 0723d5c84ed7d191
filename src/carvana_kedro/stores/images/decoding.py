"""Decoding of images in common formats: upright sRGB images."""

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageChops, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from carvana_kedro.stores.images import color_profiles

_LARGEST_SIDE = 32_768
_MOST_PIXELS = 100_000_000
_LIMITS = f"the limits are {_LARGEST_SIDE} per side and {_MOST_PIXELS // 10**6} million in total"

# The start of a scan of a jpg: its marker, its length and its number of components, which determines the length. Each
# scan of a progressive jpg changes all pixels; encoders write about ten.
_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
_MOST_SCANS = 200

# `Image.open` raises an error for large sizes before it reports them, and counts the previews that phones append to a
# photograph (MPO) as frames. The readers themselves do neither. None: the reader of HEIC, which is not in Pillow.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile] | None], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"GIF8"), GifImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb".{4}ftyp(.{4})*?avi[fs]", re.DOTALL), AvifImageFile),
    (re.compile(rb".{4}ftyp(.{4})*?(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL), None),
)

# Combined with the flag for RGB, these flags select only the size. The reducing flags for color would select BGR.
_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}

# Rotations from the stored to the upright image, by EXIF orientation.
_ROTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class UnusableImageError(Exception):
    """The file cannot be used. The message continues after the name of the file: `is empty`."""


class Header(NamedTuple):
    """Size and orientation of an image.

    Attributes:
        stored: (height, width) of the stored image.
        upright: (height, width) of the upright image.
        orientation: EXIF orientation that has yet to be applied to the decoded pixels.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    orientation: int


def read_header(file: Path | bytes) -> Header:
    """Return size and orientation, without decoding the image.

    Args:
        file: the path of an image file, or its content. The functions below take either too.

    Raises:
        UnusableImageError: the file is not an image, has several frames or too many pixels. The functions below raise
            it too.
    """
    with open_image(file) as image:
        return header_of(image)


def check_pixels(path: Path) -> None:
    """Decode an image to check that this works. A jpg is decoded at 1/8 of its size."""
    with open_image(path) as image:
        _check_kind(image)
        if isinstance(image, JpegImageFile):
            image.draft(None, (1, 1))  # this reads all coefficients, but computes only every 64th pixel
        image.load()


def read_rgb(file: Path | bytes, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Return the upright image, (H, W, 3) uint8 RGB, without alpha.

    A jpg may be decoded at a reduced size that suffices for `at_least`, a (height, width).
    """
    with open_image(file) as image:
        header = header_of(image)
        if at_least and header.upright != header.stored:
            at_least = at_least[::-1]
        return rotate(_read_pixels(file, image, at_least), header.orientation)


def rgb_of(image: Image.Image) -> np.ndarray:
    """Return the upright sRGB pixels of an image that Pillow has opened or made, (H, W, 3) uint8, without alpha.

    Raises:
        UnusableImageError: it has too many pixels or no defined white, or its file cannot be decoded.
    """
    with _decoding():
        _check_side_and_pixels(image)
        _check_kind(image)
        orientation = header_of(image).orientation
        return rotate(_to_srgb(image, _colors(image), "An image"), orientation)


def decode(
    content: bytes, size: tuple[int, int] | None = None, at_least: tuple[int, int] | None = None
) -> np.ndarray | None:
    """Decode an image with OpenCV, as stored: EXIF orientation is ignored.

    Args:
        content: bytes of the file.
        size: (height, width) of the stored image.
        at_least: required (height, width). A jpg with `size` is decoded at 1/2, 1/4 or 1/8 if that suffices.

    Returns:
        (H, W, 3) uint8 RGB, or None if the image is damaged.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if size and at_least:
        flags |= _reduction(size, at_least)
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


@contextmanager
def open_image(file: Path | bytes) -> Iterator[ImageFile]:
    """Open an image with an allowed size and a single frame, without decoding it.

    Raises:
        UnusableImageError: the file is not such an image, or the block raises any exception.
    """
    reader = _find_reader(file)
    with _decoding(), reader(BytesIO(file) if isinstance(file, bytes) else file) as image:
        _check_size(image)
        yield image


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn any exception of the block, in which an image is decoded, into an `UnusableImageError`."""
    try:
        yield
    except UnusableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImageError(f"has too many pixels: {_LIMITS}") from error
    except Exception as error:  # decoders raise almost any exception for damaged files
        reason = str(error) or type(error).__name__
        raise UnusableImageError(
            f"cannot be decoded: it is damaged, or its format is not supported ({reason})"
        ) from error


def _find_reader(file: Path | bytes) -> type[ImageFile]:
    start = file[:64] if isinstance(file, bytes) else _start_of(file)
    if not start:
        raise UnusableImageError("is empty")
    for magic, reader in _READERS:
        if magic.match(start):
            if reader is AvifImageFile and not features.check("avif"):
                raise UnusableImageError(
                    "is an AVIF image, which this build of Pillow cannot read: pip install --upgrade pillow"
                )
            return reader or _heif_reader()
    raise UnusableImageError(
        "is not an image" if isinstance(file, bytes) else "is not an image, despite its name"
    )


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a regular file."""
    try:
        status = path.stat()
        # Opening a pipe would block.
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImageError("is not a regular file")
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        broken_link = path.is_symlink() and isinstance(error, FileNotFoundError)
        raise UnusableImageError(
            "is a broken link" if broken_link else f"cannot be opened: {error.strerror}"
        ) from error


def _heif_reader() -> type[ImageFile]:
    try:
        from pillow_heif import HeifImageFile  # an extra
    except ImportError as error:
        raise UnusableImageError(
            'is a HEIC image, which needs pillow-heif: pip install "carvana-kedro[heif]"'
        ) from error
    reader: type[ImageFile] = HeifImageFile
    return reader


def _check_side_and_pixels(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > _LARGEST_SIDE or width * height > _MOST_PIXELS:
        raise UnusableImageError(f"is {width}x{height} pixels: {_LIMITS}")


def _check_size(image: ImageFile) -> None:
    _check_side_and_pixels(image)
    # `n_frames` would read all frames, for a tiff in a time that grows with the square of their number.
    if getattr(image, "is_animated", False):
        raise UnusableImageError("has several frames instead of one")


def _check_kind(image: Image.Image) -> None:
    """Refuse an image whose white is not defined, or whose decoding would take a time out of proportion."""
    if isinstance(image, JpegImageFile) and image.fp:
        image.fp.seek(0)  # before decoding, Pillow itself seeks the pixels
        scans = sum(1 for _ in _SCAN.finditer(image.fp.read()))
        if scans > _MOST_SCANS:
            raise UnusableImageError(f"has {scans} scans: the limit is {_MOST_SCANS}")
    if image.mode in ("I", "F"):
        raise UnusableImageError(
            "has 32 bits per pixel, for which white is not defined: save it with 8 or 16 bits per pixel"
        )


def header_of(image: Image.Image) -> Header:
    """Return size and orientation of an open image."""
    width, height = image.size
    if isinstance(image, PngImageFile):
        image.load()  # the tags may follow the pixels
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an image with damaged tags can still be used
        orientation = 1
    if orientation not in _ROTATIONS:
        orientation = 1
    given, swapped = (height, width), (width, height)
    swaps_sides = orientation >= 5
    if isinstance(image, TiffImageFile):
        # Pillow itself rotates tiffs, and no other format. It gives the upright size.
        return Header(swapped if swaps_sides else given, given, 1)
    return Header(given, swapped if swaps_sides else given, orientation)


def rotate(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels upright, (H, W) or (H, W, channels), by EXIF orientation."""
    return np.ascontiguousarray(_ROTATIONS[orientation](pixels))


def _reduction(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """Return OpenCV's flag for decoding at 1/n of the size, or 0 for full size.

    The reduced size must be at least n / 2 times the required size. Decoding at 1/n in the cosine transform gives other
    pixels than averaging. The difference grows with n, and later averaging makes it smaller. With this rule, resized
    images of the competition differ by less than half a gray level. n must divide both sides: else the image shifts.
    """
    for n, flag in _REDUCTIONS.items():
        if all(
            side % n == 0 and side >= n * n / 2 * least for side, least in zip(size, at_least, strict=True)
        ):
            return flag
    return 0


def _read_pixels(file: Path | bytes, image: ImageFile, at_least: tuple[int, int] | None) -> np.ndarray:
    """Return the stored pixels in sRGB, (H, W, 3) uint8. `at_least` refers to the stored orientation too."""
    _check_kind(image)
    return _to_srgb(
        image, _read_stored(file, image, at_least), file if isinstance(file, Path) else "An image"
    )


def _to_srgb(image: Image.Image, pixels: np.ndarray, name: Path | str) -> np.ndarray:
    """Convert the pixels of an image from its color profile, if it has one, to sRGB. `name` is for warnings."""
    if "icc_profile" not in image.info:
        return pixels
    if image.mode == "CMYK":
        colors: Image.Image = _inks_of(image)
    else:
        colors = Image.fromarray(pixels[..., 0] if _is_gray(image) else pixels)
    converted = color_profiles.to_srgb(colors, image.info["icc_profile"], name)
    return pixels if converted is None else np.array(converted)


def _read_stored(file: Path | bytes, image: ImageFile, at_least: tuple[int, int] | None) -> np.ndarray:
    """Return the stored pixels in the file's own colors, (H, W, 3) uint8 RGB."""
    if isinstance(image, JpegImageFile | WebPImageFile) and image.mode != "CMYK":
        # OpenCV takes half the time of Pillow. For png and tiff it gains less, and prints warnings about valid files.
        reducible = isinstance(image, JpegImageFile)
        content = file if isinstance(file, bytes) else file.read_bytes()
        pixels = decode(content, image.size[::-1], at_least if reducible else None)
        if pixels is None:
            raise UnusableImageError("cannot be decoded: it is damaged, or its format is not supported")
        return pixels
    return _colors(image)


def _colors(image: Image.Image) -> np.ndarray:
    """Return the stored pixels in the image's own colors, (H, W, 3) uint8 RGB, from Pillow."""
    if image.mode.startswith("I;16"):
        gray = np.array(image) // 257
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    return colors_of(image)


def colors_of(image: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, from Pillow."""
    if image.mode == "CMYK":
        image = _inks_of(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # direct conversion to RGB would warn about alpha
    return np.array(image.convert("RGB"))


def _inks_of(image: Image.Image) -> Image.Image:
    """Return the image in CMYK, where 255 is full ink."""
    # Adobe stores inverted inks. Pillow assumes this for every jpg.
    inverted = isinstance(image, JpegImageFile) and "adobe" not in image.info
    return ImageChops.invert(image) if inverted else image


def _is_gray(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
