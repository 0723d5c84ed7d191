"""Training starts from the weights of a model: `init_from`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.segmentation.training.build import build_run, check_recipe
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.warm_start import fitting_weights, load_start, read_start
from carvana_kedro.stores.checkpoints import save_checkpoint
from carvana_kedro.stores.images.competition import ImageStore

SIZE = (32, 48)


def recipe(**changes: Any) -> Recipe:
    values = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": SIZE,
        "batch_size": 4,
        "epochs": 1,
    }
    return Recipe(**{**values, **changes}, optimizer={"name": "adamw", "learning_rate": 0.001})


def model(**changes: Any) -> Member:
    torch.manual_seed(1)
    network = build_network("unet_small", width_multiplier=0.25)
    for weights in network.state_dict().values():
        if weights.is_floating_point():
            weights.copy_(torch.rand_like(weights))  # also the statistics of BatchNorm
    values = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": SIZE,
        "threshold": 0.5,
        "weights": network.state_dict(),
        "run_id": "start",
    }
    return Member(**{**values, **changes})


def write(path: Path, *members: Member) -> str:
    save_checkpoint(path, TrainedModel(members).to_dict())
    return str(path)


def test_network_and_average_start_from_the_weights_of_the_model(
    training_images: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = model()
    started = recipe(init_from=write(tmp_path / "model.pt", start), ema_decay=0.9, device="cpu")
    check_recipe(started)
    ids = training_images.ids()
    with caplog.at_level("INFO"):
        run = build_run(started, training_images, [ids[:4], ids[4:8]], origin={}, about={})
    assert run.training.ema is not None
    for network in (run.training.network, run.training.ema.module):
        found = network.state_dict()
        assert found.keys() == start.weights.keys()
        assert all(torch.equal(found[name], weights) for name, weights in start.weights.items())
    count = len(start.weights)
    assert f"the model start (unet_small): {count} of the network's {count} tensors are taken" in caplog.text


def test_a_model_in_half_precision_becomes_a_network_in_single_precision() -> None:
    half = {name: weights.half() for name, weights in model().weights.items()}
    network = build_network("unet_small", width_multiplier=0.25)
    load_start(network, "unet_small", model(weights=half))
    for name, weights in network.state_dict().items():
        assert weights.dtype in (torch.float32, torch.int64)
        assert torch.equal(weights, half[name].to(weights.dtype))


def test_what_does_not_fit_keeps_its_random_weights_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    start = model()
    others = {
        "head.weight": torch.zeros(1, 99, 1, 1),  # another shape
        "head.depth": torch.zeros(1),  # another name
    }
    weights = {name: value for name, value in start.weights.items() if name != "head.bias"} | others
    network = build_network("unet_small", width_multiplier=0.25)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with caplog.at_level("INFO"):
        load_start(network, "unet_small", replace(start, weights=weights))
    for name, value in network.state_dict().items():
        origin = before if name.startswith("head.") else start.weights
        assert torch.equal(value, origin[name])
    assert "2 have none of their name and shape and start as without init_from: head.weight, head.bias" in (
        caplog.text
    )


def test_a_model_whose_weights_hardly_fit_is_refused_before_training(tmp_path: Path) -> None:
    # Networks of two architectures share the bias of the head, and a few others by chance.
    assert "head.bias" in build_network("unet_resnet34").state_dict().keys() & model().weights.keys()
    path = write(tmp_path / "model.pt", model())
    with pytest.raises(UserError, match=r"start is a unet_small.* fit the network unet_resnet34"):
        check_recipe(recipe(architecture="unet_resnet34", width_multiplier=1.0, init_from=path))
    with pytest.raises(UserError, match=r"Set model_training\.architecture to unet_small"):
        fitting_weights(build_network("unet_small"), "unet_small", model(weights={}))


def test_the_model_replaces_all_imagenet_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = build_network("unet_lite0")
    path = write(
        tmp_path / "model.pt",
        model(architecture="unet_lite0", width_multiplier=1.0, weights=network.state_dict()),
    )
    # Were it read, the missing file would be refused.
    check_recipe(
        recipe(
            architecture="unet_lite0",
            width_multiplier=1.0,
            input_size=(64, 96),
            pretrained=str(tmp_path / "none.pth"),
            init_from=path,
        )
    )
    assert not caplog.text


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model.pt", model())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_start("~/model.pt").run_id == "start"


def test_a_checkpoint_of_a_run_starts_from_its_model(tmp_path: Path) -> None:
    network = {name: torch.zeros_like(weights) for name, weights in model().weights.items()}
    save_checkpoint(tmp_path / "best.pt", {"model": model().to_dict(), "network": network, "about": {}})
    found = read_start(str(tmp_path / "best.pt")).weights
    assert all(torch.equal(found[name], weights) for name, weights in model().weights.items())


def test_a_file_that_holds_no_single_model_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(Path(write(tmp_path / "whole.pt", model())).read_bytes()[:-100])
    nan = {**model().weights, "head.bias": torch.tensor([torch.nan])}
    paths = {
        str(tmp_path / "none.pt"): "does not exist",
        str(tmp_path): "cannot be read",
        str(tmp_path / "torn.pt"): "is truncated",
        write(tmp_path / "nan.pt", model(weights=nan)): "NaN or infinite",
        write(tmp_path / "two.pt", model(), model()): "holds 2 networks, but training starts from one",
    }
    for path, reason in paths.items():
        with pytest.raises(UserError, match=rf"model_training\.init_from: .*{reason}"):
            check_recipe(recipe(init_from=path))
