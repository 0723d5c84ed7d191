"""Images with color profiles are read in sRGB. The profiles are made here, from the primaries that define them."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms

from carvana_kedro.stores.images.decoding import read_rgb
from carvana_kedro.stores.images.reading import read_image

# Primaries (x, y) of red, green and blue, white point (x, y), gamma. None: the curve of sRGB.
SPACES = {
    "Display P3": ([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], (0.3127, 0.3290), None),
    "Adobe RGB": ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], (0.3127, 0.3290), 563 / 256),
    "ProPhoto": (
        [(0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105)],
        (0.345704, 0.358540),
        1.8,
    ),
    "sRGB": ([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], (0.3127, 0.3290), None),
}
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _to_xyz(space: str) -> np.ndarray:
    """Return the matrix from linear RGB to XYZ relative to D50."""
    primaries, white, _ = SPACES[space]
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    x, y = white
    white_xyz = np.array([x / y, 1, (1 - x - y) / y])
    matrix = columns * np.linalg.solve(columns, white_xyz)
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white_xyz)) @ BRADFORD @ matrix


def _linear(levels: np.ndarray, gamma: float | None) -> np.ndarray:
    values = levels / 255
    return (
        values**gamma
        if gamma
        else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    )


def _encoded(values: np.ndarray, gamma: float | None) -> np.ndarray:
    values = np.clip(values, 0, 1)
    curve = values ** (1 / gamma) if gamma else np.where(
        values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055
    )  # fmt: skip
    return np.rint(255 * curve)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _curve(gamma: float | None) -> bytes:
    if gamma:
        return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)
    return (
        b"para"
        + bytes(4)
        + struct.pack(">HH", 3, 0)
        + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    )


def _profile(
    color_space: bytes,
    tags: dict[bytes, bytes],
    connection: bytes = b"XYZ ",
    device: bytes = b"mntr",
    version: int = 0x04300000,
) -> bytes:
    text = "test".encode("utf-16-be")
    described = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    tags = {b"desc": described, b"cprt": described, b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50), **tags}
    table, content, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(content), len(data))
        content += data
    header = struct.pack(">I4sI4s4s4s", 0, b"test", version, device, color_space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*D50) + bytes(48)
    size = struct.pack(">I", len(header) + len(table) + len(content))
    return size + header[4:] + table + content


def _rgb_profile(space: str) -> bytes:
    curve = _curve(SPACES[space][2])
    columns = {
        name: b"XYZ " + bytes(4) + _fixed(*column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _to_xyz(space).T, strict=True)
    }
    return _profile(b"RGB ", {**columns, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def _in_space(srgb: np.ndarray, space: str) -> np.ndarray:
    """Return the levels of sRGB colors in another space."""
    linear = np.linalg.solve(_to_xyz(space), _to_xyz("sRGB") @ _linear(srgb.reshape(-1, 3), None).T)
    return _encoded(linear.T, SPACES[space][2]).reshape(srgb.shape).astype(np.uint8)


def _to_srgb(stored: np.ndarray, space: str) -> np.ndarray:
    """Return the levels in sRGB of colors in another space."""
    linear = _linear(stored.reshape(-1, 3), SPACES[space][2]).T
    return _encoded(np.linalg.solve(_to_xyz("sRGB"), _to_xyz(space) @ linear).T, None).reshape(stored.shape)


# Smooth, so that jpg preserves it. Colors that all spaces contain.
_ROWS, _COLUMNS = np.mgrid[0:64, 0:96]
SRGB = np.stack([2 * _COLUMNS + 40, 3 * _ROWS + 30, 200 - _COLUMNS - _ROWS // 2], axis=2).astype(np.uint8)


@pytest.mark.parametrize("space", ["Display P3", "Adobe RGB", "ProPhoto"])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "avif"])
def test_colors_are_converted_to_srgb(tmp_path: Path, space: str, kind: str) -> None:
    stored = _in_space(SRGB, space)
    path = tmp_path / f"photograph.{kind}"
    options = {"jpg": {"quality": 97, "subsampling": 0}, "webp": {"lossless": True}, "avif": {"quality": 98}}
    Image.fromarray(stored).save(path, icc_profile=_rgb_profile(space), **options.get(kind, {}))
    image = read_rgb(path)
    assert np.abs(stored.astype(int) - SRGB).mean() > 4
    assert np.abs(image.astype(int) - SRGB).mean() < 2.5
    if kind in ("png", "tif", "webp"):
        assert np.abs(image - _to_srgb(stored, space)).max() <= 2
    if kind == "jpg":
        reduced = read_rgb(path, (32, 48))
        assert reduced.shape == (32, 48, 3)
        assert np.abs(reduced - SRGB.reshape(32, 2, 48, 2, 3).mean((1, 3))).mean() < 2.5


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(
    "profile",
    [_rgb_profile("sRGB"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
    ids=["made here", "of Pillow"],
)
def test_an_image_that_is_srgb_already_is_not_changed(tmp_path: Path, kind: str, profile: bytes) -> None:
    without, with_profile = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    Image.fromarray(SRGB).save(without)
    Image.fromarray(SRGB).save(with_profile, icc_profile=profile)
    assert np.array_equal(read_rgb(without), read_rgb(with_profile))


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_gray_images_are_converted_with_their_profile(tmp_path: Path, kind: str) -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8)[None], 16, axis=0)
    expected = _encoded(_linear(gray, 1.8), None)
    path = tmp_path / f"gray.{kind}"
    options = {"quality": 98} if kind == "jpg" else {}
    Image.fromarray(gray).save(path, icc_profile=_profile(b"GRAY", {b"kTRC": _curve(1.8)}), **options)
    image = read_rgb(path)
    assert image.shape == (16, 256, 3)
    assert np.abs(image - expected[..., None]).max() <= (4 if kind == "jpg" else 1)
    Image.fromarray(gray).save(path, icc_profile=_rgb_profile("Adobe RGB"), **options)
    of_the_screen = _encoded(_linear(gray, 563 / 256), None)
    assert np.abs(read_rgb(path) - of_the_screen[..., None]).max() <= (4 if kind == "jpg" else 1)


def _cmyk_profile() -> bytes:
    """Return a profile in which the lightness falls evenly with each ink, and no ink has a color."""
    identity = bytes(range(256))
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(
        -1, 4
    )  # the last ink varies fastest
    lightness = 255 * (1 - inks[:, 3])
    grid = np.column_stack([lightness, lightness * 0 + 128, lightness * 0 + 128]).astype(np.uint8).tobytes()
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + grid + identity * 3
    return _profile(b"CMYK", {b"A2B0": table}, connection=b"Lab ", device=b"prtr", version=0x02400000)


@pytest.mark.parametrize("marked", [True, False], ids=["of Adobe", "without a marker"])
@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_inks_are_converted_with_their_profile(tmp_path: Path, kind: str, marked: bool) -> None:
    black = np.repeat(np.arange(0, 256, dtype=np.uint8)[None], 32, axis=0)
    inks = Image.merge("CMYK", [Image.fromarray(black * 0)] * 3 + [Image.fromarray(black)])
    if kind == "jpg" and not marked:
        inks = ImageChops.invert(inks)
    stream = io.BytesIO()
    options = {"quality": 98} if kind == "jpg" else {}
    inks.save(stream, {"jpg": "JPEG", "tif": "TIFF"}[kind], icc_profile=_cmyk_profile(), **options)
    content = stream.getvalue()
    if kind == "jpg" and not marked:
        content = content.replace(b"\xff\xee\x00\x0eAdobe", b"\xff\xed\x00\x0eOther")
    path = tmp_path / f"print.{kind}"
    path.write_bytes(content)
    lightness = 100 * (1 - black / 255)
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * 27 / 24389)
    assert np.abs(read_rgb(path) - _encoded(luminance, None)[..., None]).max() <= 4


@pytest.mark.parametrize("mode", ["P", "RGBA", "I;16"])
def test_other_modes_are_converted_too(tmp_path: Path, mode: str) -> None:
    stored = Image.fromarray(_in_space(SRGB, "Adobe RGB"))
    if mode == "I;16":
        gray = Image.fromarray(np.array(stored.convert("L")).astype(np.uint16) * 257)
        expected = _encoded(_linear(np.array(stored.convert("L")), 563 / 256), None)[..., None]
        gray.save(tmp_path / "a.png", icc_profile=_rgb_profile("Adobe RGB"))
        assert np.abs(read_rgb(tmp_path / "a.png") - expected).max() <= 1
        return
    converted = stored.quantize(256) if mode == "P" else stored.convert(mode)
    converted.save(tmp_path / "a.png", icc_profile=_rgb_profile("Adobe RGB"))
    assert np.abs(read_rgb(tmp_path / "a.png").astype(int) - SRGB).mean() < 5


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense",
        _rgb_profile("Adobe RGB")[:200],
        _profile(b"GRAY", {b"kTRC": _curve(1.8)}),
        _profile(b"RGB ", {}),
    ],
    ids=["nonsense", "cut", "of another color space", "without primaries"],
)
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_broken_profile_is_a_warning_and_the_colors_are_used_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: bytes, kind: str
) -> None:
    path = tmp_path / f"photograph.{kind}"
    Image.fromarray(SRGB).save(path)
    plain = read_rgb(path)
    Image.fromarray(SRGB).save(path, icc_profile=profile)
    for _ in range(2):
        assert np.array_equal(read_rgb(path), plain)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: the color profile cannot be used (")


def test_a_profile_that_cannot_be_unpacked_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.BytesIO()
    Image.fromarray(SRGB).save(stream, "JPEG", icc_profile=_rgb_profile("ProPhoto"))
    content = stream.getvalue().replace(
        b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2"
    )  # the second part is missing
    (tmp_path / "a.jpg").write_bytes(content)
    assert read_rgb(tmp_path / "a.jpg").shape == SRGB.shape
    assert "a.jpg: the color profile cannot be used (it is damaged)" in caplog.text


def test_the_color_profile_of_an_image_of_pillow_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(SRGB).save(path, icc_profile=_rgb_profile("Adobe RGB"))
    found = read_image(Image.open(path))
    assert (found == read_rgb(path)).all()
    assert (found != SRGB).mean() > 0.1
