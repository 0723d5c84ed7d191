import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork, build_network
from carvana_kedro.segmentation.data.area_resize import _weights
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.fitted_images import ImageBatch
from carvana_kedro.segmentation.prediction.predictor import Prediction, Predictor
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.stores.checkpoints import save_checkpoint
from carvana_kedro.stores.images.competition import ImageStore
from models import changed
from pretended_cuda import GPU, Operations, pretended_cuda

Setup = Callable[..., tuple]


class Red(SegmentationNetwork):
    """Finds pixels that are more than half red: a perfect network, so that all errors are of the geometry."""

    stride = 1

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 0] - 0.5) * 20


def test_the_edge_of_a_mask_has_subpixel_precision() -> None:
    # A red disc. The network's input has a quarter of its size.
    rows, columns = np.mgrid[:240, :360]
    disc = (rows - 100.3) ** 2 + (columns - 201.7) ** 2 < 61.5**2
    image = np.zeros((240, 360, 3), np.uint8)
    image[..., 0] = disc * 255
    mask = Predictor([Red()], (60, 90), device="cpu", precision="float32")(image)
    assert (mask.shape, mask.dtype) == ((240, 360), np.bool_)
    assert 2 * (mask & disc).sum() / (mask.sum() + disc.sum()) > 0.995
    # A mask that is compared first and then enlarged has steps of four pixels.
    coarse = np.kron(Predictor([Red()], (60, 90), device="cpu")(image[::4, ::4]), np.ones((4, 4), bool))
    assert (mask ^ disc).sum() < (coarse ^ disc).sum() / 3


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_threshold_applies_to_the_probability(threshold: float) -> None:
    image = np.zeros((8, 256, 3), np.uint8)
    image[..., 0] = np.arange(256)
    mask = Predictor([Red()], (8, 256), device="cpu", precision="float32")(image, threshold)
    probability = 1 / (1 + np.exp(-(np.arange(256) / 255 - 0.5) * 20))
    assert np.array_equal(mask[0], probability > threshold)


def test_predictions_are_in_order_and_have_the_sizes_of_their_images() -> None:
    sizes = {"a": (100, 150), "b": (64, 96), "c": (31, 47), "d": (200, 90), "e": (64, 96)}

    class Source:
        def size(self, image_id: str) -> tuple[int, int]:
            return sizes[image_id]

        def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
            return np.full((*sizes[image_id], 3), 255 * (image_id in "ac"), np.uint8)

        def read_mask(self, image_id: str) -> np.ndarray:
            raise AssertionError("prediction must not read masks")

    predictor = Predictor([Red()], (32, 48), device="cpu")
    for batch_size in (1, 2, 5):
        predictions = predictor.predict(Source(), list(sizes), batch_size=batch_size)
        found = {prediction.image_id: prediction.mask(0.5) for prediction in predictions}
        assert list(found) == list(sizes)
        assert {image_id: mask.shape for image_id, mask in found.items()} == sizes
        assert [mask.all() for mask in found.values()] == [True, False, True, False, False]
        assert [mask.any() for mask in found.values()] == [True, False, True, False, False]


def test_a_mask_has_the_full_size_of_an_image_that_was_decoded_at_a_smaller_size(
    training_images: ImageStore,
) -> None:
    image_id = training_images.ids()[0]
    predictor = Predictor([Red()], (32, 48), device="cpu")
    assert training_images.read_image(image_id, (32, 48)).shape == (80, 120, 3)
    (prediction,) = predictor.predict(training_images, [image_id])
    mask = prediction.mask(0.5)
    assert mask.shape == training_images.size(image_id) == (160, 240)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_error_names_the_image_that_cannot_be_read(training_images: ImageStore, num_workers: int) -> None:
    first, *_ = training_images.ids()
    predictor = Predictor([Red()], (32, 48), device="cpu")
    found = predictor.predict(training_images, [first, "missing"], batch_size=1, num_workers=num_workers)
    assert next(found).image_id == first
    with pytest.raises(UserError, match=r"missing\.jpg is missing\.$"):
        next(found)


