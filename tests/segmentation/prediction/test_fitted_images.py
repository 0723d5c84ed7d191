import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction import fitted_images
from carvana_kedro.segmentation.prediction.fitted_images import FittedImages, ImageBatch

SIZE = (8, 12)
IDS = [f"car_{number:02}" for number in range(11)]
BATCHES = [np.arange(start, min(start + 3, 11)) for start in range(0, 11, 3)]


class Noise:
    """Images of noise. `car_04` cannot be read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def size(self, image_id: str) -> tuple[int, int]:
        return 20 + int(image_id[-2:]), 30

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        self.read.append(image_id)
        if image_id == "car_04":
            raise ValueError("no pixels")
        seed = int(image_id[-2:])
        return np.random.default_rng(seed).integers(256, size=(*self.size(image_id), 3), dtype=np.uint8)

    def read_mask(self, image_id: str) -> np.ndarray:
        raise AssertionError("prediction must not read masks")


def images_of(source: Noise, allow_bad: bool = True) -> FittedImages:
    return FittedImages(source, IDS, Geometry(SIZE, SIZE), allow_bad)


@pytest.mark.parametrize("num_threads", [1, 2, 16])
def test_threads_read_the_same_batches_as_this_thread(num_threads: int) -> None:
    images = images_of(Noise())
    found = list(images.read_in_threads(BATCHES, num_threads))
    expected = [images.read(positions.tolist()) for positions in BATCHES]
    assert [batch.ids for batch in found] == [batch.ids for batch in expected]
    assert [batch.sizes for batch in found] == [batch.sizes for batch in expected]
    assert [batch.problems for batch in found] == [batch.problems for batch in expected]
    assert found[1].problems == ["", "car_04 cannot be read: ValueError: no pixels", ""]
    for one, other in zip(found, expected, strict=True):
        for image, fitted in zip(one.images, other.images, strict=True):
            assert image.dtype == torch.uint8
            assert np.array_equal(images.geometry.fit_image(image.numpy()), fitted.numpy())
    assert [tuple(image.shape) for image in found[1].images] == [(23, 30, 3), (*SIZE, 3), (25, 30, 3)]
    assert not found[1].images[1].any()


def test_only_images_that_shrink_and_are_not_large_are_left_to_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitted_images, "_MOST_BYTES", 26 * 30 * 3)
    source = Noise()
    (batch,) = FittedImages(source, IDS, Geometry((22, 12), (22, 12)), True).read_in_threads(
        [np.arange(11)], 2
    )
    heights = [len(image) for image in batch.images]
    assert heights == [22, 22, 22, 23, 22, 25, 26, 22, 22, 22, 22]
    widths = [image.shape[1] for image in batch.images]
    assert widths == [12, 12, 30, 30, 12, 30, 30, 12, 12, 12, 12]


def test_an_image_that_a_thread_cannot_read_is_an_error_in_its_batch() -> None:
    batches = images_of(Noise(), allow_bad=False).read_in_threads(BATCHES, 2)
    assert next(batches).ids == IDS[:3]
    with pytest.raises(UserError, match="car_04 cannot be read: ValueError: no pixels"):
        next(batches)


def test_several_threads_read_at_once() -> None:
    both = threading.Barrier(2, timeout=30)

    class Meeting(Noise):
        def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
            both.wait()  # raises unless two threads are here
            return np.zeros((20, 30, 3), np.uint8)

    images = FittedImages(Meeting(), IDS[:4], Geometry(SIZE, SIZE), allow_bad=False)
    (batch,) = images.read_in_threads([np.arange(4)], 2)
    assert batch.ids == IDS[:4]


def test_few_batches_are_read_ahead_and_none_after_the_end() -> None:
    source = Noise()
    before = threading.active_count(), cv2.getNumThreads()
    batches: Iterator[ImageBatch] = images_of(source).read_in_threads(BATCHES, 1)
    assert not source.read
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert set(source.read) <= set(IDS[:6])  # two images per thread, and the rest of their batch
    assert (threading.active_count(), cv2.getNumThreads()) == before
