from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carvana_kedro.commands.weights import facts, pack, update_card
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.checkpoints import load_checkpoint, save_checkpoint
from carvana_kedro.studio import StudioSettings, render_view
from carvana_kedro.weights import path_of


@pytest.fixture
def content() -> dict[str, Any]:
    """A model in single precision whose weights are not those of half precision: those of `cars`, with noise."""
    content = TrainedModel.from_dict(load_checkpoint(path_of("cars"))).to_dict()
    generator = torch.Generator().manual_seed(0)
    content["weights"] = {
        name: weight * (1 + (torch.rand(weight.shape, generator=generator) - 0.5) / 1000)
        if weight.is_floating_point()
        else weight
        for name, weight in content["weights"].items()
    }
    return content


def test_half_precision_changes_a_probability_by_at_most_five_percent(
    content: dict[str, Any], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "model.pt", content)
    pack(tmp_path / "model.pt", tmp_path / "packed.pt")
    assert (tmp_path / "packed.pt").stat().st_size < 0.55 * (tmp_path / "model.pt").stat().st_size
    image, _ = render_view(StudioSettings(width=960, height=640), 0, 3)
    exact, packed = (
        Predictor.from_checkpoint(tmp_path / name, device="cpu", precision="float32").predict_one(image)
        for name in ("model.pt", "packed.pt")
    )
    difference = np.abs(exact.probabilities() - packed.probabilities())
    assert 0 < difference.max() <= 0.05
    assert (exact.mask(0.5) != packed.mask(0.5)).mean() < 3e-4


def test_the_same_model_gives_the_same_file(content: dict[str, Any], tmp_path: Path) -> None:
    content["parameters"] = {**content["parameters"], "pretrained": str(tmp_path / "imagenet.pth")}
    content["started_from"] = {"path": str(tmp_path / "first.pt"), "run_id": "0"}
    save_checkpoint(tmp_path / "model.pt", content | {"machine": "a host's name"})
    for name in ("a.pt", "b.pt"):
        pack(tmp_path / "model.pt", tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    packed = load_checkpoint(tmp_path / "a.pt")
    assert "machine" not in packed
    assert packed["run_id"] == content["run_id"]
    assert packed["trained_on"] == content["trained_on"]
    assert packed["parameters"] == {**content["parameters"], "pretrained": "imagenet.pth"}
    assert packed["started_from"] == {"path": "first.pt", "run_id": "0"}
    found = facts(tmp_path / "a.pt")
    assert f"{(tmp_path / 'a.pt').stat().st_size:,} bytes" == found["size"]
    card = update_card("| size | |\n| SHA-256 | `0` |\n| other | 1 |\n", found)
    assert card == f"| size | {found['size']} |\n| SHA-256 | {found['SHA-256']} |\n| other | 1 |\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": torch.tensor([1e6])}}, "weights that are NaN or infinite"),
        ({"weights": {"a": torch.randn(5 << 20)}}, r"would have 10\.\d MiB in half precision"),
        ({"members": 2}, "a mean of 2 networks"),
    ],
)
def test_a_model_that_cannot_be_packed_is_refused(
    change: dict[str, Any], message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    if "members" in change:
        change = {"members": [content] * change["members"]}
    save_checkpoint(tmp_path / "model.pt", {**content, **change})
    with pytest.raises(UserError, match=message):
        pack(tmp_path / "model.pt", tmp_path / "packed.pt")
    assert not (tmp_path / "packed.pt").exists()
