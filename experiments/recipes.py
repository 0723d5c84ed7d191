"""Train and score recipes without Kedro, on machines that have PyTorch and little else.

    python -m experiments.recipes laptop unet_1024 --images train --masks train_masks \\
        --score-images other --score-masks other_masks

This command takes recipes of conf/base/parameters_model_training.yml. It trains each on all images of the first two
folders, whose files are named as Kaggle's. Then it scores the weights of the last epoch on the images of the other two
folders, at their own size. Folds are ignored.

`--old` trains in the old style, with the geometry and augmentation of 2017: a square input, resized with Lanczos,
nearest-neighbor targets, rotation up to ±45°, and image and mask that decide separately whether they are moved.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Report, Row, device_name, read_recipes
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.stores.images.competition import ImageStore
from experiments.ablations import OLD, DataPath, car_of, run


def in_old_style(recipe: Recipe) -> tuple[Recipe, DataPath]:
    """Return a recipe with the geometry and augmentation of 2017, and as many input pixels as before."""
    recipe = replace(recipe, augmentation={})  # the old ranges are the defaults
    if recipe.architecture == "unet_original":
        return recipe, replace(OLD, fits_input=True)
    height, width = recipe.input_size
    side = 2 * round(sqrt(height * width) / 2)
    return replace(recipe, input_size=(side, side)), OLD


def main() -> None:
    """Train and score the recipes named on the command line."""
    arguments = _arguments()
    train, score = (
        ImageStore(arguments.images, arguments.masks),
        ImageStore(arguments.score_images, arguments.score_masks),
    )
    train_ids, score_ids = train.ids(), score.ids()
    if seen := {car_of(name) for name in train_ids} & {car_of(name) for name in score_ids}:
        raise SystemExit(
            f"{len(seen)} cars, such as {min(seen)}, are in both --images and --score-images. The scores would be too "
            "high: remove them from one of the folders."
        )
    recipes = read_recipes()
    report, rows = Report(arguments.json), list[Row]()
    for name in arguments.recipes:
        recipe, data = replace(recipes[name], seed=arguments.seed), DataPath()
        ids, samples = train_ids, (arguments.epochs or recipe.epochs) * len(train_ids)
        if arguments.steps:
            ids = train_ids[: arguments.steps * recipe.batch_size]
            samples = len(ids)
        if arguments.old:
            recipe, data = in_old_style(recipe)
        result = run(recipe, data, samples, train, ids, score, score_ids, torch.get_num_threads())
        rows.append({"recipe": f"{name}, old style" if arguments.old else name, **_formatted(result)})
        print(rows[-1], flush=True)
    title = (
        f"Trained on {len(ids)} images, scored on {len(score_ids)} images at their own size, {device_name()}"
    )
    report.add(title, rows)
    report.end()


def _formatted(result: Mapping[str, Any]) -> Row:
    return {
        name: f"{value:.4f}" if isinstance(value, float) and value < 1 else value
        for name, value in result.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipes", nargs="+", help="names of recipes")
    parser.add_argument("--images", type=Path, required=True, help="folder of jpgs to train on")
    parser.add_argument("--masks", type=Path, required=True, help="folder of their masks, <image>_mask.gif")
    parser.add_argument("--score-images", type=Path, required=True, help="folder of jpgs to score")
    parser.add_argument("--score-masks", type=Path, required=True, help="folder of their masks")
    parser.add_argument("--old", action="store_true", help="use the geometry and augmentation of 2017")
    parser.add_argument("--epochs", type=int, default=0, help="number of epochs, instead of the recipe's")
    parser.add_argument(
        "--steps", type=int, default=0, help="train only this many steps, to test that a recipe runs"
    )
    parser.add_argument("--seed", type=int, default=2017, help="random seed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
