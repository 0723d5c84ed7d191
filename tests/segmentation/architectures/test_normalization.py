"""What the first convolution of each network receives, in training, validation, prediction and export.

An encoder must receive RGB images that are standardized as its ImageNet weights expect, whatever the path. A factor or
an order that differs between two paths costs accuracy, but raises no error.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carvana_kedro.segmentation.architectures import ARCHITECTURES, SegmentationNetwork, build_network
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.segmentation.prediction.export import ExportableModel, to_onnx
from carvana_kedro.segmentation.prediction.onnx import traced
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.training.build import build_training
from carvana_kedro.segmentation.training.loop import evaluate, train_one_epoch
from carvana_kedro.segmentation.training.recipe import Recipe

# Of torchvision's and timm's ImageNet weights, for RGB images in [0, 1].
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
UNCHANGED = np.zeros(3), np.ones(3)
SMP = "smp:Unet/resnet34"
NORMALIZATION = {
    "unet_resnet34": IMAGENET,
    SMP: IMAGENET,
    # Of TensorFlow's weights: 127 is subtracted from images in 0..255, and the result is divided by 128.
    "unet_lite0": (np.full(3, 127 / 255), np.full(3, 128 / 255)),
}
WITHOUT_SMP = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None,
    reason="needs segmentation-models-pytorch: run `make smp`",
)
NETWORKS = [*ARCHITECTURES, pytest.param(SMP, marks=[pytest.mark.smp, WITHOUT_SMP])]


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def network(name: str) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(name) if name == SMP else build_network(name, width_multiplier=1 / 16)


@pytest.fixture
def geometry(name: str, network: SegmentationNetwork) -> Geometry:
    return Geometry.of(network, (252, 268) if name == "unet_original" else (64, 128))


@pytest.fixture
def images(geometry: Geometry) -> NDArray[np.uint8]:
    """Return two images whose red, green and blue differ in range."""
    random = np.random.default_rng(0)
    lowest, highest = np.array([0, 90, 200]), np.array([60, 180, 256])
    return random.integers(lowest, highest, (2, *geometry.output_size, 3)).astype(np.uint8)


def expected(name: str, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (N, 3, h, w) standardized images."""
    mean, std = NORMALIZATION.get(name, UNCHANGED)
    return ((images / 255 - mean) / std).transpose(0, 3, 1, 2)


def inside(received: Tensor, geometry: Geometry) -> NDArray[np.float64]:
    """Return what a network received, without the margin that the geometry adds."""
    assert tuple(received.shape[2:]) == geometry.input_size
    top, left = (
        (outer - inner) // 2 for outer, inner in zip(geometry.input_size, geometry.output_size, strict=True)
    )
    height, width = geometry.output_size
    return received[:, :, top : top + height, left : left + width].double().numpy()


class Listener:
    """Keeps what the first convolution of a network receives."""

    def __init__(self, network: nn.Module) -> None:
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        self.received: list[Tensor] = []
        first.register_forward_pre_hook(lambda _, inputs: self.received.append(inputs[0].detach().clone()))


