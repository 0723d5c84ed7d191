import contextlib
import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.segmentation.prediction.export import ExportableModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.checkpoints import load_checkpoint, save_checkpoint


@pytest.fixture
def content() -> dict[str, Any]:
    """A model as version 0.1 stored it."""
    torch.manual_seed(0)
    return {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "threshold": 0.5,
        "source": "0123",
        "run_id": "a",
        "validation_cars": ["x", "y"],
        "best_threshold": 0.4,
        "weights": build_network("unet_small", width_multiplier=0.25).state_dict(),
    }


def test_a_model_is_what_was_stored(content: dict[str, Any], tmp_path: Path) -> None:
    model = TrainedModel.from_dict(content)
    assert model.to_dict() == {**content, "trained_on": []}
    save_checkpoint(tmp_path / "model.pt", model.to_dict())
    again = TrainedModel.from_dict(load_checkpoint(tmp_path / "model.pt"))
    assert (again.run_id, again.source, again.input_size) == ("a", "0123", (32, 48))
    assert again.digest() == model.digest()


def test_the_optional_parts_may_be_missing(content: dict[str, Any]) -> None:
    for name in ("source", "validation_cars", "best_threshold"):
        del content[name]
    (member,) = TrainedModel.from_dict(content).members
    assert (member.source, member.validation_cars, member.best_threshold) == (None, (), None)


@pytest.mark.parametrize(
    ("broken", "lacks"),
    [
        ({}, "architecture, width_multiplier, input_size, threshold, weights, run_id"),
        ({"model": {"architecture": "unet_small"}}, "width_multiplier"),
        ({"members": [{"run_id": "a"}]}, "architecture"),
        ({"model": torch.zeros(1)}, "architecture"),
    ],
)
def test_something_else_is_refused(broken: dict[str, Any], lacks: str) -> None:
    with pytest.raises(UserError, match=f"file.pt is not a carvana-kedro model: it lacks {lacks}"):
        TrainedModel.from_dict(broken, "file.pt")


@pytest.mark.parametrize(
    "change",
    [{"members": []}, {"members": [1]}, {"members": 5}, {"input_size": 3}, {"validation_cars": None}],
)
def test_contents_of_wrong_types_are_refused(content: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"file\.pt is not a carvana-kedro model"):
        TrainedModel.from_dict({**content, **change}, "file.pt")


