"""A prediction that is killed and resumed writes the same bytes as an uninterrupted one."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from processes import running_in_session, wait_until_ended

SHARD = 3

Start = Callable[..., subprocess.Popen[str]]


def _finish(process: subprocess.Popen[str], folder: Path) -> tuple[list[str], bytes]:
    """Wait for a process; return the ids of the images that it predicted, and its submission."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return _predicted(output.splitlines()), (folder / "submit.csv.gz").read_bytes()


def _predicted(lines: list[str]) -> list[str]:
    return [image_id for line in lines if line.startswith("shard") for image_id in line.split()[2:]]


def _kill_and_resume(
    start: Start, folder: Path, kills: int, signals: Sequence[int] = (signal.SIGKILL,), **parameters: Any
) -> tuple[list[str], bytes]:
    """Kill the process `kills` times at random, then let it finish; print a line for each kill.

    Returns:
        The ids of all predicted images, and the submission.
    """
    moments = random.Random(kills + sum(parameters.values()))
    predicted: list[str] = []
    for number in range(kills):
        process = start(folder, **parameters)
        lines, wanted = [], 96 // SHARD // (kills + 1) * moments.choice((0, 1, 1, 2))
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("INFO") and "Predicting" in line and not wanted:
                break
            if len(_predicted(lines)) >= SHARD * wanted > 0 or line == "done\n":
                break
        time.sleep(moments.uniform(0, 0.1))
        chosen = moments.choice(signals)
        # Ctrl-C reaches all processes, the others only this one.
        (os.killpg if chosen == signal.SIGINT else os.kill)(process.pid, chosen)
        rest, _ = process.communicate()
        wait_until_ended(running_in_session(process.pid))
        predicted += _predicted([*lines, *rest.splitlines()])
        name = signal.Signals(chosen).name
        print(f"kill {number + 1} by {name}: {len(predicted)} of 96 images predicted")  # noqa: T201
    last, submission = _finish(start(folder, **parameters), folder)
    return predicted + last, submission


@pytest.fixture(scope="module")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The submission of an uninterrupted process."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    predicted, submission = _finish(start(folder), folder)
    assert len(predicted) == len(set(predicted)) == 96
    return submission


@pytest.mark.parametrize(
    ("num_workers", "kills"),
    [
        (0, 2),
        (2, 1),
        pytest.param(0, 20, marks=pytest.mark.slow),
        pytest.param(2, 20, marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_prediction_is_byte_identical(
    start: Start, uninterrupted: bytes, tmp_path: Path, num_workers: int, kills: int
) -> None:
    predicted, submission = _kill_and_resume(start, tmp_path, kills, num_workers=num_workers)
    assert submission == uninterrupted
    _check_folder(tmp_path, predicted)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_two_processes_end_with_the_one_that_started_them_and_resume(
    start: Start, uninterrupted: bytes, tmp_path: Path, kills: int
) -> None:
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    predicted, submission = _kill_and_resume(start, tmp_path, kills, signals, devices=2)
    assert submission == uninterrupted
    _check_folder(tmp_path, predicted)


def _check_folder(folder: Path, predicted: list[str]) -> None:
    # No image is predicted twice. (A kill between writing and printing hides a shard, but does not repeat it.)
    assert max(Counter(predicted).values()) == 1
    assert not list(folder.glob("*/*.part"))
    assert len(list(folder.rglob("*-*.csv"))) == 96 // SHARD


def test_damaged_and_missing_shards_are_predicted_again(
    start: Start, uninterrupted: bytes, tmp_path: Path
) -> None:
    _finish(start(tmp_path), tmp_path)
    first, second, *_ = sorted(tmp_path.rglob("*-*.csv"))
    first.write_bytes(first.read_bytes()[:-5])
    second.unlink()
    predicted, submission = _finish(start(tmp_path), tmp_path)
    assert predicted == [f"{number:012x}_01" for number in range(2 * SHARD)]
    assert submission == uninterrupted
