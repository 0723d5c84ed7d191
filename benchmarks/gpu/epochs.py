"""Parts that train on images: epochs from each cache, and a whole training with its score."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from benchmarks.gpu.bench import Bench
from benchmarks.measuring import Row, race, synchronize
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.training import loop
from carvana_kedro.segmentation.training.build import Run, build_run
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Progress
from carvana_kedro.stores.images.competition import ImageStore

VALIDATION_CARS = 10  # of the cars to train on


def caches(bench: Bench) -> Iterator[Row]:
    """Measure an epoch of the recipe from memory, from the device, and decoded by workers from full-size images."""
    recipe = bench.recipe()
    reduced, full_size = bench.train_images, bench.held_out_images
    ids = bench.repeated(reduced.ids(), 1)
    for kept in ({"cache": "memory"}, {"cache": "device"}):
        yield _epoch(replace(recipe, **cast("dict[str, Any]", kept)), reduced, ids)
    decoded = replace(recipe, cache="none", num_workers=bench.num_workers)
    yield _epoch(decoded, full_size, bench.repeated(full_size.ids(), 780))


def training(bench: Bench) -> Iterator[Row]:
    """Train the recipe for a given time, and score the masks of the held-out cars at full size."""
    store, recipe = bench.train_images, bench.recipe()
    ids, cars = (store.ids()[:12], 1) if bench.tiny else (store.ids(), VALIDATION_CARS)
    sides = _sides(ids, cars)
    run = build_run(replace(recipe, epochs=1000), store, sides, origin={}, about={})
    seconds = _seconds_per_epoch(run) + _seconds_of_validation(run)
    recipe = replace(recipe, epochs=max(1, int(bench.training_seconds / seconds)))
    began = time.perf_counter()
    run = build_run(recipe, store, sides, origin={}, about={})
    reading = time.perf_counter() - began
    history = loop.train(*run)
    yield {
        "what": f"training of {bench.recipe_name}, {recipe.input_size[0]} x {recipe.input_size[1]}",
        "images": len(sides[0]),
        "epochs": len(history),
        "steps": run.training.steps,
        "reading, s": reading,
        "training, s": time.perf_counter() - began - reading,
        "images/s, median": statistics.median(record["images_per_second"] for record in history),
        "validation Dice by epoch": " ".join(f"{record['val_dice_coeff']:.4f}" for record in history),
    }
    for flip in (False, True):
        yield _scores(bench, run, flip)


def _epoch(recipe: Recipe, store: ImageStore, ids: Sequence[str]) -> Row:
    """Build a run and measure its second epoch."""
    began = time.perf_counter()
    run = build_run(replace(recipe, epochs=1000), store, [ids, ids[:1]], origin={}, about={})
    synchronize()
    building = time.perf_counter() - began
    height, width = store.size(ids[0])
    seconds = _seconds_per_epoch(run)
    return {
        "what": f"epoch, {recipe.architecture}, {recipe.batch_size} x {recipe.input_size[0]} x {recipe.input_size[1]}",
        "cache": recipe.cache,
        "images are": f"{height} x {width}",
        "workers": recipe.num_workers if recipe.cache == "none" else 0,
        "images/s": run.train_batches.images / seconds,
        "waited for data": run.training.progress.waited / run.training.progress.seconds,
        "building the run, s": building,
    }


def _seconds_per_epoch(run: Run) -> float:
    """Train two epochs, and return the duration of the second."""
    seconds = math.inf
    for _ in range(2):
        run.training.progress = Progress()
        synchronize()
        began = time.perf_counter()
        loop.train_one_epoch(run.training, run.train_batches)
        synchronize()
        seconds = time.perf_counter() - began
    return seconds


def _seconds_of_validation(run: Run) -> float:
    timing = race({"": partial(loop.evaluate, run.training, run.validation_batches)}, rounds=1)[""]
    return timing.best


def _scores(bench: Bench, run: Run, flip: bool) -> Row:
    """Score the masks of the held-out cars at their own size."""
    store = bench.held_out_images
    ids = bench.repeated(store.ids(), 1)
    network = cast("SegmentationNetwork", run.training.model)
    predictor = Predictor([network], run.training.geometry.input_size, flip=flip)
    masks = {found.image_id: found.mask(0.5) for found in predictor.predict(store, ids)}
    truth = {image_id: store.read_mask(image_id) for image_id in ids}
    dice = [mask_scores.dice(masks[image_id], truth[image_id]) for image_id in ids]
    return {
        "what": "scores of held-out cars at full size",
        "flip": flip,
        "images": len(ids),
        "Dice, mean": f"{statistics.fmean(dice):.6f}",
        "Dice, median": f"{statistics.median(dice):.6f}",
        "Dice, lowest": f"{min(dice):.6f}",
        "boundary error, px": statistics.fmean(mask_scores.boundary_error(masks[i], truth[i]) for i in ids),
    }


def _sides(image_ids: Sequence[str], validation_cars: int) -> list[list[str]]:
    """Return the ids of the images to train on, and of the images of the last cars, to validate each epoch."""
    cars = sorted({image_id.rpartition("_")[0] for image_id in image_ids})
    validated = {*cars[-validation_cars:]}
    return [
        [image_id for image_id in image_ids if (image_id.rpartition("_")[0] in validated) == side]
        for side in (False, True)
    ]
