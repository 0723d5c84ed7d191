import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.checkpoints import save_checkpoint
from odd_images import IMAGE
from serve_process import Served

# No file can be written in this process: its size would exceed the limit.
_PROGRAM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.default_int_handler)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from carvana_kedro.__main__ import main
main()
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that computes in milliseconds, and takes half of an image for a car."""
    torch.manual_seed(1)
    network = build_network("unet_small", width_multiplier=0.25)
    model = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "threshold": float(np.median(Predictor([network], (32, 48), device="cpu").probabilities(IMAGE))),
        "run_id": "tiny",
        "weights": network.state_dict(),
    }
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(path, model)
    return path


Start = Callable[..., Served]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """`start("--max-waiting", "1")` starts the command as a real process, on a free port."""
    started: list[Served] = []

    def call(*options: str) -> Served:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "serve", "--port", "0", "--device", "cpu", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://(\S+):(\d+)", line)
        assert found, line + process.communicate(timeout=60)[1]
        started.append(Served(process, found[1].strip("[]"), int(found[2])))
        return started[-1]

    yield call
    for served in started:
        if served.process.poll() is None:
            served.process.send_signal(signal.SIGKILL)
        served.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(start: Start, tiny_model: Path) -> Served:
    return start("--model", str(tiny_model), "--upload-timeout", "2")