def test_a_trained_model_predicts_the_same_logits_as_in_training(
    setup: Setup, training_images: ImageStore
) -> None:
    run, train_batches, validation_batches = setup(epochs=1)
    train(run, train_batches, validation_batches)
    predictor = Predictor.from_model(TrainedModel.from_dict(run.state()), device="cpu", precision="float32")
    _, images, _ = next(iter(validation_batches.epoch(1)))
    with torch.no_grad():
        expected = run.predict(run.model, images.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(predictor.logits(images), expected, rtol=1e-3, atol=1e-3)


def test_flip_averages_over_the_image_and_its_mirror_image() -> None:
    class Left(Red):
        """Finds a car in the left half of any image."""

        def forward(self, images: Tensor) -> Tensor:
            logits = torch.full((len(images), *images.shape[2:]), -8.0)
            logits[:, :, : images.shape[3] // 2] = 4.0
            return logits

    image = torch.zeros(1, 8, 16, 3, dtype=torch.uint8)
    logits = Predictor([Left()], (8, 16), device="cpu", flip=True).logits(image)
    mean = (1 / (1 + math.exp(-4)) + 1 / (1 + math.exp(8))) / 2
    assert torch.allclose(logits, torch.full((1, 8, 16), math.log(mean / (1 - mean))), atol=1e-4)


def test_the_probabilities_of_several_networks_are_averaged() -> None:
    class Constant(Red):
        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit = logit

        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), *images.shape[2:]), self.logit)

    predictor = Predictor([Constant(10.0), Constant(-1.0), Constant(-1.0)], (8, 16), device="cpu")
    prediction = predictor.predict_one(np.zeros((20, 30, 3), np.uint8))
    expected = (1 / (1 + math.exp(-10)) + 2 / (1 + math.e)) / 3
    assert prediction.probabilities().shape == (20, 30)
    assert prediction.probabilities() == pytest.approx(expected, abs=1e-5)
    assert prediction.mask(0.5).all() and not prediction.mask(0.6).any()
    with pytest.raises(UserError, match="their output sizes differ"):
        Predictor([Red(), build_network("unet_original", width_multiplier=0.03)], (188, 204), device="cpu")


