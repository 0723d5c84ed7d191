"""The summary of a training run that the model card and the report share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import pandas as pd
import yaml

from carvana_kedro.commands.params import params_option
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import DataIngestion, ModelTraining
from carvana_kedro.provenance import check_run
from carvana_kedro.segmentation.training.recipe import flatten

MEASURES = {
    "dice": "Dice coefficient",
    "iou": "intersection over union",
    "pixel_accuracy": "pixel accuracy",
    "boundary_dice": "Dice coefficient of the edges, 3 pixels wide",
    "boundary_error": "distance between the edges, pixels",
}
_FEW_CARS = 20


@dataclass(frozen=True)
class RunSummary:
    """A training run and its scores.

    Attributes:
        run: The run manifest: what `describe_run` returns.
        scores: One row per image: image, car, and the measures.
        curve: One row per threshold: threshold, and dice (the mean Dice coefficient).
        recipes: All recipes by name, to find what the run changed in its own.
        source: The description of the source of the images.

    Raises:
        UserError: The scores or the curve belong to another run.
    """

    run: Mapping[str, Any]
    scores: pd.DataFrame
    curve: pd.DataFrame
    recipes: Mapping[str, Any]
    source: SourceDescription

    def __post_init__(self) -> None:
        """Check that the scores and the curve are those of the run."""
        check_run("validation_scores", self.scores, self.run["run_id"])
        check_run("validation_threshold_curve", self.curve, self.run["run_id"])
        if "data_ingestion" not in self.run:
            raise UserError(
                "run_manifest.json is of an earlier version, and does not say how the cars were split. Write it again, "
                "with the same options; nothing is trained: kedro run --nodes model_training.describe_run"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """The recipe that the run was trained with, as plain values."""
        return self.run["parameters"]

    @property
    def folds(self) -> int:
        """Number of models, each trained without another part of the cars; 0: one model without folds."""
        return self.parameters["folds"]

    @property
    def started_from(self) -> Mapping[str, Any] | None:
        """The model that training started from: see `Member.started_from`."""
        return self._starts[0] if self._starts else None

    @property
    def _starts(self) -> list[Mapping[str, Any]]:
        """What each model started from; empty for random or ImageNet weights, and in earlier versions."""
        return [start for model in self.run.get("models", ()) if (start := model.get("started_from"))]

    @property
    def recipe(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(self.parameters, sort_keys=False, default_flow_style=None, width=100).strip()

    @cached_property
    def measures(self) -> pd.DataFrame:
        """One row per measure: measure, mean, standard deviation, lowest, highest."""
        table = self.scores[list(MEASURES)].agg(["mean", "std", "min", "max"]).T.round(4)
        table.insert(0, "measure", list(MEASURES.values()))
        return table.rename(columns={"std": "standard deviation", "min": "lowest", "max": "highest"})

    @property
    def mean_dice(self) -> float:
        """Mean Dice coefficient of the images."""
        return float(self.scores["dice"].mean())

    @cached_property
    def car_dice(self) -> "pd.Series[float]":
        """Mean Dice coefficient of each car, lowest first."""
        return self.scores.groupby("car")["dice"].mean().sort_values()

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean Dice coefficient over the cars; None of a single car."""
        return cast(float, self.car_dice.sem()) if len(self.car_dice) > 1 else None

    @cached_property
    def best_threshold(self) -> tuple[float, float]:
        """The best threshold, and the mean Dice coefficient that it would give."""
        threshold, dice = self.curve.set_index("threshold")["dice"].agg(["idxmax", "max"])
        return float(threshold), float(dice)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """How many pixels of an image one pixel of the network's output covers: width, height."""
        image, output = self.run["photograph_size"], self.run["output_size"]
        return image["width"] / output["width"], image["height"] / output["height"]

    @property
    def limits(self) -> list[str]:
        """Sentences on what the scores do not tell."""
        return list(self._limits())

    def _limits(self) -> Iterator[str]:
        yield from self.source.limits
        if self.parameters["best_by"].startswith("val_"):
            yield (
                "The scored images also selected the epoch whose weights were kept, so the scores are slightly too "
                "high."
            )
        if seen := sum(start["validation_images_seen"] for start in self._starts):
            yield (
                f"The model that training started from was trained on {seen} of the {len(self.scores)} scored images, "
                "so the scores are too high."
            )
        cars = len(self.run["validation_cars"])
        if cars < _FEW_CARS:
            yield f"Few cars were scored ({cars}). Other cars may have other scores."
        width, height = self.pixel_size
        yield f"One pixel of the network's output covers {width:.1f} x {height:.1f} pixels of an image."

    @property
    def command(self) -> str:
        """The command that repeats the run, in the same environment and with the same globals."""
        changes = {key: value for key, value in self._changes.items() if key not in self.in_files}
        values = {"source": self.source.name, "recipe": self.run["recipe"], **changes}
        return f"kedro run --pipelines data_ingestion,model_training{params_option(values)}"

    @property
    def in_files(self) -> dict[str, list[Any]]:
        """The parameters that the command needs in a file: those that are lists."""
        return {key: value for key, value in self._changes.items() if isinstance(value, list)}

    @cached_property
    def _changes(self) -> dict[str, Any]:
        """What the run changed in its recipe and in the split, by dotted key."""
        recipe = ModelTraining.model_validate(self.recipes[self.run["recipe"]]).model_dump(mode="json")
        return {
            **_changes("model_training", recipe, self.parameters),
            **_changes("data_ingestion", DataIngestion().model_dump(mode="json"), self.run["data_ingestion"]),
        }


def _changes(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `after` that differ from `before`, by dotted key."""
    old, new = flatten(before, f"{name}."), flatten(after, f"{name}.")
    return {key: value for key, value in new.items() if old.get(key) != value}
