"""The moving average of the weights: it is updated after every step, validated, saved, resumed and predicted with."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.training.average import WeightAverage
from carvana_kedro.segmentation.training.build import Run, build_run
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Step, Training
from carvana_kedro.stores.checkpoints import CheckpointStore, RunCheckpoints
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore

STEPS_PER_EPOCH, EPOCHS = 3, 2
Weights = Mapping[str, Tensor]


class Recorder(Callback):
    """Copies the weights and statistics of the trained network after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_step_end(self, run: Training, step: Step) -> None:
        self.steps.append({name: value.clone() for name, value in run.network.state_dict().items()})


def _run(images: ImageStore, decay: float) -> Run:
    recipe = Recipe(
        architecture="unet_small",
        width_multiplier=0.25,
        input_size=(32, 48),
        batch_size=4,
        epochs=EPOCHS,
        seed=1,
        optimizer={"name": "adamw", "learning_rate": 0.01},
        ema_decay=decay,
        best_by="val_loss",
        device="cpu",
        precision="float32",
    )
    ids = images.ids()
    return build_run(recipe, images, [ids[:12], ids[12:16]], origin={"run_id": "run"}, about={})


def average(steps: list[dict[str, Tensor]], decay: float) -> dict[str, NDArray[np.float64]]:
    """Return the weighted sum over all steps that the updates of `WeightAverage` amount to."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(len(steps))]
    shares = [(1 - d if n else 1) * math.prod(decays[n + 1 :]) for n, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    return {
        name: sum(
            (share * step[name].double().numpy() for share, step in zip(shares, steps, strict=True)),
            start=np.zeros(tuple(steps[0][name].shape)),
        )
        for name in steps[0]
        if steps[0][name].is_floating_point()
    }


def assert_average(found: Weights, steps: list[dict[str, Tensor]], decay: float) -> None:
    """Check weights and BatchNorm's statistics, and that they are neither the first nor the last of the network."""
    expected = average(steps, decay)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-5, atol=1e-6, err_msg=name)
        for step in (steps[0], steps[-1]):
            assert np.abs(step[name].numpy() - values).max() > 1e-4, name
    counters = [name for name in found if name not in expected]
    assert counters
    assert all(found[name] == len(steps) for name in counters)


@pytest.fixture
def checkpoints(tmp_path: Path) -> RunCheckpoints:
    return CheckpointStore(DiskFolder(tmp_path)).run("run", keep=EPOCHS)


@pytest.fixture
def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return network.to(memory_format=torch.channels_last)


def _disturb(network: torch.nn.Module) -> None:
    """Change all weights and statistics, like a training step."""
    network(torch.randn(2, 3, 5, 5))
    with torch.no_grad():
        for weight in network.parameters():
            weight += torch.randn_like(weight)


