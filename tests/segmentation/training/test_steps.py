"""Steps that are completed late have the same results as those that are completed at once, and do not wait."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.training import steps as steps_module
from carvana_kedro.segmentation.training.average import WeightAverage
from carvana_kedro.segmentation.training.build import Run
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train, train_one_epoch
from carvana_kedro.segmentation.training.losses import build_loss, segmentation_loss
from carvana_kedro.segmentation.training.optimizers import build_optimizer, build_schedule
from carvana_kedro.segmentation.training.state import Step, Training
from pretended_cuda import pretended_cuda

EPOCHS, STEPS = 2, 6
CLOCKS = ("seconds", "waited", "images_per_second", "data_wait_share", "share_of_peak")


class Poisonous:
    """The loss, not finite for some batches, which it knows by their first target. Counts its calls in training."""

    def __init__(self, bad: set[float], gradient: bool) -> None:
        self.bad, self.gradient, self.calls = bad, gradient, 0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        self.calls += torch.is_grad_enabled()
        loss = segmentation_loss(logits, targets)
        if not torch.is_grad_enabled() or key(targets) not in self.bad:
            return loss
        # The square root of 0 is finite; its slope is not.
        return loss + (logits - logits.detach()).abs().sum().sqrt() if self.gradient else loss * torch.inf


def key(targets: Tensor) -> float:
    return float(targets[0].double().sum())


class Trace(Callback):
    """Copies every step, and the state of the run after it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.states: list[Any] = []
        self.begun: list[int] = []

    def on_step_end(self, run: Training, step: Step) -> None:
        self.steps.append(step)
        self.states.append(without_clocks(copy.deepcopy(run.state())))
        self.begun.append(run.loss.calls)  # type: ignore[attr-defined]


def without_clocks(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: without_clocks(value) for name, value in state.items() if name not in CLOCKS}
    return [without_clocks(value) for value in state] if isinstance(state, list | tuple) else state


def assert_equal(one: Any, other: Any, path: str = "") -> None:
    """Assert that two nested values are equal bit by bit."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert list(one) == list(other), path
        for name in one:
            assert_equal(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}.{number}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other or (one != one and other != other), path  # NaN


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """`late(True)` pretends that the CPU is a device that computes while the CPU goes on."""
    return lambda value: monkeypatch.setattr(Hardware, "asynchronous", value)


@pytest.fixture
def build(setup: Callable[..., Run]) -> Callable[..., Run]:
    def build(
        optimizer: str = "adamw", bad: set[float] | None = None, gradient: bool = False, **changes: Any
    ) -> Run:
        run, *batches = setup(epochs=EPOCHS)
        momentum = 0.9 if optimizer == "sgd" else 0.0
        run.optimizer = build_optimizer(
            run.network.parameters(), name=optimizer, learning_rate=0.003, momentum=momentum, fused=True
        )
        run.schedule = build_schedule(run.optimizer, name="cosine", total_steps=STEPS)
        run.ema = WeightAverage(run.network, 0.9)
        run.loss = Poisonous(bad or set(), gradient)
        for name, value in changes.items():
            setattr(run, name, value)
        return Run(run, *batches)

    return build


def traced(run: Run) -> Trace:
    trace = Trace()
    train(*run, [trace])
    trace.states.append(without_clocks(run.training.state()))
    return trace


def assert_same_trace(one: Trace, other: Trace) -> None:
    assert_equal([dict(vars(step)) for step in one.steps], [dict(vars(step)) for step in other.steps])
    assert_equal(one.states, other.states)


def test_a_late_step_is_completed_after_the_next_one_has_begun(
    build: Callable[..., Run], late: Callable[[bool], None]
) -> None:
    late(False)
    assert traced(build()).begun == [1, 2, 3, 4, 5, 6]
    late(True)
    # The first update is never late, and no step is later than the end of its epoch.
    assert traced(build()).begun == [1, 3, 3, 5, 6, 6]
    assert traced(build("rmsprop")).begun == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("bad_steps", "options"),
    [
        ((), {}),
        ((), {"optimizer": "sgd", "accumulation_steps": 2, "clip_gradient_norm": 0.1}),
        ((1,), {}),
        ((1, 2), {"optimizer": "sgd", "gradient": True}),
        ((2,), {"gradient": True, "clip_gradient_norm": 0.1}),
        ((2, 3, 4), {"optimizer": "sgd"}),
        ((5, 6), {"accumulation_steps": 2}),
        ((5,), {"optimizer": "adam", "ema": None}),
    ],
)
def test_late_steps_and_all_states_in_between_are_bit_identical(
    build: Callable[..., Run],
    late: Callable[[bool], None],
    bad_steps: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    late(False)
    clean = traced(build())
    bad = {key(clean.steps[number - 1].targets) for number in bad_steps}
    expected = traced(build(bad=bad, **options))
    assert [number for number, step in enumerate(expected.steps, 1) if step.skipped] == list(bad_steps)
    late(True)
    found = traced(build(bad=bad, **options))
    assert_same_trace(found, expected)


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_late_steps_can_be_interrupted_and_resumed(
    build: Callable[..., Run], late: Callable[[bool], None], stop: int
) -> None:
    late(False)
    expected = traced(build())
    late(True)
    run, trace = build(), Trace()
    run.training.interrupted = lambda: run.training.steps == stop
    with pytest.raises(TrainingInterruptedError):
        train(*run, [trace])
    assert_equal(without_clocks(run.training.state()), expected.states[stop - 1])
    resumed = build()
    resumed.training.restore(copy.deepcopy(run.training.state()))
    assert_equal(traced(resumed).states, expected.states[stop:])


class NoTransfers(TorchDispatchMode):
    """Fails if a tensor is copied from CUDA to the CPU, or is copied to CUDA in a way that waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != result.device:
            assert result.device.type == "cuda", "a copy to the CPU waits for the GPU"
            assert kwargs["non_blocking"], "a blocking copy waits for the GPU"
        return result


