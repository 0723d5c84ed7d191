"""Real processes, really killed. The training that they run is in `launched_process.py`."""

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import launched_process
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.launch import report_step, run_in_processes, stop_requested
from processes import children, descendants, wait_until_ended

TESTS = Path(launched_process.__file__).parent
PROGRAM = "import launched_process; launched_process.main()"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """`start(folder, **options)` starts or resumes the training in a session of its own."""
    processes = []

    def start_process(folder: Path, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def weight(start: Start, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The weight after an uninterrupted training."""
    return _finish(start(tmp_path_factory.mktemp("uninterrupted")))[0]


def _finish(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Return the weight after the training, and what it printed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return json.loads(output.splitlines()[-1])["weight"], output


def _until(process: subprocess.Popen[str], step: int) -> None:
    for line in process.stdout or ():
        if line == f"step {step}\n":
            return
    pytest.fail(f"The training ended before step {step}")


def _started_rank(process: subprocess.Popen[str], *, but: list[int]) -> int:
    """Return a rank that has just been started, and has not loaded PyTorch yet."""
    while True:
        # The first child is the resource tracker of multiprocessing.
        if new := [pid for pid in children(process.pid)[1:] if pid not in but]:
            return new[-1]
        assert process.poll() is None
        time.sleep(0.01)


def _kill_rank(folder: Path, rank: int) -> None:
    os.kill(int((folder / f"{rank}.pid").read_text()), signal.SIGKILL)


def test_a_training_whose_processes_are_killed_goes_on_from_its_checkpoint(
    start: Start, weight: float, tmp_path: Path
) -> None:
    process = start(tmp_path)
    os.kill(_started_rank(process, but=[]), signal.SIGKILL)
    _until(process, 13)
    _kill_rank(tmp_path, 1)
    _until(process, 28)
    _kill_rank(tmp_path, 0)
    again, output = _finish(process)
    assert again == weight
    _until_end = output.splitlines()
    assert any(
        "Process 1 of 2 was killed by SIGKILL. All processes start again (restart 3 of 3)" in line
        for line in _until_end
    )
    assert "Process 1 starts after step 25" in output
    assert "steps." in next(line for line in _until_end if "The restart has cost" in line)
