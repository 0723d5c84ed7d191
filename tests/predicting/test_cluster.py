"""Prediction in Ray clusters on the loopback interface. `make ray` runs these tests."""

import json
import logging
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import predict_masks
from carvana_kedro.predicting.cluster import check_cluster
from carvana_kedro.predicting.driver import _connect
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint, save_checkpoint
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards, write_submission
from models import RECIPE
from processes import is_running, wait_until_ended

MISSING = find_spec("ray") is None or find_spec("pyarrow") is None
PROCESS = Path(__file__).with_name("cluster_process.py")
NODES = Path(__file__).with_name("ray_nodes.py")
BUSY = Path(__file__).with_name("busy_cluster.py")
IMAGES = 36
UNREADABLE = f"{7:012x}_01"
OPTIONS = {"batch_size": 2, "shard_size": 3, "masks": True, "flip": True, "on_bad_image": "empty"}
SHARDS = IMAGES // OPTIONS["shard_size"]  # type: ignore[operator]


def needs_ray(test: Any) -> Any:
    """Mark a test that needs Ray Data, and skip it with a reason where that is missing."""
    return pytest.mark.ray(pytest.mark.skipif(MISSING, reason="needs ray[data]: run `make ray`")(test))


@pytest.fixture(scope="module")
def inputs(training_images: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.pt` and with `images`, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    for number, image_id in zip(range(IMAGES), training_images.ids() * IMAGES, strict=False):
        (folder / f"images/{number:012x}_01.jpg").hardlink_to(training_images.image_path(image_id))
    unreadable = folder / f"images/{UNREADABLE}.jpg"
    content = unreadable.read_bytes()
    unreadable.unlink()
    unreadable.write_bytes(content[: content.index(b"\xff\xda")] + b"\xff\xd9")  # only its header
    torch.manual_seed(0)
    model = {"architecture": "unet_small", "width_multiplier": 1, "input_size": [256, 384], "threshold": 0.5}
    weights = build_network("unet_small", width_multiplier=1).state_dict()
    save_checkpoint(folder / "model.pt", {**model, "weights": weights, "run_id": "run"})
    return folder


@dataclass
class Runs:
    """Starts predicting processes and clusters. All of them have a mark in their environment.

    Attributes:
        inputs: See `inputs`.
        mark: The mark.
        stack: Ends them.
    """

    inputs: Path
    mark: str
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def environment(self) -> dict[str, str]:
        """Ray listens on 127.0.0.1 only, to those who know the token, and tells nobody that it is used."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),  # as pytest finds modules of the tests
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "MARK_OF_THE_TEST": self.mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.mark,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "90",  # for a busy machine
        }

    def nodes(self, *cpus: int) -> tuple[str, list[int]]:
        """Start a cluster: see `ray_nodes`. Return its address, and the process ids of the nodes but the head."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tempfile.mkdtemp(prefix="ray-")  # sockets need a short path
        process = subprocess.Popen(
            [sys.executable, NODES, str(port), folder, *map(str, cpus)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=self.environment, start_new_session=True,
        )  # fmt: skip
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.stack.callback(process.communicate)
        assert process.stdout
        pids = json.loads(process.stdout.readline())
        return f"ray://127.0.0.1:{port}", pids[1:]

    def start(
        self, folder: Path, cluster: str | None, script: Path = PROCESS, **options: Any
    ) -> subprocess.Popen[str]:
        """Start or resume a prediction."""
        parameters = json.dumps({**OPTIONS, "cluster": cluster, **options})
        process = subprocess.Popen(
            [sys.executable, script, self.inputs / "model.pt", self.inputs / "images", folder, parameters],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment,
            start_new_session=True,
        )  # fmt: skip
        self.stack.callback(process.kill)
        return process

    def finish(self, folder: Path, cluster: str | None, **options: Any) -> str:
        """Predict, and return the log."""
        return finished(self.start(folder, cluster, **options))

    def running(self) -> set[int]:
        """Return the processes with the mark that have not ended."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark.encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if marked and is_running(int(entry.name)):
                found.add(int(entry.name))
        return found


def finished(process: subprocess.Popen[str]) -> str:
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 0, log
    return log


@pytest.fixture
def runs(inputs: Path) -> Iterator[Runs]:
    """They end with the test."""
    with ExitStack() as stack:
        yield Runs(inputs, secrets.token_hex(), stack)


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes without a cluster."""
    folder = tmp_path_factory.mktemp("alone")
    with ExitStack() as stack:
        Runs(inputs, secrets.token_hex(), stack).finish(folder, None)
    return written(folder)


def written(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by its name, but of descriptions of shards: they hold times of files."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.suffix != ".json" or path.parent == folder
    }


def shards(folder: Path) -> dict[Path, int]:
    """Return the finished shards, and what changes if they are written again."""
    return {path: path.stat().st_ino for path in folder.glob("shards/*/*-*.csv")}


def wait_for_shards(folder: Path, count: int, process: subprocess.Popen[str]) -> dict[Path, int]:
    """Wait until this number of shards is finished, and return them."""
    while len(shards(folder)) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return shards(folder)


def actors_of(node: int) -> list[int]:
    """Return the processes of a node that predict."""
    children = Path(f"/proc/{node}/task/{node}/children").read_text().split()
    return [int(pid) for pid in children if b"ShardPredictor" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def kill_node(node: int) -> None:
    """End a node and all of its processes at once, as a power failure does."""
    for pid in [node, *map(int, Path(f"/proc/{node}/task/{node}/children").read_text().split())]:
        os.kill(pid, signal.SIGKILL)


@needs_ray
def test_a_local_cluster_writes_what_one_process_writes_and_changes_nothing_in_this_one(
    runs: Runs,
    alone: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resource_tracker.ensure_running()  # it ends with this process
    monkeypatch.setenv("MARK_OF_THE_TEST", runs.mark)
    before = _state()
    with caplog.at_level("INFO"):
        _predict_here(runs.inputs, tmp_path / "out", Inference(**OPTIONS, cluster="local"))  # type: ignore[arg-type]
    assert _state() == before
    assert written(tmp_path / "out") == alone
    assert "ray" not in sys.modules
    wait_until_ended(runs.running() - {os.getpid()})
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and warned[0].startswith(f"The mask of {UNREADABLE} is empty")
    assert sum("Predicting at a threshold" in record.getMessage() for record in caplog.records) == 1


def _state() -> dict[str, Any]:
    """Return what a process has only one of."""
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "log": (root.handlers[:], root.level, sorted(root.manager.loggerDict.keys() & {"ray", "ray.data"})),
        "hooks": (sys.excepthook, threading.excepthook),
        "start": multiprocessing.get_start_method(allow_none=True),
        "warnings": warnings.filters[:],
        "folder": Path.cwd(),
        "threads": torch.get_num_threads(),
        "children": multiprocessing.active_children(),
    }


def _predict_here(inputs: Path, folder: Path, parameters: Inference) -> None:
    store, written = ImageStore(inputs / "images"), PredictionShards(DiskFolder(folder / "shards"))
    model = TrainedModel.from_dict(load_checkpoint(inputs / "model.pt"))
    predictions = predict_masks(
        model,
        index_images(store),
        store,
        written,
        PredictedImages(DiskFolder(folder)),
        parameters,
        RECIPE,
        SourceDescription(name="mine"),
    )
    write_submission(*open_file(folder / "submit.csv.gz"), written.read(predictions["shards"]))
    (folder / "predictions.json").write_text(json.dumps(predictions))


@needs_ray
def test_the_rest_of_a_cluster_continues_when_an_actor_and_then_a_node_is_killed(
    runs: Runs, alone: dict[str, bytes], tmp_path: Path
) -> None:
    cluster, nodes = runs.nodes(1, 1)
    process = runs.start(tmp_path, cluster)
    kept = wait_for_shards(tmp_path, 4, process)
    (actor,) = actors_of(nodes[0])
    os.kill(actor, signal.SIGKILL)
    kept |= wait_for_shards(tmp_path, len(kept) + 3, process)
    kill_node(nodes[1])
    log = finished(process)
    assert written(tmp_path) == alone
    # One whose report was lost is tried again, as by the next run, because of its unreadable image.
    kept = {path: inode for path, inode in kept.items() if not path.name.startswith("00002-")}
    assert {path: inode for path, inode in shards(tmp_path).items() if path in kept} == kept
    assert log.count("A part of the cluster was lost") >= 1
    assert log.count(f"The mask of {UNREADABLE} is empty") == 1


@needs_ray
def test_a_killed_process_and_a_lost_cluster_are_continued_by_the_same_command(
    runs: Runs, alone: dict[str, bytes], tmp_path: Path
) -> None:
    cluster, nodes = runs.nodes(1, 1)
    process = runs.start(tmp_path, cluster)
    kept = wait_for_shards(tmp_path, 5, process)
    process.kill()
    process = runs.start(tmp_path, cluster)
    wait_for_shards(tmp_path, len(kept) + 3, process)
    for node in nodes:
        kill_node(node)
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "UserError" in log and "the same command continues" in log
    assert len(shards(tmp_path)) < SHARDS
    runs.finish(tmp_path, runs.nodes(2)[0])
    assert written(tmp_path) == alone


@needs_ray
def test_nothing_of_a_local_cluster_is_left_when_its_process_is_ended(runs: Runs, tmp_path: Path) -> None:
    folders = set(Path(tempfile.gettempdir()).glob("ray-*"))
    interrupted, killed = (runs.start(tmp_path / name, "local") for name in ("interrupted", "killed"))
    wait_for_shards(tmp_path / "interrupted", 1, interrupted)
    wait_for_shards(tmp_path / "killed", 1, killed)
    assert len(runs.running()) > 10
    os.killpg(interrupted.pid, signal.SIGINT)  # as Ctrl-C does
    killed.kill()
    for process in (interrupted, killed):
        process.communicate(timeout=60)
    wait_until_ended(runs.running())
    assert set(Path(tempfile.gettempdir()).glob("ray-*")) <= folders


@needs_ray
def test_a_cluster_that_cannot_predict_is_refused_before_anything_is_written(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", runs.mark)
    cluster, _ = runs.nodes()

    def refused(**changes: Any) -> str:
        with pytest.raises(UserError) as raised:
            _predict_here(runs.inputs, tmp_path, Inference(**{**OPTIONS, "cluster": cluster, **changes}))
        return str(raised.value)

    assert "has no CPU to predict with" in refused()
    assert "has no GPU to predict with (inference.device=cuda)" in refused(device="cuda")
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.99'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert re.search(rf"cluster={cluster}: Version mismatch: .*Ray: 2\.0\.99", refused())
    assert not list(tmp_path.rglob("*.csv"))


@pytest.fixture(scope="module")
def busy(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `busy_cluster` prints."""
    with ExitStack() as stack:
        process = Runs(inputs, secrets.token_hex(), stack).start(
            tmp_path_factory.mktemp("busy"), "local", script=BUSY
        )
        lines = [json.loads(line) for line in finished(process).splitlines() if line.startswith("{")]
    return {name: line for line in lines for name in line}


@needs_ray
def test_a_place_that_is_taken_after_the_trial_ends_the_run_with_an_error(busy: dict[str, Any]) -> None:
    assert "has found no place for an actor with" in busy["refused"]["refused"]
    assert "the same command continues" in busy["refused"]["refused"]
    assert busy["refused"]["shards"] == []


@needs_ray
def test_shards_whose_reports_are_lost_are_not_predicted_again(busy: dict[str, Any]) -> None:
    incomplete, unreadable = 0, 7 // 3  # an image file is missing; the next run tries unreadable images again
    assert busy["passes"]["passes"] == [[0, 1, 2], [incomplete, unreadable]]
    assert busy["passes"]["shards"] == [0, 1, 2]


@needs_ray
def test_an_actor_takes_only_its_share_of_the_cores_of_its_node(busy: dict[str, Any]) -> None:
    assert busy["cores"]["cores"] == [1, 1]


@needs_ray
def test_a_node_with_other_versions_or_without_the_folder_of_a_path_is_refused(busy: dict[str, Any]) -> None:
    versions = busy["versions"]["versions"]
    assert re.search(r"The node 127.0.0.1 has .* but this process has PyTorch 0.9", versions)
    assert "folder that shards is relative to" in busy["folder"]["folder"]
    assert "--params data_root=PATH" in busy["folder"]["folder"]


@needs_ray
def test_an_image_that_cannot_be_read_stops_the_cluster(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=UNREADABLE):
        _predict_here(
            runs.inputs, tmp_path, Inference(**{**OPTIONS, "on_bad_image": "stop"}, cluster="local")
        )


@needs_ray
def test_an_address_where_nothing_listens_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"ray://127.0.0.1:{port}: nothing answers there"):
        check_cluster(f"ray://127.0.0.1:{port}")


class FailingRay:
    """Ray, as far as connecting goes, where the first attempts fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[str] = []

    def init(self, **options: Any) -> None:
        self.calls.append("init")
        if self.calls.count("init") <= self.failures:
            raise RuntimeError("the process is a zombie")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_a_connection_that_fails_once_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    once, twice, local = FailingRay(1), FailingRay(2), FailingRay(1)
    _connect(once, "ray://head:10001", {})
    assert once.calls == ["init", "shutdown", "init"]
    assert "ray://head:10001: the process is a zombie. Connecting again." in caplog.text
    with pytest.raises(UserError, match="ray://head:10001: the process is a zombie"):
        _connect(twice, "ray://head:10001", {})
    with pytest.raises(UserError, match="local: the process is a zombie"):
        _connect(local, "local", {})
    assert local.calls == ["init"]


@pytest.mark.skipif(not MISSING, reason="ray[data] is installed")
def test_a_missing_ray_says_how_to_install_it(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'pip install "carvana-kedro\[ray\]"'):
        _predict_here(inputs, tmp_path, Inference(cluster="local"))
