from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.augmentation import Augmentation
from carvana_kedro.segmentation.callbacks import Callback
from carvana_kedro.segmentation.losses import batch_dice, segmentation_loss
from carvana_kedro.segmentation.trainer import Training, evaluate, train, train_one_epoch

Setup = Callable[..., tuple]


def _without_clock(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in history
    ]


def test_the_same_seed_trains_the_same_network(setup: Setup) -> None:
    runs = [setup(seed=seed) for seed in (1, 1, 2)]
    histories = [_without_clock(train(*run)) for run in runs]
    assert histories[0] == histories[1] != histories[2]
    for one, other in zip(runs[0][0].network.parameters(), runs[1][0].network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_batch_is_learnt_by_heart(setup: Setup) -> None:
    run, batches, _ = setup(learning_rate=0.01)
    run = replace(run, augmentation=Augmentation(0, 0, 0, 0, 0))
    _, images, targets = next(iter(batches.epoch(1)))

    class OneBatch:
        images = 4

        def __len__(self) -> int:
            return 1

        def epoch(self, number: int) -> list[tuple[Tensor, Tensor, Tensor]]:
            return [(torch.arange(4), images, targets)]

    for _ in range(150):
        last = train_one_epoch(run, OneBatch())  # type: ignore[arg-type]
    assert last["dice_coeff"] > 0.98


def test_a_record_says_what_happened(setup: Setup) -> None:
    run, train_batches, validation_batches = setup(epochs=2)
    history = train(run, train_batches, validation_batches)
    assert [record["epoch"] for record in history] == [1, 2]
    assert set(history[0]) == {
        "epoch", "train_loss", "train_dice_coeff", "val_loss", "val_dice_coeff", "learning_rate",
        "images_per_second", "seconds",
    }  # fmt: skip
    assert history[-1]["val_loss"] == pytest.approx(evaluate(run, validation_batches)["loss"])


def test_evaluation_is_the_mean_over_the_images_whatever_the_batches(setup: Setup) -> None:
    run, _, batches = setup()
    run.network.eval()
    losses, scores = [], []
    with torch.no_grad():
        for _, images, targets in batches.epoch(1):
            for image, target in zip(*run.tensors(images, targets), strict=True):
                logits = run.predict(image[None])
                losses.append(segmentation_loss(logits, target[None]))
                scores.append(batch_dice(logits, target[None]))
    found = evaluate(run, batches)
    assert found["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert found["dice_coeff"] == pytest.approx(float(torch.cat(scores).mean()), rel=1e-4)


def test_callbacks_are_called_in_order(setup: Setup) -> None:
    calls: list[str] = []

    class Recorder(Callback):
        def on_run_begin(self, run: Training) -> None:
            calls.append("begin")

        def on_step_end(self, run: Training, step: int, steps: int, loss: Tensor) -> None:
            calls.append(f"step {step}/{steps} of epoch {run.epoch}")

        def on_epoch_end(self, run: Training) -> None:
            calls.append(f"epoch {len(run.history)}")

        def on_run_end(self, run: Training) -> None:
            calls.append("end")

    train(*setup(epochs=2), [Recorder()])
    steps = [[f"step {step}/3 of epoch {epoch}" for step in (1, 2, 3)] for epoch in (1, 2)]
    assert calls == ["begin", *steps[0], "epoch 1", *steps[1], "epoch 2", "end"]


def test_a_run_goes_on_from_its_history(setup: Setup) -> None:
    run, train_batches, validation_batches = setup(epochs=3)
    run.history.append({"epoch": 1})
    assert [record["epoch"] for record in train(run, train_batches, validation_batches)] == [1, 2, 3]


def test_a_loss_that_is_no_number_stops_with_advice(setup: Setup) -> None:
    run, train_batches, _ = setup()
    run = replace(run, loss=lambda logits, targets: logits.sum() * float("nan"))
    with pytest.raises(UserError, match=r"The loss became nan in epoch 1.*learning_rate"):
        train_one_epoch(run, train_batches)


def test_bfloat16_trains_about_the_same(setup: Setup) -> None:
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        run, train_batches, _ = setup()
        losses.append(train_one_epoch(replace(run, precision=precision), train_batches)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