def test_every_kind_of_checkpoint_can_be_loaded(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=1)
    train(run, *batches)
    state = run.state()
    contents = {"model": state["model"], "best-000000003": {"model": state["model"]}, "last-000000003": state}
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    expected = (
        Predictor.from_model(TrainedModel.from_dict(state), device="cpu").predict_one(image).probabilities()
    )
    for name, content in contents.items():
        save_checkpoint(tmp_path / f"{name}.pt", content)
        predictor = Predictor.from_checkpoint(tmp_path / f"{name}.pt", device="cpu")
        assert np.array_equal(predictor.predict_one(image).probabilities(), expected)
    # The average of copies of one model equals that model.
    twice = Predictor.from_checkpoint(*[tmp_path / f"{name}.pt" for name in contents], device="cpu")
    assert twice.predict_one(image).probabilities() == pytest.approx(expected, abs=1e-6)
    assert TrainedModel.from_dict(state).threshold("auto") == run.history[-1]["best_threshold"]
    with pytest.raises(UserError, match=r"The checkpoint .* does not exist"):
        Predictor.from_checkpoint(tmp_path / "missing.pt")
    torch.save({"epoch": 1, "state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"foreign\.pt is truncated, or is not a carvana-kedro checkpoint"):
        Predictor.from_checkpoint(tmp_path / "foreign.pt")
    model = TrainedModel.from_dict(state)
    pair = TrainedModel.join([model, changed(model, input_size=(64, 96))])
    with pytest.raises(UserError, match="input sizes are equal, not 32 x 48, 64 x 96"):
        Predictor.from_model(pair)


def test_a_batch_that_does_not_fit_into_memory_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    class Greedy(Red):
        seen: ClassVar[list[int]] = []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(len(images))
            if len(images) > 3:
                torch.empty(2**60, dtype=torch.uint8)  # raises torch's error
            return super().forward(images)

    images = torch.randint(256, (10, 8, 16, 3), dtype=torch.uint8)
    predictor = Predictor([Greedy()], (8, 16), device="cpu")
    expected = Predictor([Red()], (8, 16), device="cpu").logits(images)
    assert torch.equal(predictor.logits(images), expected)
    assert Greedy.seen == [10, 5, 2, 2, 2, 2, 2]
    assert "5 images do not fit into memory together: continuing with 2 at a time" in caplog.text
    assert torch.equal(predictor.logits(images), expected)
    assert Greedy.seen[7:] == [2, 2, 2, 2, 2]

    class AlwaysOutOfMemory(Red):
        def forward(self, images: Tensor) -> Tensor:
            return torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(UserError, match="too small for a single image of 8 x 16"):
        Predictor([AlwaysOutOfMemory()], (8, 16), device="cpu").logits(images)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_on_bad_image_empty_leaves_masks_of_unreadable_images_empty(
    training_images: ImageStore, num_workers: int
) -> None:
    class Everything(Red):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), *images.shape[2:]), 5.0)

    first, second, *_ = training_images.ids()
    predictor = Predictor([Everything()], (32, 48), device="cpu")
    ids = [first, "missing", second]
    found = list(predictor.predict(training_images, ids, num_workers=num_workers, on_bad_image="empty"))
    assert [prediction.image_id for prediction in found] == ids
    assert [prediction.mask(0.5).all() for prediction in found] == [True, False, True]
    assert [prediction.mask(0.01).any() for prediction in found] == [True, False, True]
    assert [bool(prediction.problem) for prediction in found] == [False, True, False]
    assert found[1].problem.endswith("missing.jpg is missing.")
    assert [prediction.size for prediction in found] == [(160, 240), (32, 48), (160, 240)]
    assert found[1].edges(0.5).tolist() == []
    assert found[0].edges(0.5).tolist() == [0, 160 * 240]


def test_batches_do_not_cross_the_borders_of_shards(training_images: ImageStore) -> None:
    seen: list[int] = []

    class Counting(Red):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return super().forward(images)

    ids = training_images.ids()[:11]
    predictor = Predictor([Counting()], (32, 48), device="cpu")
    found = list(predictor.predict(training_images, ids, batch_size=3, shard_sizes=[5, 0, 5, 1]))
    assert seen == [3, 2, 3, 2, 1]
    assert [prediction.image_id for prediction in found] == ids
    assert not list(predictor.predict(training_images, []))


@pytest.mark.parametrize("architecture", ["unet_small", "unet_resnet34"])
def test_converting_the_weights_once_predicts_the_same_as_converting_them_for_every_batch(
    architecture: str,
) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, width_multiplier=0.25)
    images = torch.randint(256, (2, 64, 96, 3), dtype=torch.uint8)
    predictor = Predictor([network], (64, 96), device="cpu", precision="bfloat16")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = Segmenter(network, predictor.geometry)(images)
    found = predictor.logits(images)
    assert found.dtype == torch.float32 and found.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)


@pytest.mark.slow  # compiling for the CPU takes half a minute
def test_a_compiled_network_is_compiled_once_and_predicts_the_same(training_images: ImageStore) -> None:
    torch.manual_seed(0)
    network, ids = build_network("unet_small", width_multiplier=0.25), training_images.ids()[:5]
    options = {"device": "cpu", "precision": "float32"}
    plain, compiled = (
        list(
            Predictor([network], (32, 48), compile=compile, **options).predict(
                training_images, ids, batch_size=4
            )
        )
        for compile in (False, True)
    )
    assert [prediction.image_id for prediction in compiled] == ids
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)
    assert torch._dynamo.utils.counters["frames"]["ok"] == 1


def test_a_network_with_a_smaller_output_predicts_the_whole_image() -> None:
    predictor = Predictor([build_network("unet_original", width_multiplier=0.03)], (188, 204), device="cpu")
    assert predictor.geometry.output_size == (4, 20)
    assert predictor(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)


