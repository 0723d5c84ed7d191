from typing import Any

import pandas as pd
import pytest

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import DataIngestion, ModelTraining
from carvana_kedro.pipelines.model_training.model_card import write_model_card
from finished_run import CURVE, SCORES

RECIPE = {
    "architecture": "unet_small",
    "input_size": {"width": 384, "height": 256},
    "batch_size": 4,
    "epochs": 3,
    "optimizer": {"name": "adamw", "learning_rate": 0.003},
}


@pytest.fixture
def manifest() -> dict[str, Any]:
    parameters = ModelTraining.model_validate({**RECIPE, "epochs": 2, "loss": {"border_weight": 1.0}})
    return {
        "run_id": "run",
        "recipe": "mine",
        "source": "fingerprint",
        "train_cars": ["a", "b"],
        "train_images": 4,
        "validation_cars": ["c", "d"],
        "validation_images": 4,
        "photograph_size": {"width": 1918, "height": 1280},
        "photograph_sizes": 3,
        "output_size": {"width": 200, "height": 100},
        "data_ingestion": DataIngestion(seed=3).model_dump(mode="json"),
        "parameters": parameters.model_dump(mode="json"),
        "epochs": 2,
        "training_seconds": 90.0,
        "validation": {"threshold": 0.5},
        "versions": {"torch": "2.11"},
        "git_commit": "abc",
        "machine": {"gpus": [], "threads": 2},
    }


@pytest.fixture
def scores() -> pd.DataFrame:
    return SCORES.copy()


SOURCE = SourceDescription(
    name="mine", limits=("It knows nothing of boats.",), reproduce=("mine.path", "mine.side")
)


def _card(manifest: dict[str, Any], scores: pd.DataFrame, source: SourceDescription = SOURCE) -> str:
    return write_model_card(manifest, scores, CURVE, {"mine": RECIPE}, source)


def test_the_card_has_the_measured_numbers(manifest: dict[str, Any], scores: pd.DataFrame) -> None:
    card = _card(manifest, scores)
    # The means of the two cars are 0.85 and 0.96: their standard error is half of the difference.
    assert "**0.9050 ± 0.0550** (standard error over 2 cars).\nThe threshold is 0.50." in card
    assert "The best threshold, 0.60, would give 0.9100." in card
    assert "| Dice coefficient | 0.905 | 0.0759 | 0.8 | 0.97 |" in card
    assert card.index("| c_1 | 0.8 | 4.0 |") < card.index("| c_2 | 0.9 | 3.0 |")
    assert "Cars with the lowest mean Dice coefficient: c (0.8500), d (0.9600)." in card
    assert "Images of 1918 x 1280 pixels and 2 other sizes." in card
    assert "2 cars to train on (4 images), 2 cars to validate on (4 images)." in card
    assert "one training run, with the seed 2017." in card
    assert "2 epochs, 1.5 minutes." in card
    assert "a machine with 2 CPU threads, no GPU, PyTorch 2.11." in card
    # Valid convolutions make the network's output smaller than its input; the image is fitted to the output.
    assert "covers 9.6 x 12.8 pixels" in card


def test_the_card_has_the_command_that_reproduces_the_run(
    manifest: dict[str, Any], scores: pd.DataFrame
) -> None:
    card = _card(manifest, scores)
    assert (
        "kedro run --pipelines data_ingestion,model_training --params source=mine,recipe=mine,"
        "model_training.epochs=2,model_training.loss.border_weight=1.0,data_ingestion.seed=3\n"
    ) in card
    assert "- `mine.path`, with the same value\n- `mine.side`, with the same value\n" in card
    assert "The command also needs" not in _card(manifest, scores, SourceDescription(name="another"))
    # A list is easier to give in a file.
    schedule = {"name": "step", "milestones": [0.3, 0.6]}
    recipe = ModelTraining.model_validate({**RECIPE, "schedule": schedule}).model_dump(mode="json")
    stepped = _card({**manifest, "parameters": recipe}, scores)
    assert "- `model_training.schedule.milestones`, in a parameters file: `[0.3, 0.6]`" in stepped
    assert "milestones" not in stepped[stepped.index("kedro run") : stepped.index("The command also needs")]


def test_the_limits_are_those_of_the_run_and_its_source(
    manifest: dict[str, Any], scores: pd.DataFrame
) -> None:
    assert "- It knows nothing of boats." in _card(manifest, scores)
    assert "boats" not in _card(manifest, scores, SourceDescription(name="another"))
    assert "also selected the epoch" in _card(manifest, scores)
    last = {**manifest, "parameters": {**manifest["parameters"], "best_by": "train_loss"}}
    assert "also selected the epoch" not in _card(last, scores)


def test_the_card_names_the_model_that_training_started_from(
    manifest: dict[str, Any], scores: pd.DataFrame
) -> None:
    assert "Training started" not in _card({**manifest, "models": [{"started_from": None}]}, scores)
    start = {
        "path": "my/model.pt",
        "sha256": "ab12",
        "run_id": "before",
        "architecture": "unet_small",
        "validation_images_seen": 2,
    }
    card = _card({**manifest, "models": [{"started_from": start}]}, scores)
    assert (
        "Training started from the weights of the model `my/model.pt`: architecture `unet_small`, run `before`, "
        "SHA-256 `ab12`.\n"
    ) in card
    assert "- The model that training started from was trained on 2 of the 4 scored images" in card


def test_the_card_of_folds_describes_their_split(manifest: dict[str, Any], scores: pd.DataFrame) -> None:
    card = _card({**manifest, "parameters": {**manifest["parameters"], "folds": 2}}, scores)
    assert "each by the model that was not trained on its car" in card
    assert "2 cars (4 images) in 2 folds. Each model was trained without one of the folds." in card
    assert "also selected the epoch" in card


def test_the_score_of_one_car_has_no_standard_error(manifest: dict[str, Any], scores: pd.DataFrame) -> None:
    assert "**0.8500** (one car)" in _card(manifest, scores[:2])


def test_names_are_shown_as_they_are_and_not_as_markdown(
    manifest: dict[str, Any], scores: pd.DataFrame
) -> None:
    name = "<img src=x> |a| `b` [c](d) *e* _f_"
    escaped = r"\<img src=x\> \|a\| \`b\` \[c\](d) \*e\* \_f\_"
    scores["image"] = [name, "line\nbreak", "plain_name_01", "x"]
    scores["car"] = [name] * 4
    card = _card(manifest, scores)
    assert f"| {escaped} | 0.8 | 4.0 |" in card
    assert r"| line\\nbreak | 0.9 | 3.0 |" in card
    assert "| plain_name_01 | 0.95 |" in card
    assert f"Cars with the lowest mean Dice coefficient: {escaped} (0.9050)." in card


def test_parameters_cannot_end_the_block_of_code_that_they_are_in(
    manifest: dict[str, Any], scores: pd.DataFrame
) -> None:
    manifest["parameters"]["architecture"] = "a`b"
    manifest["parameters"]["loss"] = {"type": "```\n# heading"}
    card = _card(manifest, scores)
    assert "Architecture `` a`b ``, input" in card
    assert "\n````yaml\narchitecture: a`b\n" in card
    assert "\n````\n" in card
    assert "\n# heading" not in card


def test_scores_of_another_run_are_not_described(manifest: dict[str, Any], scores: pd.DataFrame) -> None:
    _card(manifest, scores.assign(run_id="run"))
    with pytest.raises(UserError, match="validation_scores belongs to run other, but the model to run run"):
        _card(manifest, scores.assign(run_id="other"))
