"""What a recipe reaches, trained and scored without Kedro: for machines that have PyTorch and little else.

    python -m experiments.recipes laptop unet_1024 --images train --masks train_masks \
        --score-images other --score-masks other_masks

takes recipes of conf/base/parameters_model_training.yml, trains each on all photographs of the first two folders
(called as Kaggle's) and scores it on those of the other two, at their own size, by the weights of the last epoch.
`--old` trains with the geometry and augmentation of the system of 2017: a square input by Lanczos, nearest-neighbor
targets, ±45°, and a coin each for whether an image and whether its mask is moved. `--epochs` shortens the training;
`--steps` takes as few images as so many steps need, to see whether a recipe runs at its full size. Folds are left out.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.measuring import Report, Row, device_name
from carvana_kedro.stores.images.competition import ImageStore
from experiments.ablations import OLD, Variant, run

_TAKEN = {
    "architecture", "pretrained", "input_size", "augmentation", "loss", "optimizer", "schedule", "ema_decay",
    "batch_size", "epochs",
}  # fmt: skip
_ELSEWHERE = {"cache", "num_workers", "folds"}
RECIPES = Path(__file__).parents[1] / "conf/base/parameters_model_training.yml"


def variant_of(name: str, recipe: Mapping[str, Any], images: int) -> Variant:
    """Return a recipe as what is trained here."""
    if unknown := recipe.keys() - _TAKEN - _ELSEWHERE:
        raise SystemExit(f"{name} says {', '.join(sorted(unknown))}, which this program does not know.")
    schedule = dict(recipe.get("schedule", {"name": "constant"}))
    schedule["warmup"] = schedule.pop("warmup_fraction", 0.0)
    return Variant(
        name,
        "recipe",
        architecture=recipe["architecture"],
        pretrained=recipe.get("pretrained", False),
        input_size=(recipe["input_size"]["height"], recipe["input_size"]["width"]),
        augmentation=recipe.get("augmentation", {}),
        loss=recipe.get("loss", {}),
        optimizer=recipe["optimizer"],
        schedule=schedule,
        ema_decay=recipe.get("ema_decay", 0.0),
        batch_size=recipe["batch_size"],
        samples=recipe["epochs"] * images,
    )


def _car(image_id: str) -> str:
    return image_id.rpartition("_")[0]


def made_old(variant: Variant) -> Variant:
    """Return a recipe with the old geometry and augmentation, for as many pixels as before."""
    if variant.architecture == "unet_original":
        return replace(variant, fits_input=True, **OLD)
    height, width = variant.input_size
    side = 2 * round(sqrt(height * width) / 2)
    return replace(variant, input_size=(side, side), **OLD)


def main() -> None:
    """Train and score the recipes that were asked for."""
    arguments = _arguments()
    train, score = (
        ImageStore(arguments.images, arguments.masks),
        ImageStore(arguments.score_images, arguments.score_masks),
    )
    train_ids, score_ids = train.ids(), score.ids()
    if seen := {_car(name) for name in train_ids} & {_car(name) for name in score_ids}:
        raise SystemExit(f"{len(seen)} cars are in both, such as {min(seen)}: scores would flatter.")
    recipes = yaml.safe_load(RECIPES.read_text())["recipes"]
    report, rows = Report(arguments.json), list[Row]()
    for name in arguments.recipes:
        variant = variant_of(name, recipes[name], len(train_ids))
        if arguments.epochs:
            variant = replace(variant, samples=arguments.epochs * len(train_ids))
        ids = train_ids
        if arguments.steps:
            ids = train_ids[: arguments.steps * variant.batch_size]
            variant = replace(variant, samples=len(ids))
        if arguments.old:
            variant = made_old(variant)
        result = run(variant, arguments.seed, train, ids, score, score_ids, torch.get_num_threads())
        rows.append({"recipe": f"{name}, the old way" if arguments.old else name, **_spelled(result)})
        print(rows[-1], flush=True)
    title = f"{len(ids)} images to train on, {len(score_ids)} scored at their own size, {device_name()}"
    report.add(title, rows)
    report.end()


def _spelled(result: Mapping[str, Any]) -> Row:
    return {
        name: f"{value:.4f}" if isinstance(value, float) and value < 1 else value
        for name, value in result.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipes", nargs="+")
    for name in ("images", "masks", "score-images", "score-masks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=2017)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