class SeveralSizes:
    """A source of red and black images of several sizes, with more edges in some than can be found in advance."""

    sizes: ClassVar = {
        "a": (60, 90),
        "b": (60, 90),
        "c": (31, 47),
        "d": (200, 90),
        "e": (60, 90),
        "f": (60, 90),
    }

    def size(self, image_id: str) -> tuple[int, int]:
        return self.sizes[image_id]

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        if image_id == "b":
            raise UserError("b is missing.")
        height, width = self.sizes[image_id]
        rows, columns = np.mgrid[:height, :width]
        circle = (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 4) ** 2
        inside = (columns // 3 % 2).astype(bool) if image_id == "e" else circle
        return np.where(inside[..., None], (255, 0, 0), (9, 9, 9)).astype(np.uint8)

    def read_mask(self, image_id: str) -> np.ndarray:
        raise AssertionError("prediction must not read masks")


def predict_ahead(predictor: Predictor, **options: Any) -> list[Prediction]:
    predictor._ahead = True  # as on a GPU
    found = list(predictor.predict(SeveralSizes(), list("abcdef"), on_bad_image="empty", **options))
    assert all(prediction.found for prediction in found)
    return found


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_finding_edges_ahead_gives_the_same_predictions(batch_size: int) -> None:
    predictor = Predictor([Red()], (60, 90), device="cpu", precision="float32")
    source = SeveralSizes()
    expected = list(predictor.predict(source, list("abcdef"), batch_size=batch_size, on_bad_image="empty"))
    assert not any(prediction.found for prediction in expected)
    found = predict_ahead(predictor, batch_size=batch_size, threshold=0.4)
    assert [prediction.image_id for prediction in found] == list("abcdef")
    assert [prediction.problem for prediction in found] == ["", "b is missing.", "", "", "", ""]
    assert any(
        prediction.found.edges is None for prediction in found
    )  # too many edges: they are found on demand
    assert sum(prediction.found.edges is not None for prediction in found) > 3

    def answers(prediction: Prediction) -> list[np.ndarray]:
        return [
            prediction.edges(0.4),
            prediction.edges(0.7),
            prediction.mask(0.4),
            prediction.probabilities(),
        ]

    with ThreadPoolExecutor(3) as threads:
        pairs = zip(map(answers, expected), threads.map(answers, found), strict=True)
        for one, other in pairs:
            assert all(map(np.array_equal, one, other))
    assert [len(prediction.edges(0.4)) > 0 for prediction in found] == [True, False, True, True, True, True]


def test_edges_that_were_found_ahead_need_no_work_on_the_device() -> None:
    predictor = Predictor([Red()], (60, 90), device="cpu", precision="float32")
    for prediction in predict_ahead(predictor, batch_size=2, threshold=0.4):
        if prediction.found.edges is not None:
            with Operations() as operations:
                prediction.edges(0.4)
            assert not operations.calls
        with Operations() as operations:
            prediction.edges(0.5)
        assert operations.calls


@pytest.mark.parametrize("ahead", [False, True])
def test_logits_that_are_not_finite_are_an_error_that_names_the_image(ahead: bool) -> None:
    class Diverged(Red):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            logits[-1, 0, 0] = torch.nan
            return logits

    predictor = Predictor([Diverged()], (60, 90), device="cpu", precision="float32")
    predictor._ahead = ahead
    first, second = predictor.predict(SeveralSizes(), ["a", "c"], threshold=0.4)
    assert len(first.edges(0.4)) and first.mask(0.6).any()
    for answer in (partial(second.edges, 0.4), partial(second.mask, 0.4), second.probabilities):
        with pytest.raises(UserError, match="computes NaN or infinity for c: its weights"):
            answer()


def test_a_batch_is_yielded_after_the_next_one_was_started() -> None:
    events: list[str] = []

    class Logged(Red):
        def forward(self, images: Tensor) -> Tensor:
            events.append("start")
            return super().forward(images)

    predictor = Predictor([Logged()], (60, 90), device="cpu")
    predictor._ahead = True
    for prediction in predictor.predict(SeveralSizes(), list("acd"), batch_size=1):
        events.append(prediction.image_id)
    assert events == ["start", "start", "a", "start", "c", "d"]


def test_starting_a_batch_on_a_gpu_does_not_wait_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("unet_small", width_multiplier=0.25)
    predictor = Predictor([network], (64, 96), device="cpu", precision="bfloat16", flip=True)
    predictor.hardware, predictor._ahead = GPU, True
    predictor._upload = lambda *tensors: tuple(  # type: ignore[assignment]
        tensor.to(GPU.device, non_blocking=True) for tensor in tensors
    )
    recorded = []
    event = SimpleNamespace(record=recorded.append)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    _weights.cache_clear()
    with pretended_cuda(*predictor._segmenters):
        images = [torch.empty(*size, 3, dtype=torch.uint8) for size in ((128, 192), (128, 192), (64, 96))]
        sizes = [(128, 192), (128, 192), (99, 99)]
        batch = ImageBatch(["a", "b", "c"], images, sizes, ["", "broken", ""])
        with Operations() as operations:
            predictor._start(batch, 3, 0.5)
    _weights.cache_clear()  # they have no values
    assert recorded == ["stream of cuda:0"]
    names = {operation.name() for operation, _, _ in operations.calls}
    assert "aten::nonzero_static" in names
    # These ask the GPU for a value or a size.
    assert not names & {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::equal"}
    assert [str(device) for device, _ in operations.copies] == ["cuda:0"] * 3 + ["cpu"] * 4
    assert all(non_blocking for _, non_blocking in operations.copies)
    assert not any(operation.name() == "aten::copy_" for operation, _, _ in operations.calls)


def test_the_doors_of_the_predictor_refuse_wrong_input_with_advice() -> None:
    image = np.full((30, 40, 3), 200, np.uint8)
    predictor = Predictor([Red()], (32, 48), device="cpu")
    for predict in (predictor, predictor.predict_one):
        with pytest.raises(ValueError, match=r"not float64 .*Pass \(255 \* image\)"):
            predict(image / 255)
        with pytest.raises(TypeError, match=r"torch\.Tensor"):
            predict(torch.from_numpy(image))  # type: ignore[arg-type]
    fitted = torch.zeros(2, 32, 48, 3, dtype=torch.uint8)
    for wrong in (fitted.float() / 255, fitted.permute(0, 3, 1, 2), fitted[:, :16], fitted[0]):
        with pytest.raises(ValueError, match=r"The images must be \(N, 32, 48, 3\) uint8"):
            predictor.logits(wrong)
    for threshold in (0, 1, 50, -0.1, math.nan):
        with pytest.raises(UserError, match="above 0 and below 1"):
            predictor(image, threshold)
        with pytest.raises(UserError, match="above 0 and below 1"):
            Predictor([Red()], (32, 48), threshold=threshold)
    for networks in (Red(), [torch.nn.Conv2d(3, 1, 1)], "model.pt"):
        with pytest.raises(TypeError, match="list of SegmentationNetworks"):
            Predictor(networks, (32, 48))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least one network"):
        Predictor([], (32, 48))
    with pytest.raises(UserError, match="at least one"):
        Predictor.from_checkpoint()
    for multiplier in (0, -1, math.nan, math.inf):
        with pytest.raises(UserError, match="width_multiplier must be positive"):
            build_network("unet_small", width_multiplier=multiplier)


@pytest.mark.parametrize("wrong", [np.zeros((20, 30, 3)), np.zeros((20, 30), np.uint8)])
def test_a_reader_that_returns_no_image_is_named_with_the_image(wrong: np.ndarray) -> None:
    class Source:
        def size(self, image_id: str) -> tuple[int, int]:
            return 20, 30

        def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
            return wrong

        def read_mask(self, image_id: str) -> np.ndarray:
            raise AssertionError("prediction must not read masks")

    with pytest.raises(UserError, match=r"photo_7.*An image must be"):
        list(Predictor([Red()], (32, 48), device="cpu").predict(Source(), ["photo_7"]))
