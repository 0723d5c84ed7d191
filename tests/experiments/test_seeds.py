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
from experiments.seeds import _epochs

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
    assert [float(row["Dice"]) for row in each] == pytest.approx(scores, abs=6e-6)
    (dice,) = (row for row in summary if row["measure"] == "Dice")
    found = [float(dice[name]) for name in ("median", "min", "max")]
    assert found == pytest.approx([statistics.median(scores), min(scores), max(scores)], abs=6e-6)

    history = pd.read_csv(tmp_path / "runs/sample/2/06_models/sample/training_history.csv")
    assert [row["epoch"] for row in epochs] == list(range(1, 11))
    assert [row["validation Dice at the network's size"].split(" / ")[1] for row in epochs] == [
        f"{dice:.4f}" for dice in history["val_dice_coeff"]
    ]

    assert seeds("--seeds", "1", "2", "3") == tables, "the times are those of the first training"


def test_images_without_a_solution_have_only_a_validation_score_and_other_images_can_be_scored_later(
    seeds: Seeds, unpacked: Path, tmp_path: Path
) -> None:
    render_competition(replace(SMALL, seed=5), tmp_path / "archives", num_workers=1)
    other = open_side(tmp_path / "archives", tmp_path / "other", "training")
    (images,), (masks,) = (unpacked.glob(f"{name}-????????????") for name in ("train", "train_masks"))
    params = f"source=folder,folder.images={images},folder.masks={masks},folder.mask_suffix=_mask"
    (first,) = seeds("--seeds", "4", params=params)["Seeds"]
    assert {*first} == {"seed", "training, min", "validation Dice"}
    (path,) = tmp_path.glob("runs/sample/4/06_models/sample/validation_metrics.json")
    assert float(first["validation Dice"]) == pytest.approx(json.loads(path.read_text())["dice"], abs=6e-6)

    score = f"folder.images={other.images},folder.masks={other.masks}"
    (row,) = seeds("--seeds", "4", "--score", score, params=params)["Seeds"]
    assert {name: row[name] for name in first} == first
    (path,) = tmp_path.glob("runs/sample/4/08_reporting/folder/sample/evaluation_metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["images"] == len(other.ids()) == 16
    assert float(row["Dice"]) == pytest.approx(metrics["dice"], abs=6e-6)
    assert float(row["lowest Dice"]) == pytest.approx(metrics["lowest_dice"], abs=6e-6)


def test_what_differs_between_seeds_cannot_be_set(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.seeds", "sample", "--runs", str(tmp_path)]
    done = subprocess.run(
        [*command, "--params", "model_training.seed=3"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "model_training.seed: this program sets it for each seed. Remove it.\n"


def test_an_epoch_that_a_seed_has_not_reached_is_a_dash() -> None:
    names = ("train_dice_coeff", "val_dice_coeff", "gradient_norm")
    long, short = (pd.DataFrame({"epoch": range(1, n + 1), **dict.fromkeys(names, 0.5)}) for n in (2, 1))
    (_, last) = _epochs({1: long, 2: short})
    assert last == {
        "epoch": 2,
        **dict.fromkeys(
            ("training Dice", "validation Dice at the network's size", "gradient norm"), "0.5000 / -"
        ),
    }
