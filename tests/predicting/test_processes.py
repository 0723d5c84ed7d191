"""Prediction in several processes: the same files as by one, and what happens when one of them fails or is killed."""

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.predicting import engine, messages, processes
from carvana_kedro.predicting.messages import for_parent
from carvana_kedro.prediction_plan import PredictionPlan
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from models import RECIPE
from processes import is_running

Files = Mapping[str, bytes]

THRESHOLD = 0.603
"""About the median of the untrained network's probabilities, so that its masks depend on every bit of them."""


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """An untrained model whose network has a part behind every code path of PyTorch's convolutions."""
    torch.manual_seed(0)
    content = {"architecture": "unet_small", "width_multiplier": 0.5, "input_size": [96, 144]}
    weights = build_network("unet_small", width_multiplier=0.5).state_dict()
    return TrainedModel.from_dict({**content, "weights": weights, "threshold": 0.5, "run_id": "run"})


def _runs(folder: Path) -> list[int]:
    """The number of runs of each mask."""
    rows = (row for path in (folder / "shards").rglob("*.csv") for row in path.read_text().splitlines()[1:])
    return [len(row.split()) // 2 for row in rows]


def _plan(model: TrainedModel, images: ImageStore, folder: Path, **changed: Any) -> PredictionPlan:
    """A plan for the images with masks, cut-outs and overlays, in shards of three."""
    options = {
        "batch_size": 2,
        "shard_size": 3,
        "precision": "float32",
        "background": "#ff8000",
        "threshold": THRESHOLD,
    }
    kinds = {"masks": True, "cutouts": True, "overlays": True}
    return PredictionPlan.make(
        model, index_images(images), images,
        PredictionShards(DiskFolder(folder / "shards")), PredictedImages(DiskFolder(folder)),
        Inference(**{**options, **kinds, **changed}), RECIPE, SourceDescription(name="mine"),
    )  # fmt: skip


def _files(folder: Path) -> Files:
    """The files of a prediction. What describes the shards holds the times of files, and is left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".json", ".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _predict(plan: PredictionPlan, devices: int) -> None:
    with engine.started(plan.work, plan.jobs, devices) as predicted:
        assert dict(predicted).keys() == plan.jobs.keys()


@pytest.fixture(scope="module")
def expected(
    model: TrainedModel, training_images: ImageStore, tmp_path_factory: pytest.TempPathFactory
) -> Files:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("one")
    _predict(_plan(model, training_images, folder), 1)
    assert len(_files(folder)) == 6 + 3 * 16
    assert min(_runs(folder)) > 20  # full or empty masks would not depend on the logits
    return _files(folder)


def _state() -> dict[str, Any]:
    """What a process can change for all that runs in it later."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "environment": dict(os.environ),
        "working directory": Path.cwd(),
        "PyTorch's and OpenCV's threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "threads": {thread.name for thread in threading.enumerate()},
        "logging": {logger.name: (logger.level, list(logger.handlers)) for logger in loggers},
        "warnings": list(warnings.filters),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "children": multiprocessing.active_children(),
        "cores": processes.usable_cores(),
    }  # fmt: skip


