import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images.reading import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {"lossless": True}}


def _content(
    image: Image.Image, kind: str, orientation: int = 1, profile: bytes | None = None, **options: object
) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, icc_profile=profile, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_path_its_content_and_an_image_of_pillow_are_the_same_image(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    content = _content(Image.fromarray(PIXELS), kind, orientation, **LOSSLESS.get(kind, {"quality": 100}))
    path = tmp_path / "image"
    path.write_bytes(content)
    expected = read_image(path)
    assert expected.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert (read_image(str(path)) == expected).all()
    assert (read_image(content) == expected).all()
    from_pillow = read_image(Image.open(path)).astype(int)
    assert np.abs(from_pillow - expected).max() <= (8 if kind == "JPEG" else 0)  # two decoders


@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_an_image_of_pillow_of_any_mode_becomes_rgb(mode: str, size: tuple[int, int]) -> None:
    white = Image.new("L", size, 255)
    image = Image.new(mode, size, 65535) if mode == "I;16" else white.convert("RGB").convert(mode)
    found = read_image(image)
    assert found.dtype == np.uint8
    assert found.shape == (size[1], size[0], 3)
    assert (found == 255).all()


def test_errors_can_call_an_image_by_another_name(tmp_path: Path) -> None:
    for image in (b"", tmp_path / "missing.jpg"):
        with pytest.raises(UserError, match=r"^standard input "):
            read_image(image, name="standard input")


def test_an_array_is_itself() -> None:
    assert read_image(PIXELS) is PIXELS


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "The image is empty."),
        (b"no image", "The image is not an image."),
        (_content(Image.fromarray(PIXELS), "PNG")[:-40], "The image cannot be decoded"),
        (_content(Image.new("L", (40_000, 2)), "PNG"), "The image is 40000x2 pixels: the limits are"),
    ],
)
def test_content_that_is_no_image_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_image(content)
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem.replace("The image", str(path))):
        read_image(path)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.jpg cannot be opened: No such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(UserError, match="is not a regular file"):
        read_image(str(tmp_path))


def test_an_image_of_pillow_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(UserError, match="The image has 32 bits per pixel"):
        read_image(Image.new("F", (8, 8)))
    with pytest.raises(UserError, match="The image is 40000x1 pixels"):
        read_image(Image.new("L", (40_000, 1)))
    damaged = Image.open(io.BytesIO(_content(Image.fromarray(PIXELS), "PNG")[:-40]))
    with pytest.raises(UserError, match="The image cannot be decoded"):
        read_image(damaged)


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="An image must be"):
        read_image(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="It is gray"):
        read_image(np.zeros((8, 8), np.uint8))
