import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import ARCHITECTURES, build_network
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction import export
from carvana_kedro.segmentation.prediction.export import ExportableModel, check_export, to_onnx, to_program
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.competition import ImageStore
from models import changed

TOLERANCE = 1e-4
"""Rounding error of a logit after forty convolutions in float32."""

QUICK = ("unet_original", "unet_small", "unet_lite0", "unet_resnet34")
EVERY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]


def _model(architecture: str, input_size: Sequence[int] = (65, 91), **more: Any) -> TrainedModel:
    """Return a model with random weights whose statistics and logits are as large as a trained model's."""
    torch.manual_seed(0)
    network = build_network(architecture, width_multiplier=1 / 8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                nn.init.uniform_(values, low, high)
    size = (188, 204) if architecture == "unet_original" else tuple(input_size)
    with torch.no_grad():
        logits = network.eval()(torch.rand(1, 3, *size))
        head = network.head
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.weight *= 3 / logits.std()
        head.bias.copy_((head.bias - logits.mean()) * 3 / logits.std())
    content = {
        "architecture": architecture,
        "width_multiplier": 1 / 8,
        "input_size": list(size),
        "weights": network.state_dict(),
        "threshold": 0.4,
        "run_id": "a run",
        **more,
    }
    return TrainedModel.from_dict(content)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small run faster in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def image(training_images: ImageStore) -> np.ndarray:
    return training_images.read_image(training_images.ids()[0])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportableModel, Path]:
    """A model for images of an odd size, and the folder of its files. Tests only read them."""
    exportable = ExportableModel(_model("unet_small", (33, 47)), "digest")
    folder = tmp_path_factory.mktemp("exported") / "folder"
    to_onnx(exportable, folder / "model.onnx")
    to_program(exportable, folder / "model.pt2")
    return exportable, folder


@pytest.mark.parametrize("architecture", EVERY)
def test_exported_files_predict_the_same_logits_as_the_network(
    architecture: str, image: np.ndarray, tmp_path: Path
) -> None:
    model = _model(architecture)
    exportable = ExportableModel(model, "digest")
    paths = [tmp_path / "folder" / name for name in ("model.onnx", "model.pt2")]
    to_onnx(exportable, paths[0])
    to_program(exportable, paths[1])
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["model.onnx", "model.pt2"]
    rows = check_export(model, paths, image)
    assert [row["file"] for row in rows] == ["model.onnx"] * 5 + ["model.pt2"] * 5
    assert {row["batch_size"] for row in rows} == {1, 3}
    assert max(row["largest_difference"] for row in rows) < TOLERANCE
    assert max(row["differing_pixels"] for row in rows) == 0
    assert rows[0]["largest_logit"] > 1


def test_following_the_metadata_gives_the_predictors_mask(image: np.ndarray, tmp_path: Path) -> None:
    model = _model("unet_original", best_threshold=0.41)
    predictor = Predictor.from_model(model, device="cpu", precision="float32")
    median = float(np.median(predictor.predict_one(image).probabilities()))
    model = changed(model, threshold=median)
    to_onnx(ExportableModel(model), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert "INTER_AREA" in metadata["preprocessing"]
    assert "4 x 20 (height x width)" in metadata["preprocessing"]
    assert "log(threshold / (1 - threshold))" in metadata["postprocessing"]
    found = {key: metadata[key] for key in ("architecture", "run_id", "model_digest", "best_threshold")}
    assert list(found.values()) == ["unet_original", "a run", model.digest(), "0.41"]

    size = int(metadata["width"]), int(metadata["height"])
    fitted = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    (logits,) = session.run(["logits"], {"images": fitted[None]})
    enlarged = cv2.resize(logits[0], image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    threshold = float(metadata["threshold"])
    mask = enlarged > np.log(threshold / (1 - threshold))
    expected = predictor(image, threshold)
    assert 0.4 < expected.mean() < 0.6
    assert (mask != expected).mean() < 1e-3


def test_a_program_contains_the_metadata_and_takes_any_batch_size(
    exported: tuple[ExportableModel, Path],
) -> None:
    exportable, folder = exported
    extra = {export.METADATA_FILE: ""}
    program = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    assert json.loads(extra[export.METADATA_FILE]) == exportable.metadata
    for count in (1, 2, 5):
        assert program(torch.zeros(count, 33, 47, 3, dtype=torch.uint8)).shape == (count, 33, 47)


def test_an_onnx_file_is_valid_and_names_its_input_and_output(exported: tuple[ExportableModel, Path]) -> None:
    path = exported[1] / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 33, 47, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 33, 47])


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_exported_files_do_not_contain_paths_of_this_machine(
    name: str, exported: tuple[ExportableModel, Path]
) -> None:
    content = (exported[1] / name).read_bytes()
    for module in (export, torch):
        assert str(Path(module.__file__ or "").parent).encode() not in content


def test_several_models_are_refused() -> None:
    model = _model("unet_small")
    with pytest.raises(UserError, match="one by one: --params checkpoint=FILE"):
        ExportableModel(TrainedModel.join([model, model]))
    assert ExportableModel(TrainedModel.join([model])).metadata["run_id"] == "a run"


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(UserError, match=r"model\.pt2 cannot be written"):
        to_program(ExportableModel(_model("unet_small", (32, 32))), tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
