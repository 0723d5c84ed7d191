"""A prediction that is killed and resumed writes the same bytes as an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.stores.checkpoints import save_checkpoint
from carvana_kedro.stores.images.competition import ImageStore

SCRIPT = Path(__file__).with_name("predicted_process.py")
SHARD = 3

Start = Callable[[Path, int], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(training_images: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start(folder, workers)` starts or resumes a process that predicts 96 images."""
    folder = tmp_path_factory.mktemp("images")
    for number, image_id in enumerate(training_images.ids() * 6):
        (folder / f"{number:012x}_01.jpg").hardlink_to(training_images.image_path(image_id))
    torch.manual_seed(0)
    model = {"architecture": "unet_small", "width_multiplier": 0.5, "input_size": [96, 144], "threshold": 0.5}
    weights = build_network("unet_small", width_multiplier=0.5).state_dict()
    save_checkpoint(folder.parent / "model.pt", {**model, "weights": weights, "run_id": "run"})
    processes = []

    def start_process(output: Path, num_workers: int) -> subprocess.Popen[str]:
        arguments = [folder.parent / "model.pt", folder, output, num_workers]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # as pytest finds modules of the tests
        )  # fmt: skip
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.wait()


def _finish(process: subprocess.Popen[str], folder: Path) -> tuple[list[str], bytes]:
    """Wait for a process; return the ids of the images that it predicted, and its submission."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return _predicted(output.splitlines()), (folder / "submit.csv.gz").read_bytes()


def _predicted(lines: list[str]) -> list[str]:
    return [image_id for line in lines if line.startswith("shard") for image_id in line.split()[2:]]


def _kill_and_resume(start: Start, folder: Path, kills: int, num_workers: int) -> tuple[list[str], bytes]:
    """Kill the process `kills` times at random, then let it finish; print a line for each kill.

    Returns:
        The ids of all predicted images, and the submission.
    """
    moments = random.Random(kills + num_workers)
    predicted: list[str] = []
    for number in range(kills):
        process = start(folder, num_workers)
        lines, wanted = [], 96 // SHARD // (kills + 1) * moments.choice((0, 1, 1, 2))
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("INFO") and "Predicting" in line and not wanted:
                break
            if len(_predicted(lines)) >= SHARD * wanted > 0 or line == "done\n":
                break
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        predicted += _predicted([*lines, *rest.splitlines()])
        print(f"kill {number + 1}: {len(predicted)} of 96 images predicted")  # noqa: T201
    last, submission = _finish(start(folder, num_workers), folder)
    return predicted + last, submission


@pytest.fixture(scope="module")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The submission of an uninterrupted process."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    predicted, submission = _finish(start(folder, 0), folder)
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
    predicted, submission = _kill_and_resume(start, tmp_path, kills, num_workers)
    assert submission == uninterrupted
    # No image is predicted twice. (A kill between writing and printing hides a shard, but does not repeat it.)
    assert max(Counter(predicted).values()) == 1
    assert not list(tmp_path.glob("*/*.part"))
    assert len(list(tmp_path.rglob("*-*.csv"))) == 96 // SHARD


def test_damaged_and_missing_shards_are_predicted_again(
    start: Start, uninterrupted: bytes, tmp_path: Path
) -> None:
    _finish(start(tmp_path, 0), tmp_path)
    first, second, *_ = sorted(tmp_path.rglob("*-*.csv"))
    first.write_bytes(first.read_bytes()[:-5])
    second.unlink()
    predicted, submission = _finish(start(tmp_path, 0), tmp_path)
    assert predicted == [f"{number:012x}_01" for number in range(2 * SHARD)]
    assert submission == uninterrupted
