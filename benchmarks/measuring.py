"""Code that the benchmarks share: timing in turns, tables, images to measure with."""

import dataclasses
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.studio import StudioSettings, render_competition

RECIPES = Path(__file__).parents[1] / "conf/base/parameters_model_training.yml"

Row = dict[str, str | int | float]
Contenders = Mapping[str, Callable[[], object]]


@dataclass
class Timing:
    """The seconds that one contender took, without its warm-up, and what it returned last."""

    warm_up: float = 0.0
    seconds: list[float] = field(default_factory=list)
    returned: Any = None

    @property
    def best(self) -> float:
        """Seconds of the fastest round."""
        return min(self.seconds)


def race(
    contenders: Contenders, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time the contenders in turns for `rounds` rounds, after one warm-up round."""
    timings = {name: Timing() for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            synchronize()
            began = clock()
            timings[name].returned = contender()
            synchronize()
            seconds = clock() - began
            if number:
                timings[name].seconds.append(seconds)
            else:
                timings[name].warm_up = seconds
    return timings


def compare(
    contenders: Contenders,
    rounds: int,
    images: Mapping[str, int] | int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Race the contenders and return a table of their speeds.

    Args:
        contenders: functions to time, by name.
        rounds: number of timed rounds; the fastest counts.
        images: number of images that one call processes, or one number per contender.
        clock: returns seconds.

    Returns:
        One row per contender: images per second, the ratio to the first contender, and seconds.
    """
    timings = race(contenders, rounds, clock)
    counts = images if isinstance(images, Mapping) else dict.fromkeys(contenders, images)
    speeds = {name: counts[name] / timing.best for name, timing in timings.items()}
    first = next(iter(speeds.values()))
    return [
        {
            "contender": name,
            "images/s": speed,
            "ratio": speed / first,
            "best, s": timings[name].best,
            "median, s": float(np.median(timings[name].seconds)),
        }
        for name, speed in speeds.items()
    ]


def repeat(times: int, work: Callable[[], object]) -> None:
    """Call a function several times, and drop what it returns."""
    for _ in range(times):
        work()


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Report:
    """Prints each table as soon as it is complete, or all tables as JSON at the end."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.tables: dict[str, list[Row]] = {}

    def add(self, title: str, rows: list[Row]) -> None:
        """Add a table, and print it unless the output is JSON."""
        self.tables[title] = rows
        if self.as_json:
            print(title, file=sys.stderr, flush=True)
            return
        columns = list(dict.fromkeys(column for row in rows for column in row))
        print(f"\n**{title}**\n\n| {' | '.join(columns)} |")
        print(f"|{'|'.join('---' if column == columns[0] else '---:' for column in columns)}|")
        for row in rows:
            print(f"| {' | '.join(_format(row.get(column, '')) for column in columns)} |", flush=True)

    def end(self) -> None:
        """Print all tables if the output is JSON."""
        if self.as_json:
            print(json.dumps(self.tables, indent=2))


def _format(value: str | int | float) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def device_name() -> str:
    """Return the name of the GPU; `CPU, no GPU` without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, no GPU"


def read_recipes() -> dict[str, Recipe]:
    """Return all recipes by name, without Kedro."""
    contents = yaml.safe_load(RECIPES.read_text())["recipes"]
    return {name: Recipe.from_dict(content) for name, content in contents.items()}


def find_images(
    images: Path | None, masks: Path | None, count: int, tiny: bool, folder: Path
) -> tuple[ImageStore, list[str]]:
    """Return a store of images with masks, and the ids of `count` of them.

    Args:
        images: folder of the user's jpgs, or None to render images.
        masks: folder of their masks, named as Kaggle's.
        count: maximum number of ids.
        tiny: render small images instead of full-size ones.
        folder: where to render.
    """
    if images is None:
        settings = StudioSettings(training_cars=-(-count // 16), test_cars=1)
        settings = dataclasses.replace(settings, width=192, height=128) if tiny else settings
        render_competition(settings, folder)
        for name in ("train", "train_masks"):
            with zipfile.ZipFile(folder / f"{name}.zip") as archive:
                archive.extractall(folder)
        images, masks = folder / "train", folder / "train_masks"
    store = ImageStore(images, masks)
    return store, store.ids()[:count]
