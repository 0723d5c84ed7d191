from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images.encoding import encode
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
