"""Measure what each choice of a recipe contributes: train a small network many times, with one thing changed.

Run it on images with masks that are named as Kaggle's:

    python -m experiments.ablations --images train --masks train_masks --results results.jsonl

The last cars are held out and scored at the images' own size. The other cars train `unet_small` for 240 steps of 8
images (if their number of images divides 1,920), or a narrow `unet_original` for 120 steps. Variants within `--close`
of the baseline `ours` are repeated with three seeds, because the seed alone changes the score by 0.003. Every result is
a line of `--results`. A run that has a line is not repeated, so an interrupted program resumes.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measuring import Report, Row
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import Samples
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.training.build import build_training, choose_hardware
from carvana_kedro.segmentation.training.loop import train_one_epoch
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Progress, Training
from carvana_kedro.stores.images.competition import ImageStore

STUDIO = {"rotation": 0.0}  # the baseline's augmentation: shift, scale and flip
STILL = {"shift": 0.0, "scale": 0.0, "rotation": 0.0, "flip_probability": 0.0}
COLORS = {"hue": 10.0, "saturation": 0.2, "value": 0.1, "brightness": 0.05, "contrast": 0.1}
ADAMW = {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.01}

BASELINE = Recipe(
    architecture="unet_small",
    input_size=(192, 288),
    batch_size=8,
    epochs=1,  # as many as `samples` are
    optimizer=ADAMW,
    schedule={"name": "one_cycle", "warmup_fraction": 0.2},
    augmentation=STUDIO,
    ema_decay=0.998,
)


@dataclass(frozen=True)
class DataPath:
    """From an image and its mask to input and target. The defaults are this project's way."""

    image_filter: str = "area"  # or linear, without averaging; or lanczos, by Pillow
    target_filter: str = "area"  # or nearest
    fits_input: bool = False  # resize the image to the input size, although the output shows only its center
    separate_coins: bool = False  # images and masks are moved independently of each other


OLD = DataPath(image_filter="lanczos", target_filter="nearest", separate_coins=True)


@dataclass(frozen=True)
class Variant:
    """A recipe and a data path to measure. The defaults are the baseline, `ours`."""

    name: str
    group: str
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what differs from BASELINE
    data: DataPath = DataPath()
    against: str = "ours"
    samples: int = 240 * 8

    def key(self, seed: int, images: str) -> str:
        """Return the key of a run. It changes with the recipe, the seed and the images, even if the name stays."""
        return json.dumps([dict(self.recipe), vars(self.data), self.samples, seed, images], sort_keys=True)


VALID = {"architecture": "unet_original", "width_multiplier": 0.25, "input_size": (380, 380)}
VALID_OURS = "unet_original, 380 -> 196, our geometry"
SQUARE = {"input_size": (236, 236)}
TURNED: dict[str, Any] = {"augmentation": {}}  # the old ranges: ±45° as well