def _as_pytorch(network: torch.nn.Module, decay: float) -> AveragedModel:
    def update(averaged: Any, current: Any, updates: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            weight = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def _assert_same(one: Weights, other: Weights) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(other[name], value), name


def test_the_average_is_bit_identical_to_that_of_pytorch_and_each_loads_the_other(
    network: torch.nn.Sequential,
) -> None:
    ours, theirs = WeightAverage(network, 0.9), _as_pytorch(network, 0.9)
    for _ in range(3):
        for _ in range(3):
            _disturb(network)
            ours.update()
            theirs.update_parameters(network)
        _assert_same(ours.state_dict(), theirs.state_dict())
        state = copy.deepcopy(ours.state_dict())
        ours, other = WeightAverage(network, 0.9), _as_pytorch(network, 0.9)
        ours.load_state_dict(theirs.state_dict())
        other.load_state_dict(state)
        theirs = other


def test_the_average_keeps_the_memory_format_and_does_not_change_the_network(
    network: torch.nn.Sequential,
) -> None:
    average = WeightAverage(network, decay=0.9)
    _disturb(network)
    before = copy.deepcopy(network.state_dict())
    average.update()
    average.load_state_dict(copy.deepcopy(average.state_dict()))
    assert average.module[0].weight.stride() == network[0].weight.stride() == (27, 1, 9, 3)
    _assert_same(network.state_dict(), before)


# The decay of a short run is limited by the number of its steps. The second is smaller than most of these limits.
@pytest.mark.parametrize("decay", [0.9, 0.2])
def test_the_average_of_a_run_is_a_weighted_sum_over_its_steps(
    training_images: ImageStore, decay: float
) -> None:
    run, recorder = _run(training_images, decay), Recorder()
    train(*run, [recorder])
    assert len(recorder.steps) == EPOCHS * STEPS_PER_EPOCH
    assert_average(run.training.model.state_dict(), recorder.steps, decay)
    assert_average(run.training.state()["model"]["weights"], recorder.steps, decay)


def test_a_resumed_run_continues_the_average(
    training_images: ImageStore, checkpoints: RunCheckpoints
) -> None:
    run, recorder = _run(training_images, 0.9), Recorder()
    run.training.interrupted = lambda: run.training.steps == STEPS_PER_EPOCH + 1
    with pytest.raises(TrainingInterruptedError):
        train(*run, [recorder, CheckpointSaver(checkpoints, minutes=10)])
    resumed = _run(training_images, 0.9)
    state = checkpoints.newest("last")
    assert state is not None
    resumed.training.restore(state)
    train(*resumed, [recorder])
    assert len(recorder.steps) == EPOCHS * STEPS_PER_EPOCH
    assert_average(resumed.training.model.state_dict(), recorder.steps, 0.9)


def test_the_average_is_validated_and_saved_as_the_best_model(
    training_images: ImageStore, checkpoints: RunCheckpoints
) -> None:
    run, recorder = _run(training_images, 0.9), Recorder()
    train(*run, [recorder, CheckpointSaver(checkpoints, minutes=10)])
    best = checkpoints.newest("best")
    assert best is not None
    record = run.training.history[run.training.best_epoch - 1]
    steps = recorder.steps[: run.training.best_epoch * STEPS_PER_EPOCH]
    assert_average(best["model"]["weights"], steps, 0.9)

    def validation_loss(weights: Weights) -> float:
        network = build_network("unet_small", width_multiplier=0.25).eval()
        network.load_state_dict(dict(weights))
        ((_, images, targets),) = run.validation_batches.epoch(1)
        images, targets = run.training.tensors(images, targets)
        with torch.no_grad():
            return float(run.training.loss(network(images), targets))

    assert record["val_loss"] == pytest.approx(validation_loss(best["model"]["weights"]), rel=1e-4)
    assert record["val_loss"] != pytest.approx(validation_loss(steps[-1]), rel=1e-3)


def test_predictions_are_those_of_the_average(
    training_images: ImageStore, checkpoints: RunCheckpoints
) -> None:
    run, recorder = _run(training_images, 0.9), Recorder()
    train(*run, [recorder, CheckpointSaver(checkpoints, minutes=10)])
    (path,) = checkpoints.folder.path.glob(f"last-*{EPOCHS * STEPS_PER_EPOCH}.pt")
    image = training_images.read_image(training_images.ids()[-1])
    found = Predictor.from_checkpoint(path, device="cpu", precision="float32").predict_one(image).logits

    def logits(weights: Mapping[str, NDArray[np.float64] | Tensor]) -> Tensor:
        network = build_network("unet_small", width_multiplier=0.25).eval()
        network.load_state_dict(
            {name: torch.as_tensor(value) for name, value in weights.items()}, strict=False
        )
        fitted = torch.from_numpy(Geometry.of(network, (32, 48)).fit_image(image))
        with torch.no_grad():
            predicted: Tensor = network(fitted.permute(2, 0, 1)[None].float() / 255)[0]
        return predicted

    torch.testing.assert_close(found, logits(average(recorder.steps, 0.9)), rtol=1e-3, atol=1e-3)
    assert (found - logits(recorder.steps[-1])).abs().max() > 0.05


def test_a_buffer_that_the_network_assigns_anew_is_averaged() -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))

    network = Counting()
    average = WeightAverage(network, 0.5)
    for value in (1.0, 3.0):
        network.mean = torch.full((2,), value)
        average.update()
    weight = 1 - min(0.5, 2 / 11)
    torch.testing.assert_close(average.module.mean, torch.full((2,), 1 + weight * 2))
