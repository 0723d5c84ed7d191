"""Measure what each kind of variety of the studio contributes: train on rendered cars, and score photographs.

    python -m experiments.variety --score-images photographs --score-masks their_masks --results results.jsonl

For each variety (`none`, `all`, or kinds joined by `+`), this program renders a training set at twice the network's
size, trains on it, and scores the weights of the last epoch on the photographs, at their own size. All but one kind is
`walls+paint+light+camera`, for example. Everything else is the same in all trainings: the architecture and the loss are
those of the recipe; learning rate, schedule and augmentation, colors included, are this program's own.

Every result is a line of `--results`. A run that has a line is not repeated, unless `--save` lacks its model, so an
interrupted program resumes. With `--save`, each model is kept as `<recipe>-<variety>.pt`, for `kedro run --params
checkpoint=PATH`.
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measuring import Report, Row, device_name, read_recipes
from carvana_kedro.segmentation.model import Member
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Training
from carvana_kedro.stores.checkpoints import save_checkpoint
from carvana_kedro.stores.competition import open_side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.studio import StudioSettings, render_competition, sample_folder
from carvana_kedro.studio.settings import KINDS
from experiments.ablations import DataPath, Results, Variant, score, train

SCORES = {
    "dice": "Dice",
    "lowest": "lowest image",
    "lowest car": "lowest car",
    "best threshold": "best threshold",
    "dice there": "Dice there",
}
AUGMENTATION = {
    "shift": 0.1,
    "scale": 0.2,
    "rotation": 0.0,
    "hue": 15.0,
    "saturation": 0.3,
    "value": 0.2,
    "contrast": 0.2,
}


def main() -> None:
    """Train and score with every variety that has no result yet, and print the table."""
    arguments = _arguments()
    try:
        worlds = [_settings(variety, arguments) for variety in arguments.varieties]
    except ValueError as error:
        raise SystemExit(str(error)) from error
    photographs = ImageStore(arguments.score_images, arguments.score_masks)
    rows = [_row(settings, photographs, arguments) for settings in worlds]
    title = (
        f"{arguments.recipe}, trained on {arguments.cars * arguments.views} rendered images, scored on "
        f"{len(photographs.ids())} photographs at their own size, {device_name()}"
    )
    report = Report(arguments.json)
    report.add(title, rows)
    report.end()


def _settings(variety: str, arguments: argparse.Namespace) -> StudioSettings:
    """Return the settings of a training set."""
    return StudioSettings(
        training_cars=arguments.cars,
        test_cars=1,
        views=arguments.views,
        width=2 * arguments.width,
        height=2 * arguments.height,
        variety=variety,
    )


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe with what this program sets."""
    recipe = read_recipes()[arguments.recipe]
    return replace(
        recipe,
        input_size=(arguments.height, arguments.width),
        batch_size=arguments.batch_size,
        optimizer={**recipe.optimizer, "learning_rate": arguments.learning_rate},
        schedule={"name": "one_cycle", "warmup_fraction": 0.2},
        augmentation=AUGMENTATION,
        seed=arguments.seed,
    )


def _row(settings: StudioSettings, photographs: ImageStore, arguments: argparse.Namespace) -> Row:
    """Return the scores with one variety. They are measured unless they, and the model to save, exist."""
    recipe, samples = _recipe(arguments), arguments.steps * arguments.batch_size
    run = Variant(settings.variety, "", asdict(recipe), samples=samples)
    images = [[sample_folder(Path(), settings).name], photographs.ids()]
    results = Results(arguments.results, images)
    model = arguments.save and arguments.save / f"{arguments.recipe}-{settings.variety}.pt"
    if not results.has(run, recipe.seed) or (model and not model.exists()):
        results.add(run, recipe.seed, _measure(settings, recipe, samples, photographs, model))
    (result,) = results.of(run, [recipe.seed])
    scores = {title: f"{result[name]:.4f}" for name, title in SCORES.items()}
    row: Row = {"variety": settings.variety, "steps": result["steps"], **scores}
    print(row, file=sys.stderr, flush=True)
    return row


def _measure(
    settings: StudioSettings, recipe: Recipe, samples: int, photographs: ImageStore, model: Path | None
) -> Row:
    """Render a training set, train on it, save the model and score the photographs."""
    threads = torch.get_num_threads()
    with TemporaryDirectory() as name:
        folder = Path(name)
        render_competition(settings, folder, num_workers=threads)
        rendered = open_side(folder, folder / "unpacked", "training")
        training, times = train(recipe, DataPath(), samples, rendered, rendered.ids(), threads)
        if model:
            save_checkpoint(model, _member(training, rendered, model.stem).to_dict())
    return {**times, **score(training, photographs, photographs.ids())}


def _member(training: Training, rendered: ImageStore, run_id: str) -> Member:
    """Return the trained network, with what is stored beside it."""
    return Member.from_dict(
        {
            **training.description,
            "weights": {name: weight.cpu() for name, weight in training.model.state_dict().items()},
            "run_id": run_id,
            "source": rendered.fingerprint(),
            "trained_on": sorted(rendered.digests.of([rendered.image_path(name) for name in rendered.ids()])),
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--score-images", type=Path, required=True, help="folder of photographs, <car>_<view>.jpg"
    )
    parser.add_argument(
        "--score-masks", type=Path, required=True, help="folder of masks named <image>_mask.gif"
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="file of results, one JSON object per line"
    )
    parser.add_argument("--save", type=Path, help="folder to keep the trained models in")
    parser.add_argument(
        "--varieties", nargs="+", default=["none", "all", *KINDS], help="what to train with, in this order"
    )
    parser.add_argument("--recipe", default="unet_lite0", choices=read_recipes(), help="name of a recipe")
    parser.add_argument("--cars", type=int, default=120, help="number of rendered cars")
    parser.add_argument("--views", type=int, default=4, help="rendered images of each car")
    parser.add_argument("--width", type=int, default=288, help="width of the network's input")
    parser.add_argument("--height", type=int, default=192, help="height of the network's input")
    parser.add_argument("--batch-size", type=int, default=8, help="images per step")
    parser.add_argument("--steps", type=int, default=600, help="training steps, rounded to whole epochs")
    parser.add_argument("--learning-rate", type=float, default=0.002, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=2017, help="random seed of the training")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