class OneBatch:
    """Yields the same batch in every epoch."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        targets = torch.from_numpy(images[..., 0]).gt(30).to(torch.uint8) * 255
        self.batch = torch.arange(len(images)), torch.from_numpy(images), targets
        self.batch_size = self.images = len(images)
        self.image_ids = [f"image_{number}" for number in range(len(images))]

    def __len__(self) -> int:
        return 1

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter([self.batch][start:])


def _model(name: str, network: SegmentationNetwork, geometry: Geometry) -> TrainedModel:
    multiplier = 1.0 if name == SMP else 1 / 16
    weights = network.state_dict()
    return TrainedModel((Member(name, multiplier, geometry.input_size, 0.5, weights, "run"),))


@pytest.mark.parametrize(("ema_decay", "accumulation_steps"), [(0.0, 1), (0.9, 2)])
def test_training_and_validation_standardize_the_images(
    name: str,
    network: SegmentationNetwork,
    geometry: Geometry,
    images: NDArray[np.uint8],
    ema_decay: float,
    accumulation_steps: int,
) -> None:
    recipe = Recipe(
        architecture=name,
        input_size=geometry.input_size,
        batch_size=2,
        epochs=1,
        seed=0,
        optimizer={"name": "adamw", "learning_rate": 0.001},
        augmentation=dict.fromkeys(("shift", "scale", "rotation", "flip_probability"), 0.0),
        ema_decay=ema_decay,
        accumulation_steps=accumulation_steps,
    )
    hardware = replace(Hardware.choose("cpu", "float32"), fused=False, channels_last=True)
    run = build_training(recipe, network, geometry, hardware, steps_per_epoch=10)
    listener = Listener(run.network)
    batches: Any = OneBatch(images)
    train_one_epoch(run, batches)
    assert len(listener.received) == accumulation_steps
    received = inside(torch.cat(listener.received), geometry)
    np.testing.assert_allclose(received, expected(name, images), atol=1e-5)

    validated = Listener(run.model)
    evaluate(run, batches)
    np.testing.assert_allclose(inside(validated.received[-1], geometry), expected(name, images), atol=1e-5)


# bfloat16 keeps 8 bits of the mean and of the standard deviation.
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_prediction_standardizes_the_images(
    name: str,
    network: SegmentationNetwork,
    geometry: Geometry,
    images: NDArray[np.uint8],
    precision: str,
    tolerance: float,
) -> None:
    options: dict[str, Any] = {"device": "cpu", "precision": precision, "flip": True}
    predictor = Predictor.from_model(_model(name, network, geometry), **options)
    predictor.hardware = replace(predictor.hardware, channels_last=True)
    (segmenter,) = predictor._segmenters
    assert isinstance(segmenter, nn.Module)
    listener = Listener(predictor._placed(segmenter))  # type: ignore[arg-type]
    for image in images:
        predictor(image)
    once, mirrored = (inside(torch.cat(listener.received[start::2]), geometry) for start in (0, 1))
    np.testing.assert_allclose(once, expected(name, images), atol=tolerance)
    np.testing.assert_allclose(mirrored, expected(name, images[:, :, ::-1]), atol=tolerance)


def _received_by_program(model: ExportableModel, images: NDArray[np.uint8], path: Path) -> Tensor:
    """Run the exported program node by node."""
    received: list[Tensor] = []

    class Recorder(torch.fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if "conv2d" in str(target) and not received:
                received.append(args[0])
            return super().call_function(target, args, kwargs)

    with torch.no_grad():
        Recorder(traced(model).module()).run(torch.from_numpy(images))
    return received[0]


def _received_by_onnx(model: ExportableModel, images: NDArray[np.uint8], path: Path) -> Tensor:
    """Make the input of the file's first convolution an output, and run the file."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    to_onnx(model, path)
    graph = onnx.load(path)
    name = next(node.input[0] for node in graph.graph.node if node.op_type == "Conv")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (received,) = session.run([name], {"images": images})
    return torch.from_numpy(received)


@pytest.mark.parametrize(
    "name", [NETWORKS[0], "unet_small", "unet_lite0", "unet_resnet34", NETWORKS[-1]], indirect=True
)
@pytest.mark.parametrize("received_by", [_received_by_program, _received_by_onnx])
def test_exported_files_standardize_the_images(
    name: str,
    network: SegmentationNetwork,
    geometry: Geometry,
    images: NDArray[np.uint8],
    received_by: Callable[[ExportableModel, NDArray[np.uint8], Path], Tensor],
    tmp_path: Path,
) -> None:
    model = ExportableModel(_model(name, network, geometry))
    received = received_by(model, images, tmp_path / "model.onnx")
    # unet_lite0 pads below and to the right; elsewhere, this is part of the convolution.
    received = received[..., : geometry.input_size[0], : geometry.input_size[1]]
    np.testing.assert_allclose(inside(received, geometry), expected(name, images), atol=1e-5)
