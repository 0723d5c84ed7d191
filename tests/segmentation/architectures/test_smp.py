"""Networks of segmentation-models-pytorch: trained, resumed, used, exported. `make smp` runs these tests."""

import logging
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.provenance.code_digest import code_of
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.export import ExportableModel, check_export, to_onnx, to_program
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.training.build import Run, build_run, check_recipe
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.stores.images.competition import ImageStore

MISSING = find_spec("segmentation_models_pytorch") is None
NETWORKS = ("smp:Unet/resnet34", "smp:Unet/efficientnet-b0", "smp:Unet/mit_b0")
WITH_DROPOUT = NETWORKS[1:]
CLOCKS = {"seconds", "images_per_second", "data_wait_share", "share_of_peak"}
TOLERANCE = 1e-4
"""Of logits, as a share of the largest: what float32 leaves of a hundred layers."""


def needs_smp(test: Any) -> Any:
    """Mark a test that needs the package, and skip it with a reason where that is missing."""
    skip = pytest.mark.skipif(MISSING, reason="needs segmentation-models-pytorch: run `make smp`")
    return pytest.mark.smp(skip(test))


def _recipe(architecture: str, **changes: Any) -> Recipe:
    content = {
        "architecture": architecture,
        "input_size": {"width": 96, "height": 64},
        "batch_size": 4,
        "epochs": 2,
        "optimizer": {"name": "adamw", "learning_rate": 0.001},
        "device": "cpu",
    }
    return Recipe.from_dict({**content, **changes})


def _run(architecture: str, images: ImageStore) -> Run:
    """A run of two steps per epoch, in bfloat16 where the machine computes in it."""
    ids = images.ids()
    sides = [ids[:8], ids[8:12]]
    return build_run(_recipe(architecture), images, sides, origin={"run_id": "run"}, about={})


def _weights(run: Run) -> dict[str, torch.Tensor]:
    return run.training.network.state_dict()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On images this small, the layers wait longer for a second thread than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request: pytest.FixtureRequest, training_images: ImageStore) -> Iterator[Run]:
    """A finished run of each network. Read only."""
    run = _run(request.param, training_images)
    train(*run)
    yield run


@pytest.fixture
def model(trained: Run) -> TrainedModel:
    return TrainedModel.from_dict(trained.training.state())


@needs_smp
def test_training_changes_encoder_and_decoder(trained: Run, training_images: ImageStore) -> None:
    (first, last) = trained.training.history
    assert np.isfinite([first["train_loss"], last["train_loss"], last["val_loss"]]).all()
    assert last["train_loss"] < first["train_loss"]
    before = _weights(_run(trained.training.description["architecture"], training_images))
    changed = {
        name.split(".")[1] for name, weights in _weights(trained).items() if (weights != before[name]).any()
    }
    assert changed == {"encoder", "decoder", "segmentation_head"}


@needs_smp
def test_a_resumed_run_equals_an_uninterrupted_one(trained: Run, training_images: ImageStore) -> None:
    architecture = trained.training.description["architecture"]
    run = _run(architecture, training_images)
    run.training.interrupted = lambda: run.training.steps == 3
    with pytest.raises(TrainingInterruptedError):
        train(*run)
    resumed = _run(architecture, training_images)
    resumed.training.restore(run.training.state())
    torch.rand(7)  # whatever else draws random numbers in between
    train(*resumed)
    weights, expected = _weights(resumed), _weights(trained)
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
    histories = [
        [
            {key: value for key, value in record.items() if key not in CLOCKS}
            for record in run.training.history
        ]
        for run in (resumed, trained)
    ]
    assert histories[0] == histories[1]


@needs_smp
@pytest.mark.parametrize("architecture", WITH_DROPOUT)
def test_the_networks_with_dropout_draw_random_numbers(architecture: str) -> None:
    """So the test above shows that these numbers are drawn again."""
    torch.manual_seed(0)
    network = build_network(architecture).train()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert not torch.equal(network(images), network(images))


@needs_smp
def test_the_predictor_computes_what_the_network_does(
    model: TrainedModel, training_images: ImageStore
) -> None:
    predictor = Predictor.from_model(model, device="cpu", precision="float32")
    image = training_images.read_image(training_images.ids()[-1])
    found = predictor.predict_one(image)
    fitted = torch.from_numpy(found.geometry.fit_image(image))
    with torch.no_grad():
        (expected,) = model.members[0].build_network().eval()(fitted.permute(2, 0, 1)[None].float() / 255)
    assert (found.logits - expected).abs().max() < TOLERANCE * max(1, expected.abs().max())
    assert expected.std() > 1e-3
    assert predictor(image).shape == image.shape[:2]


@needs_smp
def test_exported_files_compute_what_the_network_does(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path
) -> None:
    paths = [tmp_path / "model.onnx", tmp_path / "model.pt2"]
    exportable = ExportableModel(model)
    to_onnx(exportable, paths[0])
    to_program(exportable, paths[1])
    rows = check_export(model, paths, training_images.read_image(training_images.ids()[0]))
    assert {(row["file"], row["batch_size"]) for row in rows} == {
        (path.name, count) for path in paths for count in (1, 3)
    }
    largest = max(row["largest_logit"] for row in rows)
    assert max(row["largest_difference"] for row in rows) < TOLERANCE * max(1, largest)


