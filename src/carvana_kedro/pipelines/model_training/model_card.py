"""The model card (Mitchell et al. 2019): what a model is, what it was trained on, how good it is, and where not."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
import yaml

from carvana_kedro.parameters import DataIngestion, ModelTraining

_MEASURES = {
    "dice": "Dice coefficient",
    "iou": "intersection over union",
    "pixel_accuracy": "pixel accuracy",
    "boundary_dice": "Dice coefficient of the edges, 3 pixels wide",
    "boundary_error": "distance between the edges, pixels",
}
_WORST = 10


def write_model_card(
    run_manifest: dict[str, Any],
    validation_scores: pd.DataFrame,
    validation_threshold_curve: pd.DataFrame,
    recipes: dict[str, Any],
    source: str,
    data_ingestion: DataIngestion,
) -> str:
    """Write down, for people, what a model is and what is to be expected of it.

    Args:
        run_manifest: of the training.
        validation_scores: a row an image.
        validation_threshold_curve: mean Dice coefficient by threshold.
        recipes: all, to say in what this run differs from the named one.
        source: where the photographs came from: `sample`, `folder`, ...
        data_ingestion: how they were split.

    Returns:
        Markdown.
    """
    parameters = run_manifest["parameters"]
    named = ModelTraining.model_validate(recipes[run_manifest["recipe"]]).model_dump(mode="json")
    changes = [
        *_changes("model_training", named, parameters),
        *_changes("data_ingestion", DataIngestion().model_dump(), data_ingestion.model_dump()),
    ]
    size = parameters["input_size"]
    curve = validation_threshold_curve
    best, highest = curve.set_index("threshold")["dice"].agg(["idxmax", "max"])
    folds = parameters["folds"]
    cars = validation_scores.groupby("car")["dice"].mean().sort_values()
    worst = validation_scores.nsmallest(_WORST, "dice")[["image", "dice", "boundary_error"]]
    scored = (
        "scored by the model that has not seen its car" if folds else "of cars that it was not trained on"
    )
    spread = (
        f" ± {float(cars.std() / len(cars) ** 0.5):.4f}** (standard error over {len(cars)} cars)"
        if len(cars) > 1
        else "** (one car)"
    )
    threshold = run_manifest["validation"]["threshold"]
    command = ",".join([f"source={source}", f"recipe={run_manifest['recipe']}", *changes])
    gpus = run_manifest["machine"]["gpus"]
    machine = ", ".join(gpus) or f"{run_manifest['machine']['threads']} CPU threads, no GPU"
    sections = {
        f"Model card: {run_manifest['recipe']}": f"""
Finds the car in a photograph: for each pixel the probability that it is of the car. `{parameters["architecture"]}` at
{size["width"]} x {size["height"]} (width x height){f", {folds} models of car folds, averaged" if folds else ""}.
Run `{run_manifest["run_id"]}`.
""",
        "Data": f"""
Source `{source}`, fingerprint `{run_manifest["source"]}`; photographs of {" and ".join(run_manifest["photographs"])}.
Split by car: {len(run_manifest["train_cars"])} cars to train on ({run_manifest["train_images"]} images),
{len(run_manifest["validation_cars"])} to validate on ({run_manifest["validation_images"]} images)
{", each fold with other cars to validate on" if folds else ""}.
""",
        "Scores": f"""
At the photographs' own size, {len(validation_scores)} images, each {scored}.

{_table(_summary(validation_scores))}

The images of one car resemble each other, so what counts for the mean Dice coefficient is the number of cars:
**{validation_scores["dice"].mean():.4f}{spread}. The threshold is {threshold:.2f}; at
{best:.2f}, the best, the score would be {highest:.4f}.
""",
        "Worst cases": f"""
{_table(worst.round(4))}

Cars with the lowest means: {", ".join(f"{car} ({dice:.4f})" for car, dice in cars.head(3).items())}.
`validation_gallery.png`, by the pipeline reporting, shows the worst images.
""",
        "Limits": "\n" + "\n".join(f"- {limit}" for limit in _limits(run_manifest, source)) + "\n",
        "Training": f"""
{run_manifest["epochs"]} epochs in {run_manifest["training_seconds"] / 60:.1f} minutes on {machine}; PyTorch
{run_manifest["versions"]["torch"]}.

```yaml
{yaml.safe_dump(parameters, sort_keys=False, default_flow_style=None, width=100).strip()}
```
""",
        "How to reproduce": f"""
Commit `{run_manifest["git_commit"] or "unknown"}`, and with the same photographs{_places(source)}:

    kedro run --pipelines data_ingestion,model_training --params {command}

The same machine, libraries and number of threads give the same weights on a CPU; elsewhere the last digits differ.
""",
    }  # fmt: skip
    (title, opening), *rest = sections.items()
    return f"# {title}\n{opening}" + "".join(f"\n## {heading}\n{text}" for heading, text in rest)


def _limits(run_manifest: Mapping[str, Any], source: str) -> Iterator[str]:
    parameters = run_manifest["parameters"]
    width, height = map(int, run_manifest["photographs"][0].split(" x "))
    size = parameters["input_size"]
    if source == "sample":
        yield "Was trained on rendered cars alone and knows nothing of photographs."
    if run_manifest["validation_images"] and not parameters["folds"]:
        yield (
            "The images that were scored also chose the epoch whose weights were kept, so the scores flatter a little."
        )
    if len(run_manifest["validation_cars"]) < 20:
        yield f"{len(run_manifest['validation_cars'])} cars are few to score by: other cars may score otherwise."
    yield (
        f"A pixel of the network's input covers {width / size['width']:.1f} x {height / size['height']:.1f} pixels of "
        "a photograph; what is thinner, such as aerials and wires of wheels, is lost."
    )
    yield (
        "Expects one whole car before a studio's backdrop, as its training images show it: other scenes, other "
        "vehicles and parts of cars were never scored."
    )


def _changes(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what --params has to say to turn one set of parameters into another."""
    for key, value in now.items():
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping):
            yield from _changes(f"{prefix}.{key}", before[key], value)
        elif before.get(key) != value:
            yield f"{prefix}.{key}={value}"


def _places(source: str) -> str:
    told = {"folder": "folder.images=..., folder.masks=...", "archives": "archives=..."}
    return f" ({told[source]} say where they lie)" if source in told else ""


def _summary(scores: pd.DataFrame) -> pd.DataFrame:
    table = scores[list(_MEASURES)].agg(["mean", "std", "min", "max"]).T.round(4)
    table.insert(0, "measure", list(_MEASURES.values()))
    return table.rename(columns={"std": "standard deviation", "min": "lowest", "max": "highest"})


def _table(rows: pd.DataFrame) -> str:
    lines: list[Iterable[object]] = [
        rows.columns,
        ["---", *["---:"] * (len(rows.columns) - 1)],
        *rows.itertuples(index=False),
    ]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
