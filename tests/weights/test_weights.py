"""The packaged models: their files, their cards and their use from an installed wheel."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from carvana_kedro import weights
from carvana_kedro.commands.weights import LARGEST, facts
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.metrics.mask_scores import scores
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.studio import StudioSettings, render_view
from carvana_kedro.weights import PACKAGED, path_of


def test_a_name_wins_over_a_file_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cars").touch()
    assert path_of("cars").name == "cars.pt"
    assert path_of("cars").is_absolute()
    assert path_of("./cars") == path_of(Path("cars")) == Path("cars")
    assert path_of("models/cars.pt") == Path("models/cars.pt")


def test_a_packaged_model_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match=r"The model cars is not part of this installation: .*cars\.pt"):
        path_of("cars")
    (tmp_path / "cars.pt").touch()
    assert path_of("cars") == tmp_path / "cars.pt"


def test_names_are_known_without_loading_torch_or_kedro() -> None:
    code = "import sys, carvana_kedro.weights; print({'torch', 'kedro'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.mark.parametrize("name", PACKAGED)
def test_the_card_describes_the_file(name: str) -> None:
    path = path_of(name)
    card = path.with_suffix(".md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", card, re.MULTILINE))
    assert facts(path).items() <= rows.items()
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("name", PACKAGED)
def test_weights_are_stored_in_half_precision_and_computed_in_single_precision(name: str) -> None:
    content = load_checkpoint(path_of(name))
    stored = {weight.dtype for weight in content["weights"].values()}
    (member,) = TrainedModel.from_dict(content).members
    assert stored == {torch.float16, torch.int64}
    assert {weight.dtype for weight in member.weights.values()} == {torch.float32, torch.int64}
    assert not re.search(r"'/|\\\\|[a-zA-Z]:/", str({**content, "weights": None}))


def test_cars_segments_a_rendered_car() -> None:
    image, mask = render_view(StudioSettings(width=480, height=320), 0, 3)
    found = Predictor.from_checkpoint("cars", device="cpu", precision="float32")(image)
    assert found.shape == mask.shape
    assert scores(found, np.asarray(mask) > 0)["dice"] > 0.9
