"""A recipe is trained and scored with several seeds by real runs, in the test environment."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from carvana_kedro.stores.competition import open_side
from carvana_kedro.studio import render_competition
from conftest import SMALL

PROJECT = Path(__file__).parents[2]
Tables = dict[str, list[dict[str, Any]]]
Seeds = Callable[..., Tables]


@pytest.fixture
def seeds(tmp_path: Path) -> Seeds:
    """Run the program with small settings, and return its tables."""

    def run(*options: str, params: str = "") -> Tables:
        params = ",".join(filter(None, (params, "model_training.epochs=10")))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "experiments.seeds", "sample", "--json"),
                *("--runs", str(tmp_path / "runs"), "--params", params, *options),
            ],
            cwd=PROJECT,
            env={**os.environ, "KEDRO_ENV": "test"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        tables: Tables = json.loads(done.stdout[done.stdout.rindex("\n{") :])
        return tables

    return run


def test_the_score_is_that_of_the_submission_and_finished_seeds_are_not_trained_again(
    seeds: Seeds, tmp_path: Path
) -> None:
    tables = seeds("--seeds", "1", "2", "3")
    scores = [
        json.loads(path.read_text())["dice"]
        for path in sorted(tmp_path.glob("runs/**/submission_score.json"))
    ]
    assert len(set(scores)) == 3, "another seed gives another score"

    each, summary, epochs = tables.values()
    assert [row["seed"] for row in each] == [1, 2, 3]
    assert [float(row["Dice"]) for row in each] == pytest.approx(scores, abs=6e-5)
    (dice,) = (row for row in summary if row["measure"] == "Dice")
    found = [float(dice[name]) for name in ("median", "min", "max")]
    assert found == pytest.approx([statistics.median(scores), min(scores), max(scores)], abs=6e-5)

    history = pd.read_csv(tmp_path / "runs/sample/2/06_models/sample/training_history.csv")
    assert [row["epoch"] for row in epochs] == list(range(1, 11))
    assert [row["validation Dice"].split(" / ")[1] for row in epochs] == [
        f"{dice:.4f}" for dice in history["val_dice_coeff"]
    ]

    assert seeds("--seeds", "1", "2", "3") == tables, "the times are those of the first training"


def test_other_images_are_scored(seeds: Seeds, unpacked: Path, tmp_path: Path) -> None:
    render_competition(replace(SMALL, seed=5), tmp_path / "archives", num_workers=1)
    other = open_side(tmp_path / "archives", tmp_path / "other", "training")
    (images,), (masks,) = (unpacked.glob(f"{name}-????????????") for name in ("train", "train_masks"))
    tables = seeds(
        *("--seeds", "4", "--score", f"folder.images={other.images},folder.masks={other.masks}"),
        params=f"source=folder,folder.images={images},folder.masks={masks},folder.mask_suffix=_mask",
    )
    (row,) = tables["Seeds"]
    (path,) = tmp_path.glob("runs/sample/4/08_reporting/folder/sample/evaluation_metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["images"] == len(other.ids()) == 16
    assert float(row["Dice"]) == pytest.approx(metrics["dice"], abs=6e-5)
    assert float(row["lowest Dice"]) == pytest.approx(metrics["lowest_dice"], abs=6e-5)
