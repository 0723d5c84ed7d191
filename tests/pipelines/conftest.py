import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import save_checkpoint
from carvana_kedro.stores.images.competition import ImageStore
from processes import killed_afterwards

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def model() -> TrainedModel:
    """An untrained model."""
    torch.manual_seed(0)
    content = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "weights": build_network("unet_small", width_multiplier=0.25).state_dict(),
        "threshold": 0.5,
        "run_id": "run",
    }
    return TrainedModel.from_dict(content)


@pytest.fixture(scope="module")
def start(training_images: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start(folder, **parameters)` starts or resumes a process that predicts 96 images."""
    folder = tmp_path_factory.mktemp("images")
    for number, image_id in enumerate(training_images.ids() * 6):
        (folder / f"{number:012x}_01.jpg").hardlink_to(training_images.image_path(image_id))
    torch.manual_seed(0)
    model = {"architecture": "unet_small", "width_multiplier": 0.5, "input_size": [96, 144], "threshold": 0.5}
    weights = build_network("unet_small", width_multiplier=0.5).state_dict()
    save_checkpoint(folder.parent / "model.pt", {**model, "weights": weights, "run_id": "run"})
    script = Path(__file__).parents[1] / "predicted_process.py"

    def start_process(output: Path, **parameters: Any) -> subprocess.Popen[str]:
        arguments = [folder.parent / "model.pt", folder, output, json.dumps(parameters)]
        process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # as pytest finds modules of the tests
        )  # fmt: skip
        processes.append(process)
        return process

    with killed_afterwards() as processes:
        yield start_process
