from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork, build
from carvana_kedro.segmentation.predictor import Predictor
from carvana_kedro.segmentation.trainer import train
from carvana_kedro.stores.images import ImageStore

Setup = Callable[..., tuple]


class Red(SegmentationNetwork):
    """Finds what is more red than half: stands for a perfect network, so that only the geometry can err."""

    stride = 1

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 0] - 0.5) * 20


def test_the_edge_is_found_between_the_networks_pixels() -> None:
    # A red disc that the network sees at a quarter of its size.
    rows, columns = np.mgrid[:240, :360]
    disc = (rows - 100.3) ** 2 + (columns - 201.7) ** 2 < 61.5**2
    image = np.zeros((240, 360, 3), np.uint8)
    image[..., 0] = disc * 255
    mask = Predictor(Red(), (60, 90), device="cpu", precision="float32")(image)
    assert (mask.shape, mask.dtype) == ((240, 360), np.bool_)
    assert 2 * (mask & disc).sum() / (mask.sum() + disc.sum()) > 0.995
    # A mask thresholded first and enlarged afterwards has steps of four pixels.
    coarse = np.kron(Predictor(Red(), (60, 90), device="cpu")(image[::4, ::4]), np.ones((4, 4), bool))
    assert (mask ^ disc).sum() < (coarse ^ disc).sum() / 3


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_threshold_is_on_the_probability(threshold: float) -> None:
    image = np.zeros((8, 256, 3), np.uint8)
    image[..., 0] = np.arange(256)
    mask = Predictor(Red(), (8, 256), device="cpu", precision="float32")(image, threshold)
    probability = 1 / (1 + np.exp(-(np.arange(256) / 255 - 0.5) * 20))
    assert np.array_equal(mask[0], probability > threshold)


def test_images_of_all_sizes_come_back_in_order_and_at_their_size() -> None:
    sizes = {"a": (100, 150), "b": (64, 96), "c": (31, 47), "d": (200, 90), "e": (64, 96)}

    class Source:
        def size(self, image_id: str) -> tuple[int, int]:
            return sizes[image_id]

        def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
            return np.full((*sizes[image_id], 3), 255 * (image_id in "ac"), np.uint8)

        def read_mask(self, image_id: str) -> np.ndarray:
            raise AssertionError("prediction needs no masks")

    predictor = Predictor(Red(), (32, 48), device="cpu")
    for batch_size in (1, 2, 5):
        found = dict(predictor.predict(Source(), list(sizes), batch_size=batch_size))
        assert list(found) == list(sizes)
        assert {image_id: mask.shape for image_id, mask in found.items()} == sizes
        assert [mask.all() for mask in found.values()] == [True, False, True, False, False]
        assert [mask.any() for mask in found.values()] == [True, False, True, False, False]


def test_masks_are_of_the_photographs_own_size_though_it_is_decoded_smaller(
    training_images: ImageStore,
) -> None:
    image_id = training_images.ids()[0]
    predictor = Predictor(Red(), (32, 48), device="cpu")
    assert training_images.read_image(image_id, (32, 48)).shape == (80, 120, 3)
    ((_, mask),) = predictor.predict(training_images, [image_id])
    assert mask.shape == training_images.size(image_id) == (160, 240)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(training_images: ImageStore, workers: int) -> None:
    first, *_ = training_images.ids()
    predictor = Predictor(Red(), (32, 48), device="cpu")
    found = predictor.predict(training_images, [first, "gone"], batch_size=1, workers=workers)
    assert next(found)[0] == first
    with pytest.raises(UserError, match=r"gone\.jpg is missing\.$"):
        next(found)


def test_a_trained_model_predicts_what_the_training_saw(setup: Setup, training_images: ImageStore) -> None:
    run, train_batches, validation_batches = setup(epochs=1)
    train(run, train_batches, validation_batches)
    predictor = Predictor.from_model(run.state()["model"], device="cpu", precision="float32")
    _, images, _ = next(iter(validation_batches.epoch(1)))
    with torch.no_grad():
        expected = run.predict(run.model, images.permute(0, 3, 1, 2).float() / 255)
    masks = predictor.masks([image.numpy() for image in images], [(32, 48)] * len(images), 0.5)
    for mask, logits in zip(masks, expected, strict=True):
        clear = logits.abs() > 1e-3
        assert np.array_equal(mask[clear], (logits > 0).numpy()[clear])


def test_the_valid_network_predicts_the_whole_image() -> None:
    predictor = Predictor(build("unet_original", width_multiplier=0.03), (188, 204), device="cpu")
    assert predictor.geometry.output_size == (4, 20)
    assert predictor(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)


def test_weights_of_another_network_are_refused() -> None:
    model = {
        "architecture": "unet_small",
        "width_multiplier": 0.5,
        "input_size": [32, 48],
        "threshold": 0.5,
        "weights": build("unet_small", width_multiplier=0.25).state_dict(),
    }
    with pytest.raises(UserError, match="The weights do not fit unet_small"):
        Predictor.from_model(model)
    with pytest.raises(UserError, match=r"not a model of ours: it lacks architecture, .*weights"):
        Predictor.from_model(model["weights"])