def test_two_processes_write_the_files_of_one_and_leave_no_trace(
    model: TrainedModel,
    training_images: ImageStore,
    expected: Files,
    threads: Callable[[int], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads(2)  # whatever the processes of tests have
    plan = _plan(model, training_images, tmp_path)
    before = _state()
    with caplog.at_level(logging.INFO):
        _predict(plan, 2)
    after = _state()
    for what, value in before.items():
        assert after[what] == value, what
    assert _files(tmp_path) == expected
    assert len([text for text in caplog.messages if text.startswith("Predicting at a threshold")]) == 1


def test_an_error_of_a_process_is_one_error_of_the_run_and_ends_all(
    model: TrainedModel, broken: Path, tmp_path: Path
) -> None:
    images = ImageStore(broken / "train")
    damaged = images.image_path(images.ids()[7])
    plan = _plan(model, images, tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(UserError, match=damaged.stem):
        _predict(plan, 2)
    assert not multiprocessing.active_children()


def test_a_warning_of_a_process_is_logged_by_the_run(
    model: TrainedModel, broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ImageStore(broken / "train")
    damaged = images.image_path(images.ids()[7])
    plan = _plan(model, images, tmp_path, on_bad_image="empty")
    damaged.write_bytes(damaged.read_bytes()[:500])
    with engine.started(plan.work, plan.jobs, 2) as predicted:
        problems = [image_id for _, shard in predicted for image_id in shard.problems]
    assert problems == [damaged.stem]
    assert [record.levelname for record in caplog.records if damaged.stem in record.getMessage()] == [
        "WARNING"
    ]


def test_a_killed_process_ends_the_run_which_then_continues(
    model: TrainedModel, training_images: ImageStore, expected: Files, tmp_path: Path
) -> None:
    plan = _plan(model, training_images, tmp_path)
    pids: list[int] = []

    def kill_one() -> None:
        children = multiprocessing.active_children()
        if not pids:
            pids.extend(child.pid or 0 for child in children)
            os.kill(pids[0], signal.SIGKILL)

    with (
        pytest.raises(UserError, match=r"killed by SIGKILL.*inference\.batch_size.*same command continues"),
        processes.started(plan.work, plan.jobs, 2, kill_one) as predicted,
    ):
        dict(predicted)
    assert len(pids) == 2
    assert not any(map(is_running, pids))
    finished = plan.work.finished(plan.jobs)
    missing = {number: job for number, job in plan.jobs.items() if number not in finished}
    with engine.started(plan.work, missing, 1) as predicted:
        assert dict(predicted).keys() == missing.keys()
    assert _files(tmp_path) == expected


def test_a_process_that_is_killed_before_it_is_ready_ends_the_run(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = processes._start

    def start_and_kill(rank: int, *rest: Any) -> Any:
        started = start(rank, *rest)
        if rank == 1:
            started.process.kill()
        return started

    monkeypatch.setattr(processes, "_start", start_and_kill)
    plan = _plan(model, training_images, tmp_path)
    with (
        pytest.raises(UserError, match="killed by SIGKILL"),
        processes.started(plan.work, plan.jobs, 2, lambda: None),
    ):
        pytest.fail("the processes are not ready")
    assert not multiprocessing.active_children()
    assert not _files(tmp_path)


def test_any_other_error_of_a_process_shows_where_it_happened() -> None:
    def fail(image: str) -> None:
        raise KeyError(image)

    with pytest.raises(KeyError) as caught:
        fail("a")
    error = for_parent(caught.value)
    assert isinstance(error, KeyError)
    assert "raise KeyError(image)" in "\n".join(error.__notes__)


def test_an_error_of_the_user_keeps_its_notes() -> None:
    error = UserError("The disk is full.")
    error.add_note("This happened while the prediction for a was written.")
    assert for_parent(error).__notes__ == error.__notes__


def test_an_exit_of_a_process_is_an_error_of_the_run() -> None:
    error = for_parent(SystemExit(0))
    assert isinstance(error, RuntimeError)
    assert "SystemExit(0)" in str(error)


def test_warnings_are_repeated_and_information_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logged: set[tuple[str, str]] = set()
    for level in (logging.INFO, logging.WARNING) * 2:
        text = logging.getLevelName(level)
        messages._log(logging.LogRecord("carvana_kedro", level, "", 0, text, (), None), logged)
    assert caplog.messages == ["INFO", "WARNING", "WARNING"]


@pytest.mark.parametrize(
    ("cause", "memory"), [("was killed by SIGKILL", True), ("ended with exit status 1", False)]
)
def test_only_a_killed_process_may_have_had_too_little_memory(cause: str, memory: bool) -> None:
    assert ("memory" in str(processes._death(cause, 2))) == memory


def test_one_process_predicts_on_a_gpu_that_pytorch_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_kind_of_device", lambda *_: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert processes.number_of_processes("auto", "cuda", "onnxruntime") == 1


def test_fewer_shards_than_processes_are_told(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plan = _plan(model, training_images, tmp_path, shard_size=100)
    with engine.started(plan.work, plan.jobs, 2):
        assert "1 of 2 processes predict" in caplog.text
        assert "inference.shard_size" in caplog.text


def test_a_process_of_other_hardware_than_planned_is_refused(
    model: TrainedModel, training_images: ImageStore, tmp_path: Path
) -> None:
    work = _plan(model, training_images, tmp_path, device="cpu").work
    with pytest.raises(UserError, match=r"cpu in float32.*cpu in bfloat16.*inference\.precision"):
        replace(work, hardware=["cpu", "bfloat16"]).build_predictor()


def test_an_error_that_cannot_be_sent_is_described() -> None:
    class SpecialError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} of {two}")

    error = for_parent(SpecialError(1, 2))
    assert isinstance(error, RuntimeError)
    assert "1 of 2" in str(error)


@pytest.mark.parametrize(
    ("devices", "device", "gpus", "expected"),
    [("auto", "cpu", 2, 1), (3, "cpu", 2, 3), ("auto", "cuda", 4, 4), (2, "auto", 4, 2), (1, "auto", 0, 1)],
)
def test_each_gpu_has_a_process(
    devices: Any, device: str, gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_gpus(gpus, monkeypatch)
    assert processes.number_of_processes(devices, device) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_gpus(2, monkeypatch)
    with pytest.raises(UserError, match=r"inference\.devices=3.*only 2 on this machine"):
        processes.number_of_processes(3, "cuda")


def _pretend_gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("named", "expected"),
    [(None, ["0", "1"]), ("", ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])],
)  # fmt: skip
def test_a_process_gets_one_of_the_visible_gpus(
    named: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_gpus(2, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert processes._visible_gpus() == expected


@pytest.fixture
def threads() -> Any:
    """Sets the number of PyTorch's threads, and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_do_not_depend_on_the_number_of_threads_from_two_on(
    precision: Any, threads: Callable[[int], None]
) -> None:
    torch.manual_seed(0)
    network = build_network("unet_small", width_multiplier=0.5)
    predictor = Predictor([network], (96, 144), device="cpu", precision=precision)
    images = torch.randint(0, 256, (3, *predictor.geometry.output_size, 3), dtype=torch.uint8)
    threads(2)
    expected = predictor.logits(images)
    for number in (3, 4, 8):
        threads(number)
        assert torch.equal(predictor.logits(images), expected), number


@pytest.mark.parametrize(
    ("parent", "count", "expected"), [(1, 2, 1), (2, 2, 2), (4, 4, 2), (16, 2, 8), (6, 4, 2)]
)
def test_a_process_has_its_share_of_the_threads_but_more_than_one(
    parent: int, count: int, expected: int
) -> None:
    assert processes._threads(parent, count) == expected
