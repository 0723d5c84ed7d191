"""`kedro run` with several training processes, which are killed, interrupted and resumed. See `test_launch.py`, too."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder
from ports import free_port
from processes import children, killed_afterwards, wait_until_ended

PROJECT = Path(__file__).parents[1]
TRAIN = ("run", "--env", "test", "--nodes", "model_training.train_model")
CONSOLE_SCRIPT = """
import sys
from kedro.framework.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start(data, *command, **parameters)` starts Kedro's console script in a session of its own."""
    script = tmp_path_factory.mktemp("bin") / "kedro"
    script.write_text(CONSOLE_SCRIPT)

    def start_process(
        data: Path, *command: str, log: Path | None = None, **parameters: Any
    ) -> subprocess.Popen[str]:
        values = [f"model_training.{name}={value}" for name, value in {"epochs": 8, **parameters}.items()]
        # One thread each: two machines with a process each would compute in more threads than one machine with two.
        environment = {**os.environ, "DO_NOT_TRACK": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, script, *(command or TRAIN), "--params", ",".join([f"data_root={data}", *values])],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env=environment | ({"KEDRO_LOGGING_CONFIG": str(log)} if log else {}),
        )  # fmt: skip
        processes.append(process)
        return process

    with killed_afterwards() as processes:
        yield start_process


@pytest.fixture(scope="module")
def ingested(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the images, before any training. Tests copy it."""
    data = tmp_path_factory.mktemp("ingested")
    _finish(start(data, "run", "--env", "test", "--pipelines", "data_ingestion"))
    return data


@pytest.fixture
def data(ingested: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ingested, tmp_path / "data"))


@pytest.fixture(scope="module")
def uninterrupted(
    start: Start, ingested: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str, str]:
    """The final state of an uninterrupted training in two processes; what it printed, and its log file."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    data = Path(shutil.copytree(ingested, folder / "data"))
    config = yaml.safe_load((PROJECT / "conf/logging.yml").read_text())
    # Mode w: the file would be emptied if one of the processes opened it again.
    config["handlers"]["file"] = {
        "class": "logging.FileHandler", "filename": str(folder / "kedro.log"), "mode": "w",
    }  # fmt: skip
    config["root"]["handlers"].append("file")
    (folder / "logging.yml").write_text(yaml.safe_dump(config))
    printed = _finish(start(data, devices=2, log=folder / "logging.yml"))
    return _last_state(data), printed, (folder / "kedro.log").read_text()


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


def _last_state(data: Path) -> dict[str, Any]:
    (run,) = CheckpointStore(DiskFolder(data / "06_models/sample/checkpoints")).runs()
    state = run.newest("last")
    assert state is not None and state["finished"]
    return state


def _same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights, others = one["network"], other["network"]
    return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)


def _checkpoints(data: Path) -> set[str]:
    return {path.name for path in data.rglob("last-*.pt")}


def _until_checkpoint(process: subprocess.Popen[str], data: Path) -> None:
    """Wait until the training has saved one more checkpoint."""
    before = _checkpoints(data)
    while not _checkpoints(data) - before:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def _ranks(process: subprocess.Popen[str]) -> list[int]:
    """Return the training processes; the first child tracks semaphores."""
    while len(found := children(process.pid)) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return found[1:]


def test_the_log_is_that_of_one_process(uninterrupted: tuple[dict[str, Any], str, str]) -> None:
    _, printed, log = uninterrupted
    lines = [line.split()[0] for line in printed.splitlines() if line.strip()]
    assert [line for line in lines if line.endswith("/8")] == [f"{epoch}/8" for epoch in range(1, 9)]
    assert printed.count("starts: 8 epochs") == printed.count("on cpu in") == 1
    assert "torch" not in printed and "rank" not in printed
    assert "train_model  Train a network" in log and "starts: 8 epochs" in log and "Done in" in log


def test_killed_processes_are_started_again_and_the_weights_are_those_of_an_uninterrupted_training(
    start: Start, data: Path, uninterrupted: tuple[dict[str, Any], str, str]
) -> None:
    process = start(data, devices=2)
    os.kill(_ranks(process)[1], signal.SIGKILL)  # while it starts
    _until_checkpoint(process, data)
    os.kill(_ranks(process)[0], signal.SIGKILL)  # within an epoch
    printed = _finish(process)
    assert "Process 2 of 2 was killed by SIGKILL. All processes start again (restart 1 of 3)" in printed
    assert "Process 1 of 2 was killed by SIGKILL. All processes start again (restart 2 of 3)" in printed
    assert "The restart has cost" in printed
    assert _same_weights(_last_state(data), uninterrupted[0])


def test_a_training_goes_on_in_more_and_in_fewer_processes(start: Start, data: Path) -> None:
    def end(number: signal.Signals, devices: int, code: int = 1) -> str:
        """Train until there is a checkpoint, and send a signal to all processes, as a terminal does."""
        process = start(data, devices=devices, epochs=40)
        _until_checkpoint(process, data)
        ranks = _ranks(process) if devices > 1 else []
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == code, printed
        wait_until_ended(ranks)
        assert not list(data.rglob("*.part")) or number == signal.SIGKILL
        assert "Traceback" not in printed
        return printed

    assert "Everything is saved." in " ".join(end(signal.SIGTERM, 1).split())
    printed = " ".join(end(signal.SIGINT, 2).split())
    assert printed.count("SIGINT: finishing the step and saving.") == 1
    assert "leaked" not in printed
    assert "resumes in epoch" in printed and "Everything is saved. The same command resumes it." in printed
    end(signal.SIGKILL, 2, code=-signal.SIGKILL)
    assert "resumes in epoch" in _finish(start(data, devices=1, epochs=40))
    history = pd.read_csv(data / "06_models/sample/training_history.csv")
    assert history["epoch"].tolist() == list(range(1, 41))
    assert not list(data.rglob("*.part"))


def test_an_image_that_becomes_unreadable_ends_all_processes(start: Start, data: Path) -> None:
    process = start(data, devices=2, epochs=500, cache="none", num_workers=2)
    _until_checkpoint(process, data)
    ranks = _ranks(process)
    (split,) = data.rglob("training_image_index.csv")
    image = pd.read_csv(split)["image"][0]
    (path,) = data.rglob(f"{image}.jpg")
    path.write_bytes(b"no image")
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert path.name in printed and "Traceback" not in printed and "start again" not in printed
    assert "leaked" not in printed  # semaphores of the processes that read images
    wait_until_ended(ranks, 5)


def test_two_machines_with_one_data_root_train_the_same_as_two_processes(
    start: Start, data: Path, uninterrupted: tuple[dict[str, Any], str, str]
) -> None:
    port = free_port()
    machines = [start(data, devices=1, nodes=2, rendezvous=f"127.0.0.1:{port}") for _ in range(2)]
    for machine in machines:
        assert "Done in" in _finish(machine)
    assert _same_weights(_last_state(data), uninterrupted[0])


def test_a_runner_that_uses_threads_is_refused(start: Start, data: Path) -> None:
    process = start(data, *TRAIN, "--runner", "ThreadRunner", devices=2)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "must be started by the main thread" in " ".join(printed.split()) and "Traceback" not in printed