def test_nothing_but_a_network_is_called_even_if_its_path_is_trusted(
    content: dict[str, Any], tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    spec = {"type": "subprocess.getoutput", "cmd": f"touch {witness}"}
    model = TrainedModel.from_dict({**content, "architecture": spec, "width_multiplier": 1.0})
    with pytest.raises(UserError, match=r"subprocess\.getoutput is not a valid architecture"):
        model.build_networks(["subprocess.getoutput"])
    assert not witness.exists()


def test_joined_models_are_stored_as_members(content: dict[str, Any]) -> None:
    one = TrainedModel.from_dict(content)
    other = TrainedModel.from_dict({**content, "run_id": "b", "threshold": 0.7, "best_threshold": 0.6})
    joined = TrainedModel.join([one, TrainedModel.join([other, one])])
    assert joined.run_id == "a+b+a"
    stored = joined.to_dict()
    assert [member["run_id"] for member in stored["members"]] == ["a", "b", "a"]
    assert stored["run_id"] == "a+b+a"
    assert TrainedModel.from_dict(stored).to_dict() == stored
    assert TrainedModel.join([one, other]).threshold() == pytest.approx(0.6)
    assert TrainedModel.join([one, other]).threshold("auto") == pytest.approx(0.5)
    assert joined.threshold(0.3) == 0.3
    with pytest.raises(UserError, match="has not been validated"):
        TrainedModel((replace(one.members[0], best_threshold=None), other.members[0])).threshold("auto")


def test_the_digest_is_of_the_weights_and_of_what_they_are_used_with(content: dict[str, Any]) -> None:
    model = TrainedModel.from_dict(content)
    expected = hashlib.sha256(
        repr([("architecture", "unet_small"), ("width_multiplier", 0.25), ("input_size", [32, 48])]).encode()
    )
    for name, weights in content["weights"].items():
        expected.update(name.encode() + weights.numpy().tobytes())
    assert model.digest() == expected.hexdigest()[:16]
    (member,) = model.members
    changed = {**member.weights, "head.bias": member.weights["head.bias"] + 1}
    others = [
        replace(member, weights=changed),
        replace(member, input_size=(32, 64)),
        replace(member, architecture="unet_512"),
    ]
    digests = {model.digest(), *(TrainedModel((other,)).digest() for other in others)}
    assert len(digests) == 4
    unused = replace(member, run_id="b", threshold=0.1, best_threshold=None, validation_cars=())
    assert TrainedModel((unused,)).digest() == model.digest()


def test_a_path_from_a_file_is_imported_only_if_it_is_trusted(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('the code of a model file has run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for architecture in ("hostile_module.Net", {"type": "hostile_module.Net", "depth": 1}):
        model = TrainedModel.from_dict({**content, "architecture": architecture})
        for use in (
            lambda model=model: Predictor.from_model(model),
            lambda model=model: Predictor.from_model(model, trusted=["my_extensions.TinyNet"]),
            lambda model=model: ExportableModel(model),
            lambda model=model: model.extensions(),
        ):
            with pytest.raises(UserError, match="imported only if your parameters name it too"):
                use()
    save_checkpoint(tmp_path / "model.pt", {**content, "architecture": "hostile_module.Net"})
    with pytest.raises(UserError, match=r"model_training\.architecture=hostile_module\.Net"):
        Predictor.from_checkpoint(tmp_path / "model.pt")
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("architecture", ["unet_2048", 5, None, ["my.Net"], {"type": 5}, "smp:", ":a.b", ""])
def test_an_architecture_that_is_none_is_refused(content: dict[str, Any], architecture: Any) -> None:
    model = TrainedModel.from_dict({**content, "architecture": architecture})
    with pytest.raises(UserError, match="architecture"):
        model.build_networks(["my.Net"])
    with contextlib.suppress(UserError):  # it has no name at all
        assert model.extensions() in ([], ["smp:"])


def test_weights_of_another_network_are_refused(content: dict[str, Any]) -> None:
    (member,) = TrainedModel.from_dict({**content, "width_multiplier": 0.5}).members
    with pytest.raises(UserError, match=r"The weights of the model .* do not fit unet_small"):
        member.build_network()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["head.bias", "encoder.0.0.1.running_var"])
def test_a_model_whose_weights_are_not_finite_is_refused(
    content: dict[str, Any], tmp_path: Path, name: str, value: float
) -> None:
    content["weights"][name][0] = value
    path = tmp_path / "model.pt"
    expected = rf"the model a has weights that are NaN or infinite, in 1 of \d+ tensors \({re.escape(name)}\)"
    for stored in (content, {"model": content}, {"members": [content]}):
        save_checkpoint(path, stored)
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {expected}"):
            Predictor.from_checkpoint(path)
    # Without a file: a network or a member that was built in Python.
    network = build_network("unet_small", width_multiplier=0.25)
    network.load_state_dict(content["weights"])
    with pytest.raises(UserError, match=r"The network UNet has weights that are NaN or infinite"):
        Predictor([network], (32, 48))
    member = Member("unet_small", 0.25, (32, 48), 0.5, content["weights"], "a")
    with pytest.raises(UserError, match="NaN or infinite"):
        ExportableModel(TrainedModel((member,)))


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_finite_weights_that_are_too_large_for_finite_logits_predict_nothing(
    content: dict[str, Any], engine: str
) -> None:
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
    content["weights"] = {name: weight * 1e30 for name, weight in content["weights"].items()}
    predictor = Predictor.from_model(TrainedModel.from_dict(content), device="cpu", engine=engine)
    prediction = predictor.predict_one(np.full((30, 40, 3), 99, np.uint8))
    for use in (prediction.probabilities, lambda: prediction.mask(0.5), lambda: prediction.edges(0.5)):
        with pytest.raises(UserError, match="computes NaN or infinity"):
            use()
