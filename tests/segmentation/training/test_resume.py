"""A training that was killed becomes, bit for bit, what it would have become."""

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
from carvana_kedro.stores.images.competition import ImageStore

SCRIPT = Path(__file__).with_name("trained_process.py")
CLOCKS = {"seconds", "images_per_second", "data_wait_share", "share_of_peak"}
STEPS_AN_EPOCH = 6

Start = Callable[[Path, int, int], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(training_images: ImageStore) -> Iterator[Start]:
    """`start(folder, workers, epochs)` begins the process, or goes on with it."""
    processes = []

    def begin(folder: Path, num_workers: int, epochs: int) -> subprocess.Popen[str]:
        arguments = [training_images.images, training_images.masks, folder, num_workers, epochs]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of five epochs leaves that nothing ends. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    _finish(start(folder, 0, 5))
    return folder


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _left(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a finished process has left: the last state and the best model, without what clocks say."""
    run = CheckpointStore(folder).run("run")
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


def _kill_again_and_again(
    start: Start, folder: Path, kills: int, num_workers: int, epochs: int
) -> list[tuple[str, int]]:
    """Kill a training `kills` times, every other time while it writes; return the moments, and let it finish."""
    moments = random.Random(kills)
    table = []
    for number in range(kills):
        process = start(folder, num_workers, epochs)
        step = 0
        for line in process.stdout or ():
            if line.startswith("step "):
                step = int(line.split()[1])
                if moments.random() < 0.4 or step >= STEPS_AN_EPOCH * epochs * (number + 1) / (kills + 1):
                    break
        writing = False
        if number % 2:
            deadline = time.monotonic() + 20
            while not (writing := any(folder.glob("run/*.part"))) and time.monotonic() < deadline:
                pass
        else:
            time.sleep(moments.uniform(0, 0.2))
        assert process.poll() is None, "it was finished before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        table.append(("while writing" if writing else "anywhere", step))
    _finish(start(folder, num_workers, epochs))
    return table


@pytest.mark.parametrize(("num_workers", "kills"), [(0, 2), (2, 1)])
def test_killed_and_gone_on_with_is_the_same_bit_for_bit(
    start: Start, whole: Path, tmp_path: Path, num_workers: int, kills: int
) -> None:
    _kill_again_and_again(start, tmp_path, kills, num_workers, 5)
    assert _same(_left(whole), _left(tmp_path))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_twenty_times(start: Start, tmp_path: Path, num_workers: int) -> None:
    _finish(start(tmp_path / "whole", 0, 12))
    table = _kill_again_and_again(start, tmp_path / "killed", 20, num_workers, 12)
    same = _same(_left(tmp_path / "whole"), _left(tmp_path / "killed"))
    print(f"\n{num_workers} workers: {table}\nthe same bit for bit: {same}")  # noqa: T201
    assert same


def test_a_damaged_checkpoint_costs_a_step_and_changes_nothing(
    start: Start, whole: Path, tmp_path: Path
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
    assert _same(_left(whole), _left(tmp_path))


def test_the_comparison_sees_a_difference(whole: Path) -> None:
    last, best = _left(whole)
    other, _ = _left(whole)
    weight = next(iter(other["network"].values()))
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert _same(last, last)
    assert not _same(last, other)
    assert not _same(last, best)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, 2, 5)
    for line in process.stdout or ():
        if line.startswith("step 8"):
            break
    # As a terminal does it: to the workers as well.
    subprocess.run(["kill", f"-{int(number)}", "--", f"-{process.pid}"], check=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{number.name}: finishing the step and saving" in output
    message = output.strip().splitlines()[-1]
    assert "Training was interrupted in epoch 2, after step" in message
    assert "the same command goes on from there" in message
    left = CheckpointStore(tmp_path).run("run").newest("last")
    assert left is not None
    assert left["progress"]["steps"] == int(message.split("after step ")[1].split(".")[0])
