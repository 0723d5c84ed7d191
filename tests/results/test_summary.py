from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import DataIngestion, ModelTraining
from carvana_kedro.results.summary import RunSummary
from finished_run import CURVE, SCORES
from models import RECIPE


def summary(parameters: ModelTraining = RECIPE, scores: pd.DataFrame = SCORES, **run: Any) -> RunSummary:
    manifest = {
        "run_id": "run",
        "recipe": "mine",
        "validation_cars": ["c", "d"],
        "photograph_size": {"width": 1918, "height": 1280},
        "output_size": {"width": 200, "height": 100},
        "data_ingestion": DataIngestion().model_dump(mode="json"),
        "parameters": parameters.model_dump(mode="json"),
        **run,
    }
    source = SourceDescription(name="toys", limits=("It knows nothing of boats.",))
    recipes = {"mine": RECIPE.model_dump(mode="json")}
    return RunSummary(manifest, scores, CURVE, recipes, source)


def test_a_manifest_of_an_earlier_version_can_be_written_again() -> None:
    run = summary().run
    earlier = {key: value for key, value in run.items() if key != "data_ingestion"}
    with pytest.raises(UserError, match=r"kedro run --nodes model_training\.describe_run"):
        replace(summary(), run=earlier)


def test_the_standard_error_is_over_the_cars_and_not_over_their_images() -> None:
    found = summary()
    assert found.mean_dice == pytest.approx(0.905)
    assert found.car_dice.to_dict() == pytest.approx({"c": 0.85, "d": 0.96})
    assert found.standard_error == pytest.approx((0.96 - 0.85) / 2)
    assert summary(scores=SCORES[:2]).standard_error is None


def test_the_best_threshold_is_the_one_with_the_highest_score() -> None:
    assert summary().best_threshold == (0.6, 0.91)


def test_the_limits_are_those_of_the_source_and_of_the_run() -> None:
    limits = summary().limits
    assert limits[0] == "It knows nothing of boats."
    assert any("slightly too high" in limit for limit in limits)
    assert "Few cars were scored (2). Other cars may have other scores." in limits
    assert limits[-1] == "One pixel of the network's output covers 9.6 x 12.8 pixels of an image."
    assert not any("started from" in limit for limit in limits)
    starts = [{"started_from": {"validation_images_seen": seen}} for seen in (1, 0, 2)]
    known = summary(models=starts).limits
    assert (
        f"The model that training started from was trained on 3 of the {len(SCORES)} scored images, so the scores are "
        "too high."
    ) in known
    by_training = RECIPE.model_copy(update={"best_by": "train_loss"})
    many = summary(by_training, validation_cars=[str(number) for number in range(20)]).limits
    assert len(many) == 2


def test_the_command_repeats_what_the_run_changed() -> None:
    assert summary().command == (
        "kedro run --pipelines data_ingestion,model_training --params source=toys,recipe=mine"
    )
    assert summary(RECIPE.model_copy(update={"epochs": 7})).command.endswith(",model_training.epochs=7")
    assert summary().in_files == {}
