"""The model card (Mitchell et al. 2019): what a model is, what it was trained on, how good it is, and where not."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
import yaml

from carvana_kedro.datasets.source_description import SourceDescription
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
    source: SourceDescription,
    data_ingestion: DataIngestion,
) -> str:
    """Write down, for people, what a model is and what is to be expected of it.

    Args:
        run_manifest: of the training.
        validation_scores: a row an image.
        validation_threshold_curve: mean Dice coefficient by threshold.
        recipes: all, to say in what this run differs from the named one.
        source: the description of the source of the training images.
        data_ingestion: how they were split.

    Returns:
        Markdown.
    """
    parameters = run_manifest["parameters"]
    named = ModelTraining.model_validate(recipes[run_manifest["recipe"]]).model_dump(mode="json")
    changes = {
        **_changes("model_training", named, parameters),
        **_changes("data_ingestion", DataIngestion().model_dump(), data_ingestion.model_dump()),
    }
    lists = {key: value for key, value in changes.items() if isinstance(value, list)}
    size = parameters["input_size"]
    curve = validation_threshold_curve
    best, highest = curve.set_index("threshold")["dice"].agg(["idxmax", "max"])
    folds = parameters["folds"]
    cars = validation_scores.groupby("car")["dice"].mean().sort_values()
    worst = validation_scores.nsmallest(_WORST, "dice")[["image", "dice", "boundary_error"]]
    photograph = run_manifest["photograph_size"]
    others = run_manifest["photograph_sizes"] - 1
    scored = (
        "scored by the model that has not seen its car" if folds else "of cars that it was not trained on"
    )
    counts = [f"{len(run_manifest[f'{side}_cars'])} cars" for side in ("train", "validation")]
    images = [f"{run_manifest[f'{side}_images']} images" for side in ("train", "validation")]
    split = f"{counts[0]} to train on ({images[0]}), {counts[1]} to validate on ({images[1]})."
    if folds:
        split = f"{counts[0]} ({images[0]}) in {folds} folds: each model was trained without one of them."
    spread = (
        f" ± {float(cars.std() / len(cars) ** 0.5):.4f}** (standard error over {len(cars)} cars)"
        if len(cars) > 1
        else "** (one car)"
    )
    threshold = run_manifest["validation"]["threshold"]
    said = {"source": source.name, "recipe": run_manifest["recipe"], **changes}
    command = ",".join(f"{key}={value}" for key, value in said.items() if key not in lists)
    gpus = run_manifest["machine"]["gpus"]
    minutes = run_manifest["training_seconds"] / 60
    machine = ", ".join(gpus) or f"{run_manifest['machine']['threads']} CPU threads, no GPU"
    sections = {
        f"Model card: {run_manifest['recipe']}": f"""
Finds the car in a photograph: for each pixel the probability that it is of the car. `{parameters["architecture"]}` at
{size["width"]} x {size["height"]} (width x height){f"; {folds} models, averaged" if folds else ""}.
Run `{run_manifest["run_id"]}`.
""",
        "Data": f"""
Source `{source.name}`, fingerprint `{run_manifest["source"]}`; photographs of
{photograph["width"]} x {photograph["height"]} pixels{f" and {others} other sizes" if others else ""}. Split by car:
{split} The manifest of the run, `run_manifest.json`, names them.
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
{run_manifest["epochs"]} epochs{" in all" if folds else ""}, {minutes:.1f} minutes.
This card was written on a machine with {machine}, PyTorch {run_manifest["versions"]["torch"]}.

```yaml
{yaml.safe_dump(parameters, sort_keys=False, default_flow_style=None, width=100).strip()}
```
""",
        "How to reproduce": f"""
Commit `{run_manifest["git_commit"] or "unknown"}`; with the same photographs, environment (`--env`) and globals:

    kedro run --pipelines data_ingestion,model_training --params "{command}"
{_besides(source, lists)}
The same machine, libraries and number of threads give the same weights on a CPU; elsewhere the last digits differ.
""",
    }  # fmt: skip
    (title, opening), *rest = sections.items()
    return f"# {title}\n{opening}" + "".join(f"\n## {heading}\n{text}" for heading, text in rest)


def _limits(run_manifest: Mapping[str, Any], source: SourceDescription) -> Iterator[str]:
    yield from source.limits
    parameters = run_manifest["parameters"]
    photograph, output = run_manifest["photograph_size"], run_manifest["output_size"]
    wide, high = (photograph[side] / output[side] for side in ("width", "height"))
    if parameters["best_by"].startswith("val_"):
        yield (
            "The images that were scored also chose the epoch whose weights were kept, so the scores flatter a little."
        )
    if len(run_manifest["validation_cars"]) < 20:
        yield f"{len(run_manifest['validation_cars'])} cars are few to score by: other cars may score otherwise."
    yield f"A pixel of the network's output covers {wide:.1f} x {high:.1f} pixels of a photograph."


def _changes(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be said to turn one set of parameters into another."""
    found: dict[str, Any] = {}
    for key, value in now.items():
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping):
            found |= _changes(f"{prefix}.{key}", before[key], value)
        elif before.get(key) != value:
            found[f"{prefix}.{key}"] = value
    return found


def _besides(source: SourceDescription, lists: Mapping[str, Any]) -> str:
    """Return what the command line does not say: a paragraph, or nothing."""
    lines = [f"- `{key}`, as it was" for key in source.reproduce]
    lines += [f"- `{key}`, in a parameters file: {value}" for key, value in lists.items()]
    return "\n".join(["", "It needs besides:", "", *lines, ""]) if lines else ""


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
