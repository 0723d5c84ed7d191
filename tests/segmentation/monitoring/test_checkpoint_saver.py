import multiprocessing
import resource
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.samples import Samples
from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.stores import checkpoints as checkpoints_module
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore

Setup = Callable[..., tuple]


class Slow:
    """A store whose first checkpoint is not written before the event is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.calls: list[tuple[str, int]] = []
        self.weights: list[torch.Tensor] = []

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        assert self.go_on.wait(60), "training waits for the checkpoint"
        self.calls.append((series, step))
        self.weights.append(next(iter(content["model"]["weights"].values())).clone())


class Failing:
    """A store that cannot write."""

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        raise UserError(f"{series}-{step} cannot be written")


class Steps(Callback):
    """Records the steps, and calls a function after each."""

    def __init__(self, then: Callable[[Any], None] = lambda run: None) -> None:
        self.count = 0
        self.then = then

    def on_step_end(self, run: Any, step: Any) -> None:
        self.count += 1
        self.then(run)


def test_training_goes_on_while_a_checkpoint_is_written(setup: Setup) -> None:
    run, *batches = setup(epochs=2)
    store, weights = Slow(), []

    def after_step(run: Any) -> None:
        weights.append(next(iter(run.network.state_dict().values())).clone())
        if run.steps == 5:  # two steps after the checkpoint of the first epoch
            assert store.calls == []
            store.go_on.set()

    with CheckpointSaver(store, minutes=1e9) as saver:
        train(run, *batches, [Steps(after_step), saver])
        assert store.calls[:2] == [("best", 3), ("last", 3)]
        assert store.calls[-1] == ("last", 6)
    # What was written is the state at the moment of the checkpoint.
    assert torch.equal(store.weights[1], weights[2])
    assert not torch.equal(weights[2], weights[4])


def test_the_next_checkpoint_waits_for_the_previous_one(setup: Setup) -> None:
    run, *batches = setup(epochs=1)
    store, steps = Slow(), Steps()
    with CheckpointSaver(store, minutes=0) as saver:
        training = threading.Thread(target=train, args=(run, *batches, [steps, saver]))
        training.start()
        deadline = time.monotonic() + 60
        while steps.count < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        assert (steps.count, store.calls) == (2, [])  # the second step waits for the first checkpoint
        store.go_on.set()
        training.join()
    assert store.calls == [("last", 1), ("last", 2), ("last", 3), ("best", 3), ("last", 3)]


def test_a_failed_write_stops_the_training_after_the_next_step(setup: Setup) -> None:
    run, *batches = setup(epochs=3)

    def wait_for_the_thread(run: Any) -> None:
        deadline = time.monotonic() + 60
        while saver._writing is not None and not saver._writing.done():
            assert time.monotonic() < deadline

    with pytest.raises(UserError, match="best-3 cannot be written"), CheckpointSaver(Failing(), 1e9) as saver:
        train(run, *batches, [Steps(wait_for_the_thread), saver])
    assert run.steps == 4


def test_a_failed_write_is_an_error_at_the_end_of_the_training(setup: Setup) -> None:
    run, *batches = setup(epochs=1)
    with pytest.raises(UserError, match="best-3 cannot be written"):
        train(run, *batches, [CheckpointSaver(Failing(), minutes=1e9)])


def test_an_interrupted_training_does_not_say_that_it_is_saved_if_it_is_not(setup: Setup) -> None:
    run, *batches = setup(epochs=1)
    run.interrupted = lambda: run.steps == 2
    with pytest.raises(UserError, match="last-2 cannot be written") as caught:
        train(run, *batches, [CheckpointSaver(Failing(), minutes=1e9)])
    assert not isinstance(caught.value, TrainingInterruptedError)


def test_after_another_error_the_checkpoint_is_written_and_its_error_is_logged(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(run: Any) -> None:
        if run.steps == 4:
            threading.Timer(0.3, store.go_on.set).start()
            raise ZeroDivisionError

    store = Slow()
    run, *batches = setup(epochs=2)
    with pytest.raises(ZeroDivisionError), CheckpointSaver(store, minutes=1e9) as saver:
        train(run, *batches, [Steps(fail), saver])
    assert store.calls == [("best", 3), ("last", 3)]
    run, *batches = setup(epochs=2)
    with pytest.raises(ZeroDivisionError), CheckpointSaver(Failing(), minutes=1e9) as saver:
        train(run, *batches, [Steps(fail), saver])
    assert "best-3 cannot be written" in caplog.text


def test_a_full_disk_stops_the_training_and_earlier_checkpoints_stay(setup: Setup, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(DiskFolder(tmp_path)).run("run")
    run, *batches = setup(epochs=1)
    train(run, *batches, [CheckpointSaver(checkpoints, minutes=1e9)])
    later, *batches = setup(epochs=2)
    later.restore(checkpoints.newest("last") or {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # a real fault: no file may be longer
    try:
        with (
            pytest.raises(UserError, match=r"pt cannot be written: File too large\..* Earlier checkpoints"),
            CheckpointSaver(checkpoints, minutes=1e9) as saver,
        ):
            train(later, *batches, [saver])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    saved = checkpoints.newest("last")
    assert saved is not None and saved["steps"] == 3
    assert not list(tmp_path.rglob("*.part"))


def test_workers_can_start_while_a_checkpoint_is_written(
    setup: Setup, training_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers that read the validation images start while the thread is in the middle of a file."""
    write = checkpoints_module._HashingFile.write
    workers: list[int] = []

    def write_slowly(file: Any, data: bytes) -> int:
        deadline = time.monotonic() + 60
        while len(workers) < 2 and file.written and time.monotonic() < deadline:
            workers[:] = [child.pid for child in multiprocessing.active_children() if child.pid]
            time.sleep(0.01)
        file.written = True
        return write(file, data)

    monkeypatch.setattr(checkpoints_module._HashingFile, "written", False, raising=False)
    monkeypatch.setattr(checkpoints_module._HashingFile, "write", write_slowly)
    run, train_batches, _ = setup(epochs=1)
    samples = Samples(training_images, training_images.ids()[12:], run.geometry)
    checkpoints = CheckpointStore(DiskFolder(tmp_path)).run("run")

    class SaveOnce(CheckpointSaver):
        def on_step_end(self, run: Any, step: Any) -> None:
            if step.number == step.steps:  # just before the validation
                self._save_last(run)

    with SaveOnce(checkpoints, minutes=1e9) as saver:
        train(run, train_batches, Batches(samples, 2, num_workers=2), [saver])
    assert len(workers) == 2
    alone, *batches = setup(epochs=1)
    train(alone, *batches)
    saved = checkpoints.newest("last")
    assert saved is not None
    assert all(
        torch.equal(saved["network"][name], value) for name, value in alone.network.state_dict().items()
    )
    assert not list(tmp_path.rglob("*.part"))