@needs_smp
@pytest.mark.parametrize(
    ("architecture", "multiple", "size", "nearest"),
    [
        ("smp:FPN/resnet34", 32, (70, 90), (64, 96)),
        ("smp:FPN/resnet34", 32, (10, 112), (32, 128)),
        ("smp:DeepLabV3Plus/resnet34", 16, (70, 90), (64, 96)),
        ("smp:DeepLabV3Plus/resnet34", 16, (64, 97), (64, 96)),
    ],
)
def test_illegal_sizes_are_refused_with_the_nearest_legal_one(
    architecture: str, multiple: int, size: tuple[int, int], nearest: tuple[int, int]
) -> None:
    height, width = size
    message = (
        f"{height} x {width} .* does not fit {architecture}: both sides must be multiples of {multiple}. The "
        f"nearest valid size is {nearest[0]} x {nearest[1]}"
    )
    with pytest.raises(UserError, match=message):
        check_recipe(_recipe(architecture, input_size={"height": height, "width": width}))
    network = build_network(architecture).eval()
    assert network.output_size(nearest) == nearest
    with torch.no_grad():
        assert network(torch.zeros(1, 3, *nearest)).shape == (1, *nearest)


@needs_smp
def test_a_unet_takes_any_size_from_its_stride_on() -> None:
    for architecture in NETWORKS:
        network = build_network(architecture).eval()
        assert network.output_size((65, 97)) == (65, 97)
        with torch.no_grad():
            assert network(torch.zeros(1, 3, 65, 97)).shape == (1, 65, 97)
        with pytest.raises(
            UserError, match=r"31 x 97 .*too small .* 32 pixels .*nearest valid size is 32 x 97"
        ):
            network.output_size((31, 97))


@needs_smp
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "smp:UNet/resnet34"},
            "has no architecture 'UNet'. Available: Unet, .*DeepLabV3Plus",
        ),
        ({"architecture": "smp:Unet/resnet35"}, "has no encoder 'resnet35'. Available: .*resnet34"),
        (
            {"architecture": "smp:Unet/tu-convnext_tiny"},
            "the encoder tu-convnext_tiny is not supported",
        ),
        ({"architecture": "smp:Unet/tu-hf_hub:someone/net"}, "is not supported, because it comes from timm"),
        ({"architecture": "smp:UnetPlusPlus/mit_b0"}, r"smp:UnetPlusPlus/mit_b0 cannot be built: .*mit_b0"),
        ({"architecture": "smp:DPT/resnet34"}, "smp:DPT/resnet34 cannot be built: Only Timm encoders"),
        (
            {"architecture": "smp:PAN/resnet34"},
            r"smp:PAN/resnet34 fails for 1 image\(s\) of 64 x 96 .*too small",
        ),
        (
            {"architecture": {"type": "smp:Unet/resnet34", "depth": 3}},
            "takes no arguments. Remove: depth",
        ),
        ({"architecture": "smp:Unet/resnet34", "width_multiplier": 0.5}, "takes no width_multiplier"),
        (
            {"architecture": "smp:Unet/dpn92", "pretrained": True},
            "dpn92 has no ImageNet weights: set model_training.pretrained to false",
        ),
        (
            {"architecture": "smp:DeepLabV3Plus/resnet34", "accumulation_steps": 4},
            r"cannot be trained on batches of 1 image\(s\)",
        ),
    ],
)
def test_mistakes_are_named_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_recipe(_recipe(**changes))


@needs_smp
def test_pretrained_weights_are_loaded_into_the_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import segmentation_models_pytorch as smp
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = build_network("smp:FPN/resnet34").get_submodule("model.encoder").state_dict()
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    monkeypatch.setattr(smp.encoders, "hf_hub_download", lambda *args, **kwargs: str(file))
    torch.manual_seed(1)
    network = build_network("smp:Unet/resnet34", pretrained=True)
    loaded = network.get_submodule("model.encoder").state_dict()
    assert [name for name in weights if not torch.equal(loaded[name], weights[name])] == []


@needs_smp
def test_random_weights_and_a_warning_without_a_network(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import segmentation_models_pytorch as smp

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", fail)
    check_recipe(_recipe("smp:Unet/resnet34", pretrained=True))
    with caplog.at_level(logging.WARNING):
        network = build_network("smp:Unet/resnet34", pretrained=True)
    assert "starts from random weights" in caplog.text
    assert "Name or service not known" in caplog.text
    assert network.get_parameter("model.encoder.conv1.weight").std() > 0


@needs_smp
def test_the_version_of_the_library_is_part_of_a_run_id() -> None:
    (code,) = code_of("smp:Unet/resnet34").values()
    assert code == f"segmentation_models_pytorch {version('segmentation-models-pytorch')}"


def test_the_error_names_the_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r'pip install "carvana-kedro\[smp\]"'):
        check_recipe(_recipe("smp:Unet/resnet34"))
