import copy
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.segmentation.architectures import ARCHITECTURES, SegmentationNetwork, build_network
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import Samples
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.training.average import WeightAverage
from carvana_kedro.segmentation.training.build import build_training
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import evaluate, train, train_one_epoch
from carvana_kedro.segmentation.training.losses import Loss, batch_dice, build_loss, segmentation_loss
from carvana_kedro.segmentation.training.optimizers import build_schedule
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Progress, Step, Training
from carvana_kedro.stores.images.competition import ImageStore

Setup = Callable[..., tuple]
CLOCKS = ("seconds", "images_per_second", "data_wait_share", "share_of_peak")
CPU = Hardware.choose("cpu", "float32")


def _without_clocks(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in history]


class OneBatch:
    """Yields the same batch `steps` times per epoch."""

    def __init__(self, images: Tensor, targets: Tensor, steps: int = 1) -> None:
        self.batch = torch.arange(len(images)), images, targets
        self.batch_size = self.images = len(images)
        self.image_ids = [f"image_{number}" for number in range(len(images))]
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter([self.batch] * (self.steps - start))


def _discs(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return images of bright discs on dark noise, (N, h, w, 3) uint8, and their masks, (N, h, w) uint8."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    masks = np.stack(
        [
            np.hypot(rows - height * (0.4 + 0.2 * n / count), columns - width * (0.6 - 0.2 * n / count))
            < height / 3.5
            for n in range(count)
        ]
    )
    images = random.integers(0, 100, (count, height, width, 3)) + 120 * masks[..., None]
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(masks.astype(np.uint8) * 255)


def _run(
    network: torch.nn.Module, size: tuple[int, int], hardware: Hardware = CPU, **changes: Any
) -> Training:
    recipe = Recipe(
        architecture="unet_small",  # not used: the network is given
        input_size=size,
        batch_size=1,
        epochs=1,
        seed=0,
        optimizer={"name": "adamw", "learning_rate": 0.01},
        augmentation=dict.fromkeys(
            ("shift", "scale", "rotation", "rotation_probability", "flip_probability"), 0.0
        ),
        **changes,
    )
    geometry = Geometry.of(network, size)
    return build_training(recipe, network, geometry, replace(hardware, fused=False), steps_per_epoch=1000)


