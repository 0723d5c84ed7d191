import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from carvana_kedro.segmentation.data.area_resize import _weights, resize_by_area

Side = st.integers(1, 40)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_by_area(torch.from_numpy(image)[None], size)[0].numpy()


@given(Side, Side, Side, Side, st.integers(0, 2**32 - 1))
def test_the_result_is_that_of_opencv_up_to_one_level(
    height: int, width: int, more_rows: int, more_columns: int, seed: int
) -> None:
    shape = (height + more_rows - 1, width + more_columns - 1, 3)
    image = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    difference = np.abs(resized(image, (height, width)).astype(int) - expected)
    assert difference.max() <= 1
    if (more_rows, more_columns) == (1, 1):
        assert not difference.any()


@pytest.mark.parametrize("size", [(683, 1024), (640, 960), (256, 384)])
def test_an_image_of_the_competition_rarely_differs_at_all(size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[:1280, :1918]
    smooth = np.stack([rows / 6, columns / 9, np.hypot(rows - 600, columns - 900) / 6], axis=-1)
    noise = np.random.default_rng(0).integers(-20, 20, smooth.shape)
    image = (smooth + noise).clip(0, 255).astype(np.uint8)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(resized(image, size).astype(int) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.01


@pytest.mark.parametrize("size", [(683, 1024), (640, 960), (256, 384)])
def test_factors_in_float16_stay_within_one_level(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(256, size=(1280, 1918, 1), dtype=np.uint8)
    rows, columns = (
        _weights(outer, inner, torch.device("cpu"), torch.float16).float()
        for outer, inner in zip(image.shape, size, strict=False)
    )
    # As a GPU does: factors and results in float16, sums in float32.
    between = (torch.from_numpy(image)[..., 0].float() @ columns.T).half().float()
    found = (rows @ between).half().float().round().numpy()
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and difference.mean() < 0.1


def test_on_a_gpu_the_factors_are_float16() -> None:
    _weights.cache_clear()
    with FakeTensorMode():
        images = torch.empty(2, 20, 30, 3, dtype=torch.uint8, device="cuda:0")
        found = resize_by_area(images, (8, 12))
    dtypes = _weights(20, 8, torch.device("cuda:0"), torch.float16).dtype
    _weights.cache_clear()
    assert (found.shape, found.dtype, dtypes) == ((2, 8, 12, 3), torch.uint8, torch.float16)
