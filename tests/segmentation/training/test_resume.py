"""A training that is killed and resumed ends bit-identical to an uninterrupted one."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from processes import killed_afterwards

SCRIPT = Path(__file__).with_name("trained_process.py")
CLOCKS = {"seconds", "images_per_second", "data_wait_share", "share_of_peak"}
STEPS_PER_EPOCH = 6

Start = Callable[[Path, int, int], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(training_images: ImageStore) -> Iterator[Start]:
    """`start(folder, workers, epochs)` starts or resumes a training in a new process."""

    def start_process(folder: Path, num_workers: int, epochs: int) -> subprocess.Popen[str]:
        arguments = [training_images.images, training_images.masks, folder, num_workers, epochs]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    with killed_afterwards() as processes:
        yield start_process


@pytest.fixture(scope="module")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted training of five epochs. Tests only read it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    _finish(start(folder, 0, 5))
    return folder


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _results(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last state and the best model of a finished training, without measured times."""
    run = CheckpointStore(DiskFolder(folder)).run("run")
    last, best = run.newest("last"), run.newest("best")
    assert last is not None and best is not None
    for content in (last, best):
        for record in content["history"]:
            for clock in CLOCKS:
                del record[clock]
    return last, best


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _kill_and_resume(
    start: Start, folder: Path, kills: int, num_workers: int, epochs: int
) -> list[tuple[str, int]]:
    """Kill a training `kills` times, every other time while it writes a checkpoint; then let it finish.

    Returns:
        Where it was killed: `while writing` or `anywhere`, and after which step.
    """
    moments = random.Random(kills)
    table = []
    for number in range(kills):
        process = start(folder, num_workers, epochs)
        step = 0
        for line in process.stdout or ():
            if line.startswith("step "):
                step = int(line.split()[1])
                if moments.random() < 0.4 or step >= STEPS_PER_EPOCH * epochs * (number + 1) / (kills + 1):
                    break
        writing = False
        if number % 2:
            deadline = time.monotonic() + 20
            while not (writing := any(folder.glob("run/*.part"))) and time.monotonic() < deadline:
                pass
        else:
            time.sleep(moments.uniform(0, 0.2))
        assert process.poll() is None, "the training finished before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        table.append(("while writing" if writing else "anywhere", step))
    _finish(start(folder, num_workers, epochs))
    return table


@pytest.mark.parametrize(("num_workers", "kills"), [(0, 2), (2, 2)])
def test_a_killed_and_resumed_training_is_bit_identical(
    start: Start, uninterrupted: Path, tmp_path: Path, num_workers: int, kills: int
) -> None:
    _kill_and_resume(start, tmp_path, kills, num_workers, 5)
    assert _same(_results(uninterrupted), _results(tmp_path))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_killed_twenty_times_is_bit_identical(
    start: Start, tmp_path: Path, num_workers: int
) -> None:
    _finish(start(tmp_path / "uninterrupted", 0, 12))
    table = _kill_and_resume(start, tmp_path / "killed", 20, num_workers, 12)
    same = _same(_results(tmp_path / "uninterrupted"), _results(tmp_path / "killed"))
    print(f"\n{num_workers} workers: {table}\nbit-identical: {same}")  # noqa: T201
    assert same


def test_a_damaged_checkpoint_costs_one_step_and_does_not_change_the_result(
    start: Start, uninterrupted: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, 0, 5)
    for line in process.stdout or ():
        if line.startswith("step 9"):
            break
    process.kill()
    process.wait()
    newest = max((tmp_path / "run").glob("last-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    output = _finish(start(tmp_path, 0, 5))
    assert f"{newest} is damaged: its content does not match its checksum" in output
    assert _same(_results(uninterrupted), _results(tmp_path))


def test_the_comparison_detects_the_smallest_difference(uninterrupted: Path) -> None:
    last, best = _results(uninterrupted)
    other, _ = _results(uninterrupted)
    weight = next(iter(other["network"].values()))
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert _same(last, last)
    assert not _same(last, other)
    assert not _same(last, best)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_training_and_stops_it(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, 2, 5)
    for line in process.stdout or ():
        if line.startswith("step 8"):
            break
    # Like a terminal, send the signal to the whole process group, workers included.
    subprocess.run(["kill", f"-{int(number)}", "--", f"-{process.pid}"], check=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{number.name}: finishing the step and saving" in output
    message = output.strip().splitlines()[-1]
    assert "Training was interrupted in epoch 2, after step" in message
    assert "The same command resumes it." in message
    saved = CheckpointStore(DiskFolder(tmp_path)).run("run").newest("last")
    assert saved is not None
    assert saved["progress"]["steps"] == int(message.split("after step ")[1].split(".")[0])