def test_the_same_seed_trains_the_same_network(setup: Setup) -> None:
    runs = [setup(seed=seed) for seed in (1, 1, 2)]
    histories = [_without_clocks(train(*run)) for run in runs]
    assert histories[0] == histories[1] != histories[2]
    for one, other in zip(runs[0][0].network.parameters(), runs[1][0].network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_overfits_one_batch(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, width_multiplier={"unet_small": 0.5, "unet_512": 1 / 4}.get(name, 1 / 16))
    size = (220, 220) if name == "unet_original" else (64, 96)
    run = _run(network, size)
    batch = OneBatch(*_discs(4, *run.geometry.output_size), steps=20)
    for _ in range(15):
        run.progress = Progress()
        train_one_epoch(run, batch)  # type: ignore[arg-type]
        if run.progress.dice_coeff[-1] > 0.995:
            break
    assert run.progress.dice_coeff[-1] > 0.99


def test_a_record_describes_its_epoch(setup: Setup) -> None:
    run, train_batches, validation_batches = setup(epochs=2)
    run.flop, run.peak = 1e6, 1e9
    history = train(run, train_batches, validation_batches)
    assert [record["epoch"] for record in history] == [1, 2]
    assert set(history[0]) == {
        "epoch", "train_loss", "train_dice_coeff", "val_loss", "val_dice_coeff", "best_threshold", "learning_rate",
        "gradient_norm", "skipped_steps", *CLOCKS,
    }  # fmt: skip
    last = history[-1]
    assert last["val_loss"] == pytest.approx(evaluate(run, validation_batches)["val_loss"])
    assert last["skipped_steps"] == 0
    assert last["gradient_norm"] > 0
    assert 0 < last["data_wait_share"] < 1
    assert last["share_of_peak"] == pytest.approx(last["images_per_second"] / 1000)
    assert run.steps == 2 * len(train_batches)


def test_evaluation_is_the_mean_over_the_images_for_any_batch_size(setup: Setup) -> None:
    run, _, batches = setup()
    run.network.eval()
    losses, scores = [], []
    with torch.no_grad():
        for _, images, targets in batches.epoch(1):
            for image, target in zip(*run.tensors(images, targets), strict=True):
                logits = run.predict(run.network, image[None])
                losses.append(segmentation_loss(logits, target[None]))
                scores.append(batch_dice(logits, target[None]))
    found = evaluate(run, batches)
    assert found["val_loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert found["val_dice_coeff"] == pytest.approx(float(torch.cat(scores).mean()), rel=1e-4)


def test_callbacks_are_called_in_order(setup: Setup) -> None:
    calls: list[str] = []

    class Recorder(Callback):
        def on_run_begin(self, run: Training) -> None:
            calls.append("begin")

        def on_step_end(self, run: Training, step: Step) -> None:
            calls.append(f"step {step.number}/{step.steps} of epoch {run.epoch}")
            assert len(step.image_ids) == len(step.images) == 4

        def on_epoch_end(self, run: Training) -> None:
            calls.append(f"epoch {len(run.history)}")

        def on_run_end(self, run: Training) -> None:
            calls.append("end")

        def on_interrupted(self, run: Training) -> None:
            calls.append("interrupted")

    train(*setup(epochs=2), [Recorder()])
    steps = [[f"step {step}/3 of epoch {epoch}" for step in (1, 2, 3)] for epoch in (1, 2)]
    assert calls == ["begin", *steps[0], "epoch 1", *steps[1], "epoch 2", "end"]

    calls.clear()
    run, *batches = setup(epochs=2)
    run.interrupted = lambda: run.steps == 2
    with pytest.raises(TrainingInterruptedError, match=r"in epoch 1, after step 2\. Everything is saved"):
        train(run, *batches, [Recorder()])
    assert calls == ["begin", *steps[0][:2], "interrupted"]


def test_training_sees_each_image_with_its_own_change_of_the_epoch(
    setup: Setup, training_images: ImageStore
) -> None:
    seen: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    class Recorder(Callback):
        def on_step_end(self, run: Training, step: Step) -> None:
            for image_id, image, target in zip(step.image_ids, step.images, step.targets, strict=True):
                seen[run.epoch, image_id] = image.clone(), target.clone()

    run, *batches = setup(epochs=2, seed=5)
    train(run, *batches, [Recorder()])
    image_ids = batches[0].image_ids
    samples = Samples(training_images, image_ids, run.geometry)
    assert seen.keys() == {(epoch, image_id) for epoch in (1, 2) for image_id in image_ids}
    for (epoch, image_id), found in seen.items():
        position = list(image_ids).index(image_id)
        _, image, mask = samples.read([position])
        draws = run.augmentation.draw(5, epoch, [position])
        expected = [part[0] for part in run.augmentation.apply(*run.tensors(image, mask), draws)]
        torch.testing.assert_close(list(found), expected, rtol=0, atol=1e-5)
    first, second = (torch.stack([seen[epoch, name][0] for name in image_ids]) for epoch in (1, 2))
    assert ((first - second).abs().amax((1, 2, 3)) > 0.05).all()


# Within an epoch, after its last step (before validation), and in the next epoch.
@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
def test_a_restored_run_ends_like_an_uninterrupted_one(setup: Setup, stop: int, schedule: str) -> None:
    def new_run() -> tuple:
        run, *batches = setup(epochs=3)
        run.ema = WeightAverage(run.network, 0.9)
        run.schedule = build_schedule(run.optimizer, name=schedule, total_steps=9)
        return run, *batches

    uninterrupted, *batches = new_run()
    train(uninterrupted, *batches)
    run, *batches = new_run()
    run.interrupted = lambda: run.steps == stop
    with pytest.raises(TrainingInterruptedError):
        train(run, *batches)
    resumed, *batches = new_run()
    resumed.restore(run.state())
    train(resumed, *batches)
    assert _without_clocks(resumed.history) == _without_clocks(uninterrupted.history)
    for one, other in zip(
        uninterrupted.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


class OneLayer(SegmentationNetwork):
    """A network without BatchNorm, whose statistics differ between the parts of a batch."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 3, padding=1, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.double())[:, 0]


class Ratio:
    """A loss that is no mean: the error divided by the area of the batch."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.for_batch(targets)(logits, targets)

    def for_batch(self, targets: Tensor) -> Loss:
        area = targets.mean()
        return lambda logits, part: (logits - part).square().mean() / area


@pytest.mark.parametrize("count", [4, 5, 1])  # 5 and 1: an incomplete last batch
@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"border_weight": 5.0, "border_width": 2},
        {"border_weight": 40.0, "dice_weight": 0.0},
        {"bce_weight": 0.3, "border_weight": 1.0},
        {"type": f"{__name__}.Ratio"},
    ],
)
def test_a_batch_computed_in_parts_has_the_same_loss_and_gradient(loss: dict[str, Any], count: int) -> None:
    images, targets = _discs(count, 32, 48)
    targets[0] = 0  # an image without an edge
    targets[-1, ::2] = 255  # and one with many
    losses, gradients = [], []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        network = OneLayer()
        run = _run(network, (32, 48), accumulation_steps=parts, loss=loss)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        run = replace(
            run, optimizer=optimizer, schedule=build_schedule(optimizer, name="constant", total_steps=9)
        )
        before = [weight.detach().clone() for weight in network.parameters()]
        train_one_epoch(run, OneBatch(images, targets))  # type: ignore[arg-type]
        gradients.append([b - w.detach() for b, w in zip(before, network.parameters(), strict=True)])
        losses.append(run.progress.loss[0])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], rtol=1e-6, atol=1e-9)


