"""Weights of a file that the user names: `pretrained: PATH`."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.architectures.imagenet import load_encoder, read_weights
from carvana_kedro.segmentation.architectures.unet import WIDTHS, UNet
from carvana_kedro.segmentation.training.build import check_recipe
from carvana_kedro.segmentation.training.recipe import Recipe

CLASSIFIERS = {
    "unet_lite0": {
        "_conv_head.weight": torch.rand(8, 4),
        "_bn1.bias": torch.rand(8),
        "_fc.bias": torch.rand(8),
    },
    "unet_resnet34": {"fc.weight": torch.rand(8, 4), "fc.bias": torch.rand(8)},
}
NETWORKS = pytest.mark.parametrize("name", CLASSIFIERS)


def in_file(name: str, key: str) -> str:
    """Return the name that a tensor of an encoder has in the file of the network `name`."""
    if name == "unet_resnet34":
        return key
    *modules, tensor = key.split(".")
    return ".".join([*(module if module.isdigit() else f"_{module}" for module in modules), tensor])


def encoder_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return build_network(name).get_submodule("encoder").state_dict()


def write(path: Path, name: str) -> str:
    weights = {in_file(name, key): weight for key, weight in encoder_of(name).items()}
    torch.save(weights | CLASSIFIERS[name], path)
    return str(path)


def recipe(name: str, **changes: Any) -> Recipe:
    return Recipe(
        **{"architecture": name, "input_size": (64, 96), "batch_size": 2, "epochs": 1, **changes},
        optimizer={"name": "adamw", "learning_rate": 0.001},
    )


@NETWORKS
def test_the_weights_of_a_file_are_loaded_into_the_encoder(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", name)
    check_recipe(recipe(name, pretrained=path))
    torch.manual_seed(2)
    found = build_network(name, pretrained=path).get_submodule("encoder").state_dict()
    expected = encoder_of(name)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@NETWORKS
def test_a_path_may_begin_with_the_home_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "weights.pth", name)
    monkeypatch.setenv("HOME", str(tmp_path))
    build_network(name, pretrained="~/weights.pth")


@NETWORKS
def test_a_file_of_another_network_is_refused_before_training(name: str, tmp_path: Path) -> None:
    (other,) = CLASSIFIERS.keys() - {name}
    path = write(tmp_path / "weights.pth", other)
    with pytest.raises(
        UserError, match=r"weights.pth does not hold weights of the encoder of UNet.*Missing key"
    ):
        check_recipe(recipe(name, pretrained=path))


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made_by_the_file",)


@pytest.mark.parametrize("content", [{"weight": Code()}, [torch.rand(3)], {"epoch": 3}, "text", None])
def test_what_is_no_file_of_weights_is_refused_and_runs_no_code(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if content is None:
        path.write_bytes(b"PK\x03\x04 but no archive")
    else:
        torch.save(content, path)
    with pytest.raises(
        UserError, match=r"model_training.pretrained: the file .*weights.pth does not hold weights"
    ):
        build_network("unet_lite0", pretrained=str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrained: .*none.pth cannot be read: No such file"):
        check_recipe(recipe("unet_lite0", pretrained=str(tmp_path / "none.pth")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "unet_small"}, "UNet has no pretrained weights"),
        ({"width_multiplier": 0.5}, "unet_lite0 need a width multiplier of 1"),
    ],
)
def test_networks_that_no_file_fits_refuse_it(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", "unet_lite0")
    with pytest.raises(UserError, match=message):
        check_recipe(recipe(**{"name": "unet_lite0", "pretrained": path} | changes))


class Downloading(UNet):
    """Has pretrained weights, but takes none from a file."""

    def __init__(self) -> None:
        super().__init__(WIDTHS["unet_small"], 0.1)

    def check_pretrained(self) -> None:
        pass


def test_a_network_without_load_encoder_refuses_a_file(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "weights.pth", "unet_lite0"))
    with pytest.raises(UserError, match="Downloading takes no file of pretrained weights"):
        load_encoder(Downloading(), path)


def test_the_hash_of_a_file_is_checked(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "weights.pth", "unet_lite0"))
    right = sha256(path.read_bytes()).hexdigest()
    assert read_weights(path, right).keys() == read_weights(path).keys()
    with pytest.raises(ValueError, match=f"has the SHA-256 {right}, not 00"):
        read_weights(path, "00")