OURS = Variant("ours", "")
VARIANTS = (
    Variant("square input, 236 x 236", "geometry", SQUARE),
    Variant("nearest-neighbor targets", "geometry", data=DataPath(target_filter="nearest")),
    Variant("separate coins for image and mask, ±45°", "geometry", TURNED, DataPath(separate_coins=True)),
    Variant(
        "all of the old: square, Lanczos, nearest, separate coins, ±45°",
        "geometry",
        {**SQUARE, **TURNED},
        OLD,
    ),
    Variant(VALID_OURS, "valid convolutions", VALID, against=VALID_OURS, samples=120 * 8),
    Variant(
        "unet_original, all of the old",
        "valid convolutions",
        {**VALID, **TURNED},
        replace(OLD, fits_input=True),
        against=VALID_OURS,
        samples=120 * 8,
    ),
    Variant("images by bilinear resizing", "resizing", data=DataPath(image_filter="linear")),
    Variant("images by Lanczos", "resizing", data=DataPath(image_filter="lanczos")),
    Variant("BCE alone", "loss", {"loss": {"dice_weight": 0.0}}),
    Variant("Dice alone", "loss", {"loss": {"bce_weight": 0.0}}),
    Variant("BCE + Dice, edge weighs 5 times", "loss", {"loss": {"border_weight": 4.0, "border_width": 2}}),
    Variant("none", "augmentation", {"augmentation": STILL}),
    Variant("flip", "augmentation", {"augmentation": {**STILL, "flip_probability": 0.5}}),
    Variant("shift and scale", "augmentation", {"augmentation": {**STUDIO, "flip_probability": 0.0}}),
    Variant("flip, shift, scale, ±5°", "augmentation", {"augmentation": {"rotation": 5.0}}),
    Variant("flip, shift, scale, ±45° (the old ranges)", "augmentation", {"augmentation": {}}),
    Variant("flip, shift, scale, colors", "augmentation", {"augmentation": {**STUDIO, **COLORS}}),
    Variant("AdamW, 0.001", "optimizer", {"optimizer": {**ADAMW, "learning_rate": 0.001}}),
    Variant("Adam, 0.003", "optimizer", {"optimizer": {"name": "adam", "learning_rate": 0.003}}),
    Variant("RMSprop, 0.0002", "optimizer", {"optimizer": {"name": "rmsprop", "learning_rate": 0.0002}}),
    Variant(
        "SGD, 0.01, momentum 0.99",
        "optimizer",
        {"optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99}},
    ),
    Variant(
        "SGD, 0.1, momentum 0.9",
        "optimizer",
        {"optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}},
    ),
    Variant("constant", "schedule", {"schedule": {"name": "constant"}}),
    Variant("cosine with warm-up", "schedule", {"schedule": {"name": "cosine", "warmup_fraction": 0.05}}),
    Variant("steps at 1/2 and 3/4", "schedule", {"schedule": {"name": "step"}}),
    Variant("no average of the weights", "average", {"ema_decay": 0.0}),
)


@dataclass(frozen=True)
class Fitting(Geometry):
    """A geometry with other resizing filters and, with `fits_input`, the mismatch of image and target of 2017."""

    image_filter: str = "area"
    target_filter: str = "area"
    fits_input: bool = False

    def fit_image(self, image: np.ndarray) -> np.ndarray:
        """Resize an image to the output size, or to the input size with `fits_input`."""
        height, width = size = self.input_size if self.fits_input else self.output_size
        if self.image_filter == "lanczos":
            return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
        if self.image_filter == "linear":
            return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
        return Geometry(size, size).fit_image(image)

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        """Resize a mask to the output size: (H, W) of 0 and 1 to (h, w) uint8."""
        if self.target_filter == "area":
            return super().fit_mask(mask)
        height, width = self.output_size
        nearest = Image.fromarray(mask * np.uint8(255)).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(nearest)

    def pad(self, images: Tensor) -> Tensor:
        """Add the mirrored margin, unless the image has the input size already."""
        return images if self.fits_input else super().pad(images)


@dataclass(frozen=True)
class SeparateCoins(Augmentation):
    """Augmentation of 2017: image and mask share shift, scale and angle, but each decides alone whether to apply them.

    So half of the pairs do not match. Either both are flipped or none. Unlike in 2017, the border is repeated where the
    image moves away (it was black), and moved masks stay soft (they were rounded).
    """

    def draw(self, seed: int, epoch: int, indices: Iterable[int]) -> Tensor:
        """Draw random numbers for images and for masks, concatenated along axis 1."""
        indices = list(indices)
        image, other = super().draw(seed, epoch, indices), super().draw(seed + 1, epoch, indices)
        mask = image.clone()
        for draws, coin in ((image, image[:, 1].clone()), (mask, other[:, 1])):
            draws[:, 2:6] = torch.where(coin[:, None] < 0.5, draws[:, 2:6], 0.5)  # 0.5: no change
            draws[:, 1] = 0  # always rotate what is moved
        return torch.cat([image, mask], 1)

    def apply(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augment images by the first half of the draws, masks by the second half. Their sizes may differ."""
        for_images, for_masks = draws.chunk(2, dim=1)
        changed, _ = super().apply(images, images[:, 0], for_images)
        _, moved = super().apply(masks[:, None].expand(-1, 3, -1, -1), masks, for_masks)
        return changed, moved


class Remembered(Samples):
    """Samples that are read once and then kept in memory."""

    def __init__(self, source: ImageStore, image_ids: Sequence[str], geometry: Fitting) -> None:
        super().__init__(source, image_ids, geometry)
        self._whole = geometry.image_filter != "area"
        self._read: dict[int, Any] = {}

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image (h, w, 3) and its target (h, w), both uint8."""
        if position not in self._read:
            image_id = str(self.image_ids[position])
            # Other filters than area averaging get the full-size image, not one that the decoder has reduced.
            least = None if self._whole else self.geometry.output_size
            image, mask = self.source.read_image(image_id, least), self.source.read_mask(image_id)
            self._read[position] = self.geometry.fit_image(image), self.geometry.fit_mask(mask)
        return self._read[position]


def car_of(image_id: str) -> str:
    """Return the car that an image shows.

    >>> car_of("0cdf5b5d0ce1_04")
    '0cdf5b5d0ce1'
    """
    return image_id.rpartition("_")[0]


def run(
    recipe: Recipe,
    data: DataPath,
    samples: int,
    store: ImageStore,
    train_ids: Sequence[str],
    score_store: ImageStore,
    score_ids: Sequence[str],
    threads: int = 1,
) -> Row:
    """Train once, on as many images as `samples` says, and score the weights of the last epoch."""
    training, times = train(recipe, data, samples, store, train_ids, threads)
    return {**times, **score(training, score_store, score_ids)}


def train(
    recipe: Recipe, data: DataPath, samples: int, store: ImageStore, image_ids: Sequence[str], threads: int
) -> tuple[Training, Row]:
    """Train once, on as many images as `samples` says, and return the number of steps and the times as well."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(recipe.seed)
    network = build_network(
        recipe.architecture, width_multiplier=recipe.width_multiplier, pretrained=recipe.pretrained
    )
    sizes = Geometry.of(network, recipe.input_size)
    geometry = Fitting(
        sizes.input_size, sizes.output_size, data.image_filter, data.target_filter, data.fits_input
    )
    remembered = Remembered(store, image_ids, geometry)
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(remembered.__getitem__, range(len(remembered))))
    reading = time.perf_counter() - began
    batches = Batches(remembered, recipe.batch_size, seed=recipe.seed)
    recipe = replace(recipe, epochs=max(1, round(samples / batches.images)))
    hardware = choose_hardware(recipe)
    training = build_training(recipe, network, geometry, hardware, steps_per_epoch=len(batches))
    if data.separate_coins:
        training.augmentation = SeparateCoins(**recipe.augmentation)
    began = time.perf_counter()
    _train(training, batches, verbose=threads > 1)
    times = {"reading, s": reading, "training, s": time.perf_counter() - began}
    return training, {"steps": recipe.epochs * len(batches), **times}


def _train(training: Training, batches: Batches, verbose: bool) -> None:
    """Train all epochs without validation; with `verbose`, print the Dice coefficient of each."""
    for epoch in range(1, training.epochs + 1):
        train_one_epoch(training, batches)
        if verbose:
            dice = training.progress.means()["dice_coeff"]
            print(f"epoch {epoch} of {training.epochs}: Dice {dice:.4f}", file=sys.stderr, flush=True)
        training.history.append({"epoch": epoch, "val_dice_coeff": 0.0})
        training.progress = Progress()


@torch.inference_mode()
def score(training: Training, store: ImageStore, image_ids: Sequence[str]) -> Row:
    """Score images at their own size, with and without averaging over the mirrored image."""
    training.model.eval()
    geometry = training.geometry
    found: dict[str, list[float]] = {name: [] for name in ("dice", "flip", "accuracy", "boundary")}
    cars: dict[str, list[float]] = {car_of(image_id): [] for image_id in image_ids}
    curve = ThresholdCurve()
    for image_id in image_ids:
        mask = store.read_mask(image_id)
        fitted = torch.from_numpy(np.array(geometry.fit_image(store.read_image(image_id))))[None]
        images, _ = training.tensors(torch.cat([fitted, fitted.flip(2)]), torch.zeros(1))
        logits = training.predict(training.model, images).float()
        straight, mirrored = logits[:1], logits[1:].flip(2)
        both = (straight.sigmoid() + mirrored.sigmoid()).div(2).logit(1e-6)
        enlarged = geometry.restore(straight, mask.shape)
        predicted = (enlarged[0] > 0).cpu().numpy()
        found["dice"].append(mask_scores.dice(predicted, mask))
        cars[car_of(image_id)].append(found["dice"][-1])
        found["flip"].append(
            mask_scores.dice((geometry.restore(both, mask.shape)[0] > 0).cpu().numpy(), mask)
        )
        found["accuracy"].append(mask_scores.pixel_accuracy(predicted, mask))
        found["boundary"].append(mask_scores.boundary_error(predicted, mask))
        curve.add(enlarged, torch.from_numpy(mask)[None].to(enlarged.device))
    best = curve.best_threshold()
    return {
        **{name: statistics.fmean(values) for name, values in found.items()},
        "lowest": min(found["dice"]),
        "lowest car": min(map(statistics.fmean, cars.values())),
        "best threshold": best,
        "dice there": float(curve.dice()[round(best * 100)]),
    }


class Results:
    """Results of runs, kept in a file with one JSON object per line.

    Args:
        path: The file. It is read now, and every new result is appended.
        sides: Ids of the images to train on and to score. Results for other images are ignored.
    """

    def __init__(self, path: Path, sides: Sequence[Sequence[str]]) -> None:
        self._path = path
        self._images = hashlib.sha256(repr(sides).encode()).hexdigest()[:12]
        lines = path.read_text().splitlines() if path.exists() else []
        self._results = {line["key"]: line["result"] for line in map(json.loads, lines)}

    def has(self, variant: Variant, seed: int) -> bool:
        """Return whether a run has a result."""
        return variant.key(seed, self._images) in self._results

    def of(self, variant: Variant, seeds: Iterable[int]) -> list[dict[str, float]]:
        """Return the results of a variant for these seeds, as far as they exist."""
        keys = [variant.key(seed, self._images) for seed in seeds]
        return [self._results[key] for key in keys if key in self._results]

    def add(self, variant: Variant, seed: int, result: Row) -> None:
        """Add the result of a run, and append it to the file."""
        key = variant.key(seed, self._images)
        self._results[key] = result
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "result": result}) + "\n")


def main() -> None:
    """Run every variant that has no result yet, and print the table."""
    arguments = _arguments()
    store = ImageStore(arguments.images, arguments.masks)
    sides = _sides(store.ids(), arguments.score_cars)
    variants = [OURS, *(variant for variant in VARIANTS if arguments.only in variant.group)]
    if arguments.tiny:
        variants = [_tiny(variant) for variant in variants]
        sides = [ids[:32] for ids in sides]
    results, seeds = Results(arguments.results, sides), range(arguments.seeds)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        fill = partial(_fill, pool, results, store, sides)
        fill([(variants[0], seed) for seed in seeds] + [(variant, 0) for variant in variants[1:]])
        ours = statistics.fmean(result["dice"] for result in results.of(variants[0], seeds))
        close = [v for v in variants if abs(results.of(v, seeds)[0]["dice"] - ours) < arguments.close]
        fill([(variant, seed) for variant in close for seed in seeds])
    report = Report(arguments.json)
    by_name = {variant.name: results.of(variant, seeds) for variant in variants}
    rows = [_row(variant, by_name[variant.name], by_name[variant.against]) for variant in variants]
    report.add(f"Trained on {len(sides[0])} images, scored on {len(sides[1])} images at their own size", rows)
    report.end()


def _sides(image_ids: Sequence[str], score_cars: int) -> list[list[str]]:
    """Return the ids of the images to train on, and of the images of the last cars, to score."""
    cars = sorted({car_of(image_id) for image_id in image_ids})
    scored = {*cars[-score_cars:]}
    return [
        [image_id for image_id in image_ids if (car_of(image_id) in scored) == side] for side in (False, True)
    ]


def _fill(
    pool: ProcessPoolExecutor,
    results: Results,
    store: ImageStore,
    sides: Sequence[Sequence[str]],
    wanted: Sequence[tuple[Variant, int]],
) -> None:
    """Run the wanted pairs of variant and seed that have no result yet."""
    train_ids, score_ids = sides
    runs = {
        pool.submit(
            run,
            replace(BASELINE, **variant.recipe, seed=seed),
            variant.data,
            variant.samples,
            store,
            train_ids,
            store,
            score_ids,
        ): (variant, seed)
        for variant, seed in wanted
        if not results.has(variant, seed)
    }
    for done in as_completed(runs):
        (variant, seed), result = runs[done], done.result()
        results.add(variant, seed, result)
        print(f"{variant.name}, seed {seed}: {result['dice']:.4f}", flush=True)


def _tiny(variant: Variant) -> Variant:
    size = (188, 188) if variant.recipe.get("architecture") == "unet_original" else (32, 48)
    small = {"width_multiplier": 0.1, "input_size": size}
    return replace(variant, recipe={**variant.recipe, **small}, samples=32)


def _row(
    variant: Variant, results: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]
) -> Row:
    """Return the means over the seeds as a row. The difference uses only the seeds that both have."""
    mean = {name: statistics.fmean(result[name] for result in results) for name in results[0]}
    dice = [result["dice"] for result in results]
    difference = statistics.fmean(
        mine["dice"] - other["dice"] for mine, other in zip(results, others, strict=False)
    )
    return {
        "group": variant.group,
        "variant": variant.name,
        "steps": results[0]["steps"],
        "seeds": len(results),
        "Dice": f"{mean['dice']:.4f}",
        "range": f"{min(dice):.4f} to {max(dice):.4f}" if len(dice) > 1 else "",
        "difference": f"{difference:+.4f}",
        "lowest": f"{mean['lowest']:.3f}",
        "edge, px": f"{mean['boundary']:.1f}",
        "pixel accuracy": f"{mean['accuracy']:.4f}",
        "with flip": f"{mean['flip']:.4f}",
        "best threshold": f"{mean['best threshold']:.2f}",
        "Dice there": f"{mean['dice there']:.4f}",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of jpgs")
    parser.add_argument("--masks", type=Path, required=True, help="folder of masks named <image>_mask.gif")
    parser.add_argument(
        "--results", type=Path, required=True, help="file of results, one JSON object per line"
    )
    parser.add_argument("--score-cars", type=int, default=8, help="number of cars to hold out")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the baseline and of close variants")
    parser.add_argument(
        "--close", type=float, default=0.004, help="difference in Dice below which all seeds are run"
    )
    parser.add_argument("--processes", type=int, default=2, help="trainings to run at once")
    parser.add_argument("--only", default="", help="run only groups whose name contains this text")
    parser.add_argument("--tiny", action="store_true", help="make everything small, to test this program")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