def test_gradients_are_clipped() -> None:
    images, targets = _discs(2, 64, 96)
    torch.manual_seed(0)
    network = build_network("unet_small", width_multiplier=0.25)
    run = _run(network, (64, 96), clip_gradient_norm=1e-3)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    run = replace(
        run, optimizer=optimizer, schedule=build_schedule(optimizer, name="constant", total_steps=9)
    )
    before = [weight.detach().clone() for weight in network.parameters()]
    train_one_epoch(run, OneBatch(images, targets))  # type: ignore[arg-type]
    moves = [b - w.detach() for b, w in zip(before, network.parameters(), strict=True)]
    moved = math.sqrt(sum(float(move.square().sum()) for move in moves))
    assert moved == pytest.approx(1e-3, rel=1e-2)
    assert run.progress.gradient_norm[0] > 1e-2  # the norm before clipping


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(
    setup: Setup, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    run, train_batches, validation_batches = setup(epochs=1)
    run.ema = WeightAverage(run.network, 0.9)
    seen: list[Step] = []

    class Poisonous:
        calls = 0

        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            loss = segmentation_loss(logits, targets)
            if self.calls == 2:
                # The square root of 0 is finite; its slope is not.
                return (
                    loss * math.inf
                    if poison == "loss"
                    else loss + (logits - logits.detach()).abs().sum().sqrt()
                )
            return loss

    class Watch(Callback):
        def on_step_end(self, run: Training, step: Step) -> None:
            seen.append(step)
            now = {**run.network.state_dict(), **run.ema.state_dict()}
            states.append({name: value.clone() for name, value in now.items()})

    states: list[dict[str, Tensor]] = []
    run.loss = Poisonous()
    history = train(run, train_batches, validation_batches, [Watch()])
    assert [step.skipped for step in seen] == [False, True, False]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
    assert history[0]["skipped_steps"] == 1
    assert all(math.isfinite(history[0][name]) for name in ("train_loss", "val_loss", "gradient_norm"))
    assert "Step 2 of epoch 1 was skipped" in caplog.text
    assert all(image_id in caplog.text for image_id in seen[1].image_ids)


def test_too_many_skipped_steps_stop_the_run_with_advice(setup: Setup) -> None:
    run, *batches = setup(epochs=4)
    run = replace(run, loss=lambda logits, targets: logits.sum() * math.nan, max_skipped_steps=5)
    with pytest.raises(UserError, match=r"5 steps were skipped.*the loss was nan.*learning_rate, now 0\.003"):
        train(run, *batches)
    assert run.steps == 5
    with pytest.raises(
        UserError, match=r"5 steps were skipped.*To resume from here, increase max_skipped_steps"
    ):
        train(run, *batches)  # stops before the first step
    assert run.steps == 5
    run.max_skipped_steps = 6
    with pytest.raises(UserError, match="6 steps were skipped"):
        train(run, *batches)
    assert run.steps == 6
    assert all(value.isfinite().all() for value in run.network.state_dict().values())


def test_the_best_epoch_is_the_first_with_the_best_score_and_never_nan(setup: Setup) -> None:
    run, *_ = setup()
    run.epochs = 9
    assert (run.best_epoch, run.finished) == (0, False)
    run.history = [
        {"val_dice_coeff": d, "val_loss": v} for d, v in ((0.5, 3), (math.nan, 1), (0.7, 2), (0.7, 2))
    ]
    assert run.best_epoch == 3
    run.best_by = "val_loss"
    assert run.best_epoch == 2
    run.patience = 3
    assert not run.finished
    run.patience = 2
    assert run.finished
    run.patience, run.epochs = 0, 4
    assert run.finished


def test_early_stopping_ends_a_run(setup: Setup) -> None:
    run, *batches = setup(epochs=50, learning_rate=1e-12)
    run.patience = 2
    history = train(run, *batches)
    assert len(history) == run.best_epoch + 2 < 50


class Greedy(torch.nn.Module):
    """A network that runs out of memory with more than `most` images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(3, 1, 1)
        self.most = most

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            torch.empty(2**60, dtype=torch.uint8)  # raises torch's error
        return self.head(images)[:, 0]


def test_the_out_of_memory_error_says_how_many_images_fit() -> None:
    run = _run(Greedy(3), (64, 96))  # type: ignore[arg-type]
    batch = OneBatch(*_discs(8, 64, 96))
    advice = r"train on 8 images of 64 x 96 .*at once\. 2 fit\. .*batch_size=2,.*model_training\.accumulation_steps=4"
    with pytest.raises(UserError, match=advice):
        train(run, batch, batch)  # type: ignore[arg-type]
    run.accumulation_steps = 4
    train(run, batch, OneBatch(*_discs(2, 64, 96)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 1), (7, 1), (5, 1), (12, 2), (6, 3), (30, 6)])
def test_the_advice_of_the_out_of_memory_error_is_a_valid_recipe(batch_size: int, parts: int) -> None:
    run = _run(Greedy(1), (64, 96), accumulation_steps=parts)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        train(run, OneBatch(*_discs(batch_size, 64, 96)), OneBatch(*_discs(1, 64, 96)))  # type: ignore[arg-type]
    advised = {
        name: int(value) for name, value in re.findall(r"model_training\.(\w+)=(\d+)", str(caught.value))
    }
    less = re.search(r"batch_size=(\d+),model_training\.accumulation_steps=1", str(caught.value))
    assert less and int(less[1]) == 1
    recipe = {"architecture": "unet_small", "input_size": {"width": 96, "height": 64}, "epochs": 1}
    optimizer = {"name": "sgd", "learning_rate": 0.1}
    ModelTraining.model_validate(
        {
            **recipe,
            "optimizer": optimizer,
            "batch_size": batch_size,
            "accumulation_steps": advised["accumulation_steps"],
        }
    )
    assert batch_size // advised["accumulation_steps"] == 1


def test_steps_that_only_adjust_the_loss_scale_are_neither_counted_nor_averaged(setup: Setup) -> None:
    run, *batches = setup(epochs=2)
    # In float32 on a CPU, only a scale as large as this overflows.
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-4)
    run.loss = lambda logits, targets: 50 * segmentation_loss(logits, targets)
    run.max_skipped_steps = 1
    steps: list[Step] = []

    class Watch(Callback):
        def on_step_end(self, run: Training, step: Step) -> None:
            steps.append(step)

    history = train(run, *batches, [Watch()])
    assert steps[0].skipped and steps[0].rescaled and not steps[-1].skipped
    assert run.skipped == 0
    assert history[0]["skipped_steps"] == sum(step.skipped for step in steps[:3])
    assert math.isfinite(history[-1]["gradient_norm"]) and history[-1]["gradient_norm"] > 0


def test_clipping_works_with_the_loss_scale(setup: Setup) -> None:
    weights = []
    for scale in (0, 2.0**10):
        run, train_batches, _ = setup()
        run.clip_gradient_norm = 0.1
        run.accumulation_steps = 2
        if scale:
            run.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        train_one_epoch(run, train_batches)
        weights.append(torch.cat([weight.detach().ravel() for weight in run.network.parameters()]))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_workers_killed_by_the_signal_count_as_an_interruption(setup: Setup, where: str) -> None:
    uninterrupted, *batches = setup(epochs=2)
    train(uninterrupted, *batches)
    run, train_batches, validation_batches = setup(epochs=2)
    received = False
    saved: list[dict[str, Any]] = []

    class Ending:
        """Batches that end with an error, like those of killed workers."""

        def __init__(self, batches: Any, left: int) -> None:
            self.batches, self.left = batches, left

        def __getattr__(self, name: str) -> Any:
            return getattr(self.batches, name)

        def __len__(self) -> int:
            return len(self.batches)

        def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
            nonlocal received
            for batch in self.batches.epoch(number, start):
                if not self.left:
                    received = True
                    raise UserError("A process that reads images was killed or crashed")
                self.left -= 1
                yield batch

    class Saver(Callback):
        def on_interrupted(self, run: Training) -> None:
            saved.append(copy.deepcopy(run.state()))

    run.interrupted = lambda: received
    broken = Ending(train_batches, 4), Ending(validation_batches, 9)
    if where == "validation":
        broken = Ending(train_batches, 99), Ending(validation_batches, 1)
    with pytest.raises(TrainingInterruptedError, match=r"The same command resumes it\."):
        train(run, *broken, [Saver()])  # type: ignore[arg-type]
    resumed, *batches = setup(epochs=2)
    resumed.restore(saved[0])
    assert resumed.steps == 3  # the fourth step was not complete when fetching the next batch failed
    train(resumed, *batches)
    for one, other in zip(
        uninterrupted.network.state_dict().values(), resumed.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)

    received = False
    run, *_ = setup(epochs=2)
    with pytest.raises(UserError, match="killed or crashed"):
        train(run, Ending(train_batches, 1), validation_batches, [Saver()])  # type: ignore[arg-type]
    assert len(saved) == 1


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [({"precision": "bfloat16"}, 0.03), ({"channels_last": False}, 1e-4), ({"fused": False}, 1e-5)],
)
def test_every_choice_of_hardware_trains_about_the_same(
    setup: Setup, change: dict[str, Any], tolerance: float
) -> None:
    losses = []
    for hardware in (CPU, Hardware.choose(**{"device": "cpu", "precision": "float32", **change})):
        run, train_batches, _ = setup()
        run = replace(run, hardware=hardware, network=hardware.place(run.network))
        train_one_epoch(run, train_batches)
        losses.append(run.progress.means()["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=tolerance)
    assert losses[0] != losses[1] or change == {"fused": False}


@pytest.mark.slow  # compiling for the CPU takes a minute
def test_compiled_networks_train_about_the_same(setup: Setup) -> None:
    losses = []
    for hardware in (CPU, Hardware.choose("cpu", "float32", compile=True)):
        run, train_batches, validation_batches = setup(epochs=1)
        names = list(run.network.state_dict())
        run = replace(run, hardware=hardware, network=hardware.place(run.network))
        assert list(run.network.state_dict()) == names
        history = train(run, train_batches, validation_batches)
        losses.append([history[0]["train_loss"], history[0]["val_loss"]])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize(("learning_rate", "epochs"), [(1e30, 1), (1e30, 2), (1e37, 1), (1e12, 2)])
def test_a_run_whose_learning_rate_is_absurd_does_not_end(
    setup: Setup, learning_rate: float, epochs: int, ema_decay: float
) -> None:
    run, *batches = setup(epochs=epochs, learning_rate=learning_rate)
    if ema_decay:
        run.ema = WeightAverage(run.network, ema_decay)
    ended: list[str] = []

    class Watch(Callback):
        def on_epoch_end(self, run: Training) -> None:
            ended.extend(["finished"] if run.finished else [])

    with pytest.raises(
        UserError, match=r"(diverged|were skipped).*smaller learning rate .*learning_rate, now"
    ):
        train(run, *batches, [Watch()])
    assert not ended


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["weight", "statistic", "average"])
def test_weights_that_are_not_finite_end_a_run_before_its_state_is_saved(
    setup: Setup, where: str, value: float
) -> None:
    run, *batches = setup(epochs=3)
    run.ema = WeightAverage(run.network, 0.9)
    states: list[int] = []

    class Breaking(Callback):
        def on_step_end(self, run: Training, step: Step) -> None:
            if run.steps == 6:  # the last one of the second epoch
                network = run.ema.module if where == "average" else run.network
                name = "encoder.0.0.1.running_var" if where == "statistic" else "head.bias"
                network.state_dict()[name][0] = value

        def on_epoch_end(self, run: Training) -> None:
            states.append(len(run.history))

    what = "model" if where == "average" else "network"
    with pytest.raises(
        UserError, match=rf"after 2 epochs and 6 steps: 1 of \d+ tensors of the {what} are NaN"
    ):
        train(run, *batches, [Breaking()])
    assert states == [1]
    # A state that was saved within the epoch is refused as well.
    again, *batches = setup(epochs=3)
    again.ema = WeightAverage(again.network, 0.9)
    again.restore(run.state())
    with pytest.raises(UserError, match="diverged"):
        train(again, *batches)


def test_a_loss_that_is_not_finite_may_recover_but_not_end_a_run(setup: Setup) -> None:
    for bad_epoch, ends in ((1, True), (2, False)):
        run, *batches = setup(epochs=2)

        def loss(logits: Tensor, targets: Tensor, run: Training = run, bad: int = bad_epoch) -> Tensor:
            value = segmentation_loss(logits, targets)
            return value if logits.requires_grad or run.epoch != bad else value * math.nan

        run.loss = loss
        if ends:
            assert math.isnan(train(run, *batches)[0]["val_loss"])
        else:
            with pytest.raises(UserError, match=r"after 2 epochs .*: val_loss of the last epoch is nan"):
                train(run, *batches)


@pytest.mark.parametrize(
    ("bias", "kind"), [(-100.0, "4 are empty and 0 are full"), (100.0, "0 are empty and 4 are full")]
)
def test_a_run_that_ends_with_a_constant_prediction_says_so(
    setup: Setup, caplog: pytest.LogCaptureFixture, bias: float, kind: str
) -> None:
    run, *batches = setup(epochs=1, learning_rate=1e-12)
    with torch.no_grad():
        run.network.head.weight.zero_()
        run.network.head.bias.fill_(bias)
    history = train(run, *batches)
    assert f"predicts a constant: of 4 validation masks, {kind}" in caplog.text
    assert f"best Dice coefficient {history[0]['val_dice_coeff']:.4f}" in caplog.text
    caplog.clear()
    run, *batches = setup(epochs=1, learning_rate=1e-12)
    with torch.no_grad():  # a network whose masks depend on the image
        run.network.head.bias.zero_()
    train(run, *batches)
    assert "constant" not in caplog.text


def test_a_run_without_gradients_says_so(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    run, *batches = setup(epochs=1)
    run.loss = lambda logits, targets: 0 * segmentation_loss(logits, targets)
    train(run, *batches)
    assert "All gradients of the last epoch were 0" in caplog.text
    caplog.clear()
    train(*setup(epochs=1))
    assert "gradients" not in caplog.text


@pytest.mark.parametrize(
    "weights",
    [
        {"bce_weight": 0, "dice_weight": 0},
        {"bce_weight": -1},
        {"dice_weight": math.nan},
        {"border_weight": math.inf},
    ],
)
def test_a_loss_without_valid_weights_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="weights of the loss must be finite"):
        build_loss(weights)
