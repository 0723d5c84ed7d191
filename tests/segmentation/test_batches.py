import numpy as np
import pytest
import torch

from carvana_kedro.segmentation.batches import Batches, CachedSamples, Samples
from carvana_kedro.segmentation.geometry import Geometry
from carvana_kedro.stores.images import ImageStore

GEOMETRY = Geometry((32, 48), (32, 48))


@pytest.fixture
def samples(training_images: ImageStore) -> Samples:
    return Samples(training_images, training_images.ids()[:10], GEOMETRY)


def _positions(batches: Batches, epoch: int) -> list[int]:
    return torch.cat([positions for positions, _, _ in batches.epoch(epoch)]).tolist()


def test_a_sample_is_the_fitted_image_and_mask(samples: Samples, training_images: ImageStore) -> None:
    position, image, target = samples[3]
    image_id = training_images.ids()[3]
    assert position == 3
    assert np.array_equal(image, GEOMETRY.fit_image(training_images.read_image(image_id)))
    assert np.array_equal(target, GEOMETRY.fit_mask(training_images.read_mask(image_id)))


def test_the_cache_holds_the_same(samples: Samples) -> None:
    cached = CachedSamples(samples)
    for position in range(len(samples)):
        for expected, found in zip(samples[position], cached[position], strict=True):
            assert np.array_equal(expected, found)


def test_batches_are_uint8(samples: Samples) -> None:
    _, images, targets = next(iter(Batches(samples, 4).epoch(1)))
    assert (images.shape, images.dtype) == ((4, 32, 48, 3), torch.uint8)
    assert (targets.shape, targets.dtype) == ((4, 32, 48), torch.uint8)


def test_without_a_seed_every_image_comes_in_order(samples: Samples) -> None:
    batches = Batches(samples, 4)
    assert _positions(batches, 1) == list(range(10))
    assert len(batches) == len(list(batches.epoch(1))) == 3


def test_the_order_is_a_function_of_seed_and_epoch(samples: Samples) -> None:
    batches = Batches(CachedSamples(samples), 5, seed=1)
    first = _positions(batches, 1)
    assert sorted(first) == list(range(10))
    assert first == _positions(Batches(samples, 5, seed=1), 1)
    assert first != _positions(batches, 2)
    assert first != _positions(Batches(samples, 5, seed=2), 1)


def test_training_leaves_an_incomplete_batch_out_unless_it_is_the_only_one(samples: Samples) -> None:
    assert [len(Batches(samples, size, seed=1)) for size in (3, 4, 10, 11)] == [3, 2, 1, 1]
    for size in (3, 4, 10, 11):
        batches = Batches(samples, size, seed=1)
        assert len(list(batches.epoch(1))) == len(batches)


def test_workers_read_the_same(samples: Samples) -> None:
    alone, helped = Batches(samples, 4, seed=1), Batches(samples, 4, seed=1, workers=2)
    for expected, found in zip(alone.epoch(1), helped.epoch(1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
