from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from carvana_kedro.segmentation.batches import Batches
from carvana_kedro.segmentation.callbacks import (
    CheckpointSaver,
    ProgressBar,
    TensorBoardPictures,
    TensorBoardScalars,
)
from carvana_kedro.segmentation.trainer import train

Setup = Callable[..., tuple]


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_scalars_are_the_history(setup: Setup, tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        history = train(*setup(epochs=2), [TensorBoardScalars(writer)])
    events = _events(tmp_path)
    tags = {"data/train_loss", "data/train_dice_coeff", "data/val_loss", "data/val_dice_coeff"}
    assert tags <= set(events.Tags()["scalars"])
    for tag in tags:
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2]
        expected = [record[tag.removeprefix("data/")] for record in history]
        assert [scalar.value for scalar in scalars] == pytest.approx(expected)


@pytest.mark.parametrize("shown", [1, 2])  # the last of the batches of 3 and 1 images has but one to show
def test_pictures_show_image_agreement_and_both_masks(setup: Setup, tmp_path: Path, shown: int) -> None:
    run, train_batches, validation_batches = setup(epochs=2)
    validation_batches = Batches(validation_batches.samples, 3 if shown == 1 else 4)
    with SummaryWriter(tmp_path) as writer:
        train(run, train_batches, validation_batches, [TensorBoardPictures(writer, count=2)])
    events = _events(tmp_path)
    assert events.Tags()["images"] == [f"validation/image_{n}" for n in range(1, shown + 1)]
    assert [image.step for image in events.Images("validation/image_1")] == [1, 2]
    (tmp_path / "picture.png").write_bytes(events.Images("validation/image_1")[-1].encoded_image_string)
    picture = np.asarray(Image.open(tmp_path / "picture.png"))
    assert picture.shape == (32, 4 * 48, 3)
    _, image, _ = validation_batches.samples[3 if shown == 1 else 0]
    assert np.array_equal(picture[:, :48], image)


def test_last_and_best_are_saved(setup: Setup) -> None:
    saved: list[tuple[str, int]] = []

    def save(name: str, content: Any) -> None:
        assert set(content) == {"model", "optimizer", "schedule", "history"}
        saved.append((name, len(content["history"])))

    run, train_batches, validation_batches = setup(epochs=4)
    history = train(run, train_batches, validation_batches, [CheckpointSaver(save)])
    scores = [record["val_dice_coeff"] for record in history]
    assert [epoch for name, epoch in saved if name == "last"] == [1, 2, 3, 4]
    best = [epoch for name, epoch in saved if name == "best"]
    assert best[-1] == int(np.argmax(scores)) + 1
    assert best == [n for n in range(1, 5) if scores[n - 1] > max(scores[: n - 1], default=-1)]


def test_every_epoch_has_its_line(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train(*setup(epochs=2), [ProgressBar()])
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines if line.startswith("Epoch")] == ["Epoch 1", "Epoch 2"]
    assert "validation loss" in lines[-1]
