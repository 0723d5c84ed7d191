"""The model card: what a model is, what it was trained on, how good it is, and its limits (Mitchell et al. 2019)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from carvana_kedro.commands.params import params_option
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import shown
from carvana_kedro.parameters import DataIngestion, ModelTraining
from carvana_kedro.provenance import check_run
from carvana_kedro.segmentation.training.recipe import flatten

_MEASURES = {
    "dice": "Dice coefficient",
    "iou": "intersection over union",
    "pixel_accuracy": "pixel accuracy",
    "boundary_dice": "Dice coefficient of the edges, 3 pixels wide",
    "boundary_error": "distance between the edges, pixels",
}
_WORST_IMAGES = 10


def write_model_card(
    run_manifest: dict[str, Any],
    validation_scores: pd.DataFrame,
    validation_threshold_curve: pd.DataFrame,
    recipes: dict[str, Any],
    source: SourceDescription,
    data_ingestion: DataIngestion,
) -> str:
    """Write the model card from the template `model_card.md.j2`.

    Args:
        run_manifest: what `describe_run` returns.
        validation_scores: one row per image: image, car, and the measures.
        validation_threshold_curve: one row per threshold: threshold, and dice (the mean Dice coefficient).
        recipes: all recipes by name, to find what the run changed in its own.
        source: the description of the source of the images.
        data_ingestion: how the images were split.

    Returns:
        The card as Markdown.
    """
    check_run("validation_scores", validation_scores, run_manifest["run_id"])
    check_run("validation_threshold_curve", validation_threshold_curve, run_manifest["run_id"])
    parameters = run_manifest["parameters"]
    command, in_files = _reproduction(run_manifest, recipes, source, data_ingestion)
    best_threshold, best_dice = validation_threshold_curve.set_index("threshold")["dice"].agg(
        ["idxmax", "max"]
    )
    worst = validation_scores.nsmallest(_WORST_IMAGES, "dice")[["image", "dice", "boundary_error"]]
    car_dice = validation_scores.groupby("car")["dice"].mean().sort_values()
    recipe = yaml.safe_dump(parameters, sort_keys=False, default_flow_style=None, width=100).strip()
    templates = Environment(
        loader=PackageLoader(__package__, ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters.update(text=_text, code=_code, one_line=shown)
    return templates.get_template("model_card.md.j2").render(
        run=run_manifest,
        parameters=parameters,
        folds=parameters["folds"],
        source=source,
        scored=len(validation_scores),
        measures=_markdown(_summary(validation_scores)),
        mean_dice=validation_scores["dice"].mean(),
        car_dice=list(car_dice.items()),
        standard_error=car_dice.sem() if len(car_dice) > 1 else None,
        best_threshold=best_threshold,
        best_dice=best_dice,
        worst=_markdown(worst.round(4)),
        pixel_size=_pixel_size(run_manifest),
        recipe=recipe,
        fence=_fence(recipe, 3),
        command=command,
        in_files=in_files,
    )


def _reproduction(
    run_manifest: Mapping[str, Any],
    recipes: Mapping[str, Any],
    source: SourceDescription,
    data_ingestion: DataIngestion,
) -> tuple[str, dict[str, list[Any]]]:
    """Return the option `--params` that repeats a run, and the parameters to set in a file: those that are lists."""
    recipe = ModelTraining.model_validate(recipes[run_manifest["recipe"]]).model_dump(mode="json")
    changes = {
        **_changes("model_training", recipe, run_manifest["parameters"]),
        **_changes("data_ingestion", DataIngestion().model_dump(), data_ingestion.model_dump()),
    }
    in_files = {key: value for key, value in changes.items() if isinstance(value, list)}
    values = {"source": source.name, "recipe": run_manifest["recipe"], **changes}
    return params_option({key: value for key, value in values.items() if key not in in_files}), in_files


def _changes(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `after` that differ from `before`, by dotted key."""
    old, new = flatten(before, f"{name}."), flatten(after, f"{name}.")
    return {key: value for key, value in new.items() if old.get(key) != value}


def _pixel_size(run_manifest: Mapping[str, Any]) -> tuple[float, float]:
    """Return how many pixels of an image one pixel of the network's output covers: width, height."""
    image, output = run_manifest["photograph_size"], run_manifest["output_size"]
    return image["width"] / output["width"], image["height"] / output["height"]


def _summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per measure: measure, mean, standard deviation, lowest, highest."""
    table = scores[list(_MEASURES)].agg(["mean", "std", "min", "max"]).T.round(4)
    table.insert(0, "measure", list(_MEASURES.values()))
    return table.rename(columns={"std": "standard deviation", "min": "lowest", "max": "highest"})


def _markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, with the numbers aligned to the right."""
    lines: list[Iterable[object]] = [
        table.columns,
        ["---", *["---:"] * (len(table.columns) - 1)],
        *table.itertuples(index=False),
    ]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a value as Markdown that shows it as it is, in one line.

    >>> print(_text("<b>|car_01|</b>"), _text("_x_"))
    \\<b\\>\\|car_01\\|\\</b\\> \\_x\\_
    """
    # Underscores inside words, as in most names, do not start an emphasis.
    return re.sub(r"[\\`*\[\]<>|&~#$]|\b_|_\b|^_|_$", r"\\\g<0>", shown(str(value)))


def _code(value: object) -> str:
    """Return a value as Markdown code in a line.

    >>> print(_code("car"), _code("a`b"))
    `car` `` a`b ``
    """
    text = shown(str(value))
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _fence(code: str, least: int) -> str:
    """Return a row of backticks, at least `least`, that is longer than any in the code."""
    return "`" * max(least, *(len(found) + 1 for found in re.findall("`+", code)), 0)
