"""Images as users have them: in all formats, damaged, and hostile."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, ImageChops

HEIGHT, WIDTH = 40, 64
ORIENTATION = 0x0112
LIMITS = "the limits are 32768 per side and 100 million in total"

# Smooth, so that jpg preserves it. The corners differ, so that every rotation changes it.
_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
COLORS = np.stack([3 * _COLUMNS + 40, 4 * _ROWS + 50, 120 + _COLUMNS - _ROWS], axis=2).astype(np.uint8)
IMAGE = Image.fromarray(COLORS)
GRAY = np.array(IMAGE.convert("L"))
SHAPE = np.zeros((HEIGHT, WIDTH), np.uint8)
SHAPE[10:22, 8:40] = 1


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opencv(ending: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(ending, pixels, options)[1].tobytes()


def exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    jpeg = bytearray(encode(IMAGE, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(jpeg)


def webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def png_with_late_tags(orientation: int) -> bytes:
    png = encode(IMAGE, "PNG")
    tags = chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
    return png[:-12] + tags + png[-12:]


def cmyk(adobe: bool) -> bytes:
    """Return a CMYK jpg as Adobe stores it, inverted and marked, or as the standard defines it."""
    inks = IMAGE.convert("CMYK")
    if adobe:
        return encode(inks, "JPEG", quality=95)
    jpeg = encode(ImageChops.invert(inks), "JPEG", quality=95)
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + struct.unpack(">H", jpeg[start + 2 : start + 4])[0] :]


def damaged_tags() -> bytes:
    return encode(IMAGE, "JPEG", quality=95, exif=b"Exif\0\0nonsense")


def many_pages() -> bytes:
    """Return a tiff of 20 000 pages: counting them takes a time that grows with the square of their number."""
    tiff = encode(IMAGE, "TIFF")
    (first,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, first)
    page = tiff[first : first + 2 + 12 * entries]
    ends = [len(tiff) + (len(page) + 4) * (number + 1) for number in range(20_000)]
    pages = b"".join(page + struct.pack("<I", end) for end in ends)
    header = tiff[:4] + struct.pack("<I", len(tiff))
    return header + tiff[8:] + pages[:-4] + bytes(4)


def many_scans() -> bytes:
    """Return a small progressive jpg in which the last scan is repeated 300 times."""
    jpeg = encode(IMAGE, "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda\0") : -2]
    return jpeg[:-2] + 300 * last + jpeg[-2:]


JPEG = encode(IMAGE, "JPEG", quality=95)
PNG = encode(IMAGE, "PNG")
INDEXED = IMAGE.quantize(64)
TINY = Image.new("RGB", (1, 1), (200, 100, 50))
FRAMES = [Image.new("RGB", IMAGE.size, (20 * number, 0, 0)) for number in range(11)]
ALL_GRAY = np.repeat(GRAY[..., None], 3, axis=2)

# File name, content, the result of read_image.
READABLE = [
    ("plain.jpg", JPEG, COLORS),
    ("UPPER.JPG", JPEG, COLORS),
    ("progressive.jpeg", encode(IMAGE, "JPEG", quality=95, progressive=True), COLORS),
    ("gray.jpg", encode(IMAGE.convert("L"), "JPEG", quality=95), ALL_GRAY),
    ("cmyk.jpg", cmyk(adobe=False), COLORS),
    ("cmyk_adobe.jpg", cmyk(adobe=True), COLORS),
    ("preview_behind.jpg", encode(IMAGE, "MPO", quality=95, save_all=True, append_images=[TINY]), COLORS),
    ("junk_behind.jpg", JPEG + b"junk" * 99, COLORS),
    ("damaged_tags.jpg", damaged_tags(), COLORS),
    ("really_a_png.jpg", PNG, COLORS),
    ("a name with spaces, Ünïcode 車.png", PNG, COLORS),
    ("gray16.png", opencv(".png", GRAY.astype(np.uint16) * 257), ALL_GRAY),
    ("rgb16.png", opencv(".png", COLORS[..., ::-1].astype(np.uint16) * 257), COLORS),
    ("palette.png", encode(INDEXED, "PNG"), np.array(INDEXED.convert("RGB"))),
    (
        "palette_alpha.png",
        encode(INDEXED, "PNG", transparency=bytes(range(64))),
        np.array(INDEXED.convert("RGB")),
    ),
    ("rgba.png", encode(IMAGE.convert("RGBA"), "PNG"), COLORS),
    ("gray_alpha.png", encode(IMAGE.convert("LA"), "PNG"), ALL_GRAY),
    ("one_bit.png", encode(Image.fromarray(SHAPE * 255).convert("1"), "PNG"), np.dstack([SHAPE * 255] * 3)),
    ("gray16.tif", opencv(".tif", GRAY.astype(np.uint16) * 257), ALL_GRAY),
    ("rgb16.tiff", opencv(".tif", COLORS[..., ::-1].astype(np.uint16) * 257), COLORS),
    ("lzw.tif", encode(IMAGE, "TIFF", compression="tiff_lzw"), COLORS),
    ("deflate.TIFF", encode(IMAGE, "TIFF", compression="tiff_deflate"), COLORS),
    ("cmyk.tif", encode(IMAGE.convert("CMYK"), "TIFF"), COLORS),
    ("plain.bmp", encode(IMAGE, "BMP"), COLORS),
    ("plain.avif", encode(IMAGE, "AVIF", quality=95), COLORS),
    ("lossless.webp", encode(IMAGE, "WEBP", lossless=True), COLORS),
    ("lossy.webp", encode(IMAGE, "WEBP", quality=95), COLORS),
    ("alpha.webp", encode(IMAGE.convert("RGBA"), "WEBP", lossless=True), COLORS),
]

# File name, content, the reported problem.
UNREADABLE = [
    ("cut.jpg", JPEG[: len(JPEG) // 2], "cannot be decoded: "),
    ("cut.png", PNG[: len(PNG) // 2], "cannot be decoded: "),
    ("cut.webp", encode(IMAGE, "WEBP")[:-50], "cannot be decoded: "),
    ("cut.avif", encode(IMAGE, "AVIF")[:-50], "cannot be decoded: "),
    ("cut.bmp", encode(IMAGE, "BMP")[:-500], "cannot be decoded: "),
    ("cut.tif", encode(IMAGE, "TIFF", compression="tiff_lzw")[:-50], "cannot be decoded: "),
    ("only_magic.tif", b"II*\0", "cannot be decoded: "),
    ("flipped.png", PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "cannot be decoded: "),
    ("text.jpg", b"not an image at all", "is not an image, despite its name"),
    ("zero.jpg", b"", "is empty"),
    (
        "animated.webp",
        encode(IMAGE, "WEBP", save_all=True, append_images=FRAMES),
        "has several frames instead of one",
    ),
    (
        "animated.png",
        encode(IMAGE, "PNG", save_all=True, append_images=[TINY.resize((64, 40))]),
        "has several frames",
    ),
    (
        "pages.tif",
        encode(IMAGE, "TIFF", save_all=True, append_images=[IMAGE]),
        "has several frames instead of one",
    ),
    ("many_pages.tif", many_pages(), "has several frames instead of one"),
    ("many_scans.jpg", many_scans(), "has 310 scans: the limit is 200"),
    ("wide.png", png_header(60_000, 100), f"is 60000x100 pixels: {LIMITS}"),
    ("wide.jpg", jpeg_header(60_000, 100), f"is 60000x100 pixels: {LIMITS}"),
    ("bomb.png", png_header(30_000, 30_000), f"is 30000x30000 pixels: {LIMITS}"),
    ("bomb.jpg", jpeg_header(11_000, 11_000), f"is 11000x11000 pixels: {LIMITS}"),
    ("bomb.webp", webp_header(1 << 24, 200), f"has too many pixels: {LIMITS}"),
    ("float.tif", opencv(".tif", GRAY.astype(np.float32) / 255), "has 32 bits per pixel"),
]
