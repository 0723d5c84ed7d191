"""Networks are trained on rendered cars and score other images, at a size that takes seconds."""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carvana_kedro.datasets.model import ModelDataset
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.stores.images.competition import ImageStore

PROJECT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(training_images: ImageStore, tmp_path: Path) -> Run:
    """Run the program with small settings."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [
            *(sys.executable, "-m", "experiments.variety", "--json", "--recipe", "sample"),
            *("--score-images", str(training_images.images), "--score-masks", str(training_images.masks)),
            *("--results", str(tmp_path / "results.jsonl"), "--save", str(tmp_path / "models")),
            *("--cars", "4", "--views", "4", "--width", "48", "--height", "32"),
            *("--batch-size", "4", "--steps", "80", "--learning-rate", "0.005", *options),
        ]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    return run


def test_the_saved_models_have_the_scores_of_the_table_and_are_not_trained_again(
    run: Run, training_images: ImageStore, tmp_path: Path
) -> None:
    done = run("--varieties", "none", "walls+paint")
    assert done.returncode == 0, done.stderr[-3000:]
    ((title, rows),) = json.loads(done.stdout).items()
    assert title.startswith("sample, trained on 16 rendered images, scored on 16 photographs")
    assert [(row["variety"], row["steps"]) for row in rows] == [("none", 80), ("walls+paint", 80)]
    assert rows[0]["Dice"] != rows[1]["Dice"], "they are trained on different images"
    for row in rows:
        found = _scores(tmp_path / "models" / f"sample-{row['variety']}.pt", training_images)
        assert [float(row[name]) for name in ("Dice", "lowest image", "lowest car")] == pytest.approx(
            found, abs=1e-3
        )

    lines = (tmp_path / "results.jsonl").read_text()
    again = run("--varieties", "none", "walls+paint")
    assert again.stdout == done.stdout
    assert (tmp_path / "results.jsonl").read_text() == lines


def _scores(path: Path, images: ImageStore) -> tuple[float, float, float]:
    """Return the mean Dice coefficient of a model, and those of the lowest image and of the lowest car."""
    model = ModelDataset("", checkpoint=str(path)).load()
    assert model is not None
    (network,) = model.build_networks()
    geometry = Geometry.of(network, model.input_size)
    segmenter, cars = Segmenter(network, geometry), defaultdict(list)
    for name in images.ids():
        fitted = torch.from_numpy(np.array(geometry.fit_image(images.read_image(name))))
        mask = images.read_mask(name)
        logits = geometry.restore(segmenter(fitted[None]), mask.shape)
        cars[name[:12]].append(mask_scores.dice((logits[0] > 0).numpy(), mask))
    scores = [score for car in cars.values() for score in car]
    return statistics.fmean(scores), min(scores), min(map(statistics.fmean, cars.values()))


def test_an_unknown_variety_is_refused_before_anything_is_trained(run: Run, tmp_path: Path) -> None:
    done = run("--varieties", "none", "wall")
    assert done.returncode == 1
    assert done.stderr == "variety must be none, all, or some of walls+paint+light+camera+shape, not wall\n"
    assert not (tmp_path / "results.jsonl").exists()