class SameBatch:
    """Yields a batch on the CPU again and again."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.batch_size = self.images = 4
        self.image_ids = ["a", "b", "c", "d"]
        self.positions = torch.arange(4)
        self.size = size

    def __len__(self) -> int:
        return 3

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _ in range(len(self)):
            images = torch.empty(4, *self.size, 3, dtype=torch.uint8)
            yield self.positions, images, torch.empty(4, *self.size, dtype=torch.uint8)


@pytest.mark.parametrize(("name", "optimizer"), [("unet_small", "adamw"), ("unet_resnet34", "adam")])
def test_a_step_on_cuda_waits_only_for_the_numbers_of_the_step_before(
    monkeypatch: pytest.MonkeyPatch, name: str, optimizer: str
) -> None:
    size = (64, 96)
    network = build_network(name, width_multiplier=0.25)
    average = WeightAverage(network, 0.9)
    batches = SameBatch(size)  # its positions are real: the CPU reads them
    reads = []

    def backward(_: Tensor) -> None:
        for weight in network.parameters():
            weight.grad = torch.empty_like(weight)

    def fetch(numbers: Tensor) -> Callable[[], list[float]]:
        assert (numbers.device.type, numbers.shape) == ("cuda", (3,))
        return lambda: reads.append(1) or [0.5, 0.5, 1.0]

    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(steps_module, "_fetch", fetch)
    monkeypatch.setattr(Hardware, "busy", lambda self: False)
    with pretended_cuda(network, average.module):
        weights = network.parameters()
        chosen = build_optimizer(
            weights, name=optimizer, learning_rate=0.1, momentum=0.9 * (optimizer == "sgd"), fused=True
        )
        run = Training(
            network=network,
            geometry=Geometry.of(network, size),
            optimizer=chosen,
            schedule=build_schedule(chosen, name="one_cycle", total_steps=10),
            loss=build_loss({"border_weight": 5.0}),
            augmentation=Augmentation(brightness=0.1),
            hardware=Hardware(torch.device("cuda"), torch.bfloat16, channels_last=True, compile=False, fused=True),
            seed=1,
            epochs=1,
            description={},
            ema=average,
            accumulation_steps=2,
            clip_gradient_norm=1.0,
            steps=1,  # the first update is behind it
        )  # fmt: skip
        # The real one needs a stream of a real GPU: see test_transfer.py.
        run._upload = lambda *tensors: tuple(tensor.to("cuda", non_blocking=True) for tensor in tensors)  # type: ignore[assignment]
        with NoTransfers():
            train_one_epoch(run, batches)  # type: ignore[arg-type]
    assert len(reads) == run.progress.steps == average.updates == 3
