from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.postprocessing import fill_holes, keep_largest, postprocess
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.pixels import as_mask, check_image

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
MASK = IMAGE[..., 0] > 127
GEOMETRY = Geometry((4, 4), (4, 4))
LAYOUTS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda a: a,
    lambda a: a[::-1, ::-1],
    lambda a: a[::2, 1:-1],
    lambda a: a.swapaxes(0, 1),
    np.asfortranarray,
]
IMAGE_DOORS: list[Callable[[Any], Any]] = [
    check_image,
    GEOMETRY.fit_image,
    lambda image: visualization.overlay(image, MASK),
    lambda image: visualization.captioned(image, "a", 40),
    lambda image: visualization.grid([IMAGE, image], 2),
]
MASK_DOORS: list[Callable[[Any], Any]] = [
    as_mask,
    run_lengths.encode,
    run_lengths.find_edges,
    GEOMETRY.fit_mask,
    keep_largest,
    fill_holes,
    lambda mask: postprocess(mask, largest=False, filled=False),
    lambda mask: visualization.overlay(IMAGE, mask),
    lambda mask: visualization.agreement(MASK, mask),
]


@pytest.mark.parametrize("door", IMAGE_DOORS)
@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (IMAGE / 255.0, r"values from 0\S* to \S+\. Pass \(255 \* image\)\.round"),
        ((IMAGE / 255).astype(np.float16), r"\(255 \* image\)\.round"),
        (IMAGE.astype(float), r"Pass image\.round\(\)\.astype\(np\.uint8\)"),
        (IMAGE.astype(np.int64), r"image\.round\(\)\.astype"),
        (IMAGE.astype(np.uint16) * 257, r"image / 257"),
        ((IMAGE / 255 - 0.5) / 0.2, "pass the original image"),
        (np.where(MASK[..., None], IMAGE, np.nan), "Convert the colors"),
        (IMAGE > 3, r"image \* np\.uint8\(255\)"),
        (IMAGE[..., 0], r"gray: pass np\.stack"),
        (IMAGE[..., :1], r"gray: pass np\.repeat"),
        (IMAGE[..., :2], "three channels"),
        (np.dstack([IMAGE, IMAGE[..., 0]]), r"image\[\.\.\., :3\]"),
        (IMAGE.transpose(2, 0, 1), r"image\.transpose\(1, 2, 0\)"),
        (IMAGE[None], "one image at a time"),
        (IMAGE[:0], "no pixels"),
    ],
)
def test_what_is_no_image_is_refused_with_what_to_pass(door: Any, image: np.ndarray, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"An image must be \(H, W, 3\) uint8 RGB.*{advice}"):
        door(image)


@pytest.mark.parametrize("door", MASK_DOORS)
@pytest.mark.parametrize(
    ("mask", "advice"),
    [
        (MASK * np.uint8(255), r"values from 0 to 255\. Pass mask > 127"),
        (np.full((6, 8), 255, np.uint8), "mask > 127"),
        (MASK * np.uint8(2), "mask == value"),
        (-MASK.astype(np.int8), "mask == value"),
        (MASK.astype(np.float32), r"Pass mask > 0\.5"),
        (IMAGE[..., 0] / 300, "threshold of your probabilities"),
        (MASK * 255.0, "mask > 127"),
        (np.where(MASK, 1.0, np.nan), "mask == value"),
        (MASK[..., None], r"mask\[\.\.\., 0\]"),
        (MASK[None], r"mask\[0\]"),
        (IMAGE, "two dimensions"),
        (MASK[0], "two dimensions"),
    ],
)
def test_what_is_no_mask_is_refused_with_what_to_pass(door: Any, mask: np.ndarray, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"A mask must be \(H, W\) bool.*{advice}"):
        door(mask)


@pytest.mark.parametrize("door", [*IMAGE_DOORS, *MASK_DOORS])
@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        (torch.zeros(6, 8, 3, dtype=torch.uint8), r"not torch\.Tensor\. Pass .*\.cpu\(\)\.numpy\(\)"),
        (Image.new("RGB", (8, 6)), r"not PIL\.Image\.Image\. Pass .*np\.asarray"),
        ("car.jpg", r"not builtins\.str\."),
        ([[0, 1]], r"not builtins\.list\."),
    ],
)
def test_what_is_no_array_is_refused(door: Any, thing: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        door(thing)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_gives_the_same_result(layout: Callable[[np.ndarray], np.ndarray]) -> None:
    image, mask = layout(IMAGE), layout(MASK)
    image.flags.writeable = mask.flags.writeable = False
    plain_image, plain_mask = np.array(image, order="C"), np.array(mask, order="C")
    for result, expected in (
        (GEOMETRY.fit_image(image), GEOMETRY.fit_image(plain_image)),
        (GEOMETRY.fit_mask(mask), GEOMETRY.fit_mask(plain_mask)),
        (run_lengths.find_edges(mask), run_lengths.find_edges(plain_mask)),
        (keep_largest(mask), keep_largest(plain_mask)),
        (fill_holes(mask), fill_holes(plain_mask)),
        (visualization.overlay(image, mask), visualization.overlay(plain_image, plain_mask)),
    ):
        np.testing.assert_array_equal(result, expected)


@given(
    arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.sampled_from([np.uint8, np.int8, np.int64, np.uint32]),
)
def test_integers_0_and_1_are_the_same_mask_as_bool(mask: np.ndarray, dtype: type) -> None:
    integers = mask.astype(dtype)
    assert as_mask(mask) is mask
    np.testing.assert_array_equal(as_mask(integers), mask)
    assert run_lengths.encode(integers) == run_lengths.encode(mask)
    np.testing.assert_array_equal(GEOMETRY.fit_mask(integers), GEOMETRY.fit_mask(mask))
    np.testing.assert_array_equal(keep_largest(integers), keep_largest(mask))
    np.testing.assert_array_equal(fill_holes(integers), fill_holes(mask))


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The sizes differ.*\(6, 8\) and \(8, 6\)"):
        visualization.overlay(IMAGE, MASK.T)
    with pytest.raises(ValueError, match="The sizes differ"):
        visualization.agreement(MASK, MASK[:1])


def test_a_mask_without_pixels_is_kept_but_cannot_be_resized() -> None:
    """OpenCV crashes the process if it looks for the components of such a mask."""
    empty = np.zeros((0, 5), bool)
    assert keep_largest(empty).shape == fill_holes(empty).shape == (0, 5)
    with pytest.raises(ValueError, match="no pixels"):
        GEOMETRY.fit_mask(empty)
