from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images.encoding import encode, software_of
from carvana_kedro.stores.images.reading import read_image

RANDOM = np.random.default_rng(0)


def test_a_png_holds_the_exact_pixels() -> None:
    image = RANDOM.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    assert (read_image(encode(image, ".png")) == image).all()
    mask = image[..., 0] > 127
    assert ((read_image(encode(mask, ".png")) > 127) == mask[..., None]).all()


@pytest.mark.parametrize("suffix", [".webp", ".jpg"])
def test_other_formats_hold_nearly_the_same_pixels(suffix: str) -> None:
    image = np.full((32, 32, 3), (250, 120, 10), np.uint8)
    assert np.abs(read_image(encode(image, suffix)).astype(int) - image).max() < 12


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_is_kept(suffix: str) -> None:
    image = np.full((32, 32, 4), (250, 120, 10, 255), np.uint8)
    image[:16, :, 3] = 0
    found = np.asarray(Image.open(BytesIO(encode(image, suffix))))
    assert (found[..., 3] == image[..., 3]).all()
    assert np.abs(found[20:, :, :3].astype(int) - image[20:, :, :3]).max() < 12


def test_a_webp_that_is_too_large_is_an_error() -> None:
    with pytest.raises(UserError, match="at most 16383 pixels per side, not 16384x1"):
        encode(np.zeros((1, 16_384), bool), ".webp")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_a_picture_can_name_the_program_that_wrote_it(
    tmp_path: Path, suffix: str, channels: tuple[int, ...]
) -> None:
    image = RANDOM.integers(0, 256, (9, 13, *channels), dtype=np.uint8)
    path = tmp_path / f"x{suffix.upper()}"
    path.write_bytes(encode(image, suffix))
    assert software_of(path) == ""
    plain = np.asarray(Image.open(path))
    path.write_bytes(encode(image, suffix, software="program 1.0"))
    assert software_of(path) == "program 1.0"
    assert (np.asarray(Image.open(path)) == plain).all()


def test_a_file_that_cannot_be_read_names_no_program(tmp_path: Path) -> None:
    whole = encode(np.zeros((4, 4), bool), ".png", software="program")
    for content in (b"", b"text", whole[:40]):
        (tmp_path / "x.png").write_bytes(content)
        assert software_of(tmp_path / "x.png") == ""
    assert software_of(tmp_path) == software_of(tmp_path / "missing.webp") == ""
