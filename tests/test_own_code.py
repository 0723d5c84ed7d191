"""Networks and losses of a module outside this package, in real processes: which code runs, what an edit changes."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.stores.checkpoints import save_checkpoint

Kedro = Callable[..., subprocess.CompletedProcess[str]]

NETWORK = '''
"""A network of one convolution."""

from torch import Tensor, nn

from carvana_kedro.segmentation.architectures import SegmentationNetwork


class MyNet(SegmentationNetwork):
    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return 2.0 * self.head(images)[:, 0]
'''
LOSS = """
from torch.nn.functional import binary_cross_entropy_with_logits

def my_loss(logits, targets):
    return 1.0 * binary_cross_entropy_with_logits(logits, targets)
"""
HOSTILE = f"""
from pathlib import Path

Path(__file__).with_name("marker").touch()
{NETWORK}
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that the processes can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (folder / "my_networks.py").write_text(NETWORK)
    (folder / "my_losses.py").write_text(LOSS)
    return folder


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_an_edit_of_code_starts_a_new_run_and_new_predictions_and_a_comment_does_not(
    kedro: Kedro, archives: Path, modules: Path, tmp_path: Path
) -> None:
    params = (
        f"source=archives,archives={archives},model_training.epochs=1,model_training.width_multiplier=1,"
        "model_training.architecture=my_networks.MyNet,model_training.loss.type=my_losses.my_loss"
    )

    def run(pipelines: str = "model_training,inference") -> tuple[str, bool, bool]:
        """Return the id of the run, whether it trained, and whether it predicted."""
        log = kedro("run", "--env", "test", "--pipelines", pipelines, params=params).stdout
        manifest = json.loads((tmp_path / "data/06_models/sample/run_manifest.json").read_text())
        return manifest["run_id"], " starts: " in log, "Predicting at a threshold" in log

    first, *did = run("data_ingestion,model_training,inference")
    assert did == [True, True]

    _edit(modules / "my_networks.py", "    def forward", "    # Logits, not probabilities.\n    def forward")
    _edit(modules / "my_losses.py", "def my_loss", '"""A loss."""\n\n\ndef my_loss')
    assert run() == (first, False, False)

    _edit(modules / "my_networks.py", "2.0", "3.0")
    second, *did = run()
    assert second != first
    assert did == [True, True]

    _edit(modules / "my_losses.py", "1.0", "0.5")
    third, *did = run()
    assert third not in (first, second)
    assert did == [True, True]


@pytest.mark.parametrize(
    ("architecture", "named", "runs"),
    [
        ("hostile.MyNet", "unet_small", False),
        ({"type": "hostile.MyNet"}, "my_networks.MyNet", False),
        ("hostile.MyNet", "hostile.MyNet", True),
    ],
)
def test_code_that_a_model_file_names_runs_only_if_the_parameters_name_it_too(
    architecture: Any, named: str, runs: bool, kedro: Kedro, archives: Path, modules: Path, tmp_path: Path
) -> None:
    (modules / "hostile.py").write_text(HOSTILE)
    model = {
        "architecture": architecture,
        "width_multiplier": 1.0,
        "input_size": [32, 48],
        "threshold": 0.5,
        "run_id": "somebody's",
        "weights": {"head.weight": torch.ones(1, 3, 3, 3), "head.bias": torch.zeros(1)},
    }
    save_checkpoint(tmp_path / "model.pt", model)
    params = (
        f"source=archives,archives={archives},checkpoint={tmp_path / 'model.pt'},"
        f"model_training.architecture={named},model_training.width_multiplier=1"
    )
    done = kedro("run", "--env", "test", "--pipelines", "inference", params=params, check=False)
    assert (modules / "marker").exists() == runs
    assert (tmp_path / "data/07_model_output/archives/sample/submit.csv.gz").exists() == runs
    assert (done.returncode == 0) == runs
    if not runs:
        assert "The model somebody's needs the network hostile.MyNet" in done.stderr
        assert "imported only if your parameters name it too" in done.stderr
        assert "Traceback" not in done.stderr
