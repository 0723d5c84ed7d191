"""Compare training on several processes with training in one: the result, and what communication costs.

Run `python -m benchmarks.distributed [--json]`, which takes two minutes on two cores. It starts 1, 2 and 4 processes
on the CPU, which train small networks on random images in float64, and prints the largest differences of the weights
and of the scores. Then it measures the steps of a larger network: bytes that a process sends to be summed, and the
share of the time that is lost to communication. On a CPU, this says nothing about GPUs.
"""

import argparse
import logging
import multiprocessing
import os
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.functional import dropout

from benchmarks.measuring import Report, Row
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.training import build
from carvana_kedro.segmentation.training.build import Run, build_run
from carvana_kedro.segmentation.training.distributed import ALONE, World
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.losses import segmentation_loss
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.steps import forward_backward

HERE = "benchmarks.distributed"  # also where this module is the program
CLOCKS = ("images_per_second", "data_wait_share", "share_of_peak", "seconds")
RECIPE = Recipe(
    architecture="unet_small",
    width_multiplier=0.25,
    input_size=(32, 48),
    batch_size=5,  # 3 and 2 images for two processes; 2, 1, 1, 1 for four
    epochs=2,
    optimizer={"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.01},
    device="cpu",
    precision="float32",  # the dtype of the weights decides
    cache="memory",
)


class Random:
    """A source of random images with a bright disc each, which is the mask."""

    def size(self, image_id: str) -> tuple[int, int]:
        """Return the size of all images."""
        return RECIPE.input_size

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return noise, brighter in the disc."""
        noise = self._generator(image_id).integers(0, 156, (*RECIPE.input_size, 3), np.uint8)
        return noise + 100 * self.read_mask(image_id)[..., None]

    def read_mask(self, image_id: str) -> np.ndarray:
        """Return a disc somewhere."""
        rows, columns = np.ogrid[:32, :48]
        row, column, radius = self._generator(image_id).uniform((8, 12, 4), (24, 36, 12))
        return ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.uint8)

    def _generator(self, image_id: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(image_id.encode()))


class WithUnusedWeights(SegmentationNetwork):
    """A small network with BatchNorm, and with a layer that its output does not depend on."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)
        )
        self.unused = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.layers(images)[:, 0]


class WithDropout(WithUnusedWeights):
    """The same with dropout."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(dropout(images, training=self.training))


def sometimes_infinite(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute a loss that is infinite for large discs, in training."""
    loss = segmentation_loss(logits, targets)
    too_large = targets.mean((1, 2)).max() > 0.28
    return loss * torch.inf if torch.is_grad_enabled() and too_large else loss


CASES: Mapping[str, Recipe] = {
    "uneven shares": RECIPE,
    "accumulation": replace(RECIPE, batch_size=8, accumulation_steps=2),
    "border weight": replace(RECIPE, loss={"border_weight": 5.0, "border_width": 2}),
    "border weight, accumulation": replace(
        RECIPE, batch_size=10, accumulation_steps=2, loss={"border_weight": 5.0, "border_width": 2}
    ),
    "average, clipping, schedule": replace(
        RECIPE,
        ema_decay=0.9,
        clip_gradient_norm=0.1,
        schedule={"name": "one_cycle", "warmup_fraction": 0.2},
        best_by="val_loss",
    ),
    "an incomplete batch": replace(RECIPE, batch_size=100, accumulation_steps=2),
    "skipped steps": replace(RECIPE, loss={"type": f"{HERE}.sometimes_infinite"}),
    "unused weights": replace(RECIPE, architecture=f"{HERE}.WithUnusedWeights", width_multiplier=1.0),
}
"""Recipes whose result must not depend on the number of processes."""

OTHERS: Mapping[str, Recipe] = {
    "local BatchNorm": replace(RECIPE, batch_size=10, batch_norm="local", ema_decay=0.9),
    "dropout": replace(RECIPE, architecture=f"{HERE}.WithDropout", width_multiplier=1.0),
}
"""Recipes whose result depends on it. Still, all processes must have the same weights."""


@dataclass
class Result:
    """What a process has at the end of a run."""

    state: Any
    seconds: float


def built(recipe: Recipe, world: World, images: Random | None = None) -> Run:
    """Build the run of a recipe on random images, in the default dtype."""
    ids = [f"image_{number:02}" for number in range(20)]
    with patch.object(build, "measured_peak", lambda hardware: 1.0):  # it takes longer than the run
        return build_run(recipe, images or Random(), (ids[:13], ids[13:]), origin={}, about={}, world=world)


def results(world: World) -> dict[str, Result]:
    """Train all cases in float64, and the first step of one in float32; return the final states."""
    found = {}
    for name, recipe in {**CASES, **OTHERS}.items():
        torch.set_default_dtype(torch.float64)
        started = time.perf_counter()
        run = built(recipe, world)
        train(*run)
        found[name] = Result(_without_clocks(run.training.state()), time.perf_counter() - started)
    torch.set_default_dtype(torch.float32)
    optimizer = {"name": "sgd", "learning_rate": 0.1}  # others scale the noise of gradients near 0
    run = built(replace(RECIPE, batch_size=13, epochs=1, optimizer=optimizer), world)
    train(*run)
    found["first step in float32"] = Result(_without_clocks(run.training.state()), 0.0)
    return found


def run_everywhere(function: Any, size: int, *arguments: Any) -> list[Any]:
    """Call `function(world, *arguments)` in `size` processes, and return their results by rank."""
    quiet = patch.dict(os.environ, TORCH_CPP_LOG_LEVEL="ERROR")  # all weights are used, which is no mistake
    with quiet, tempfile.TemporaryDirectory() as folder:
        arguments = (size, Path(folder), function, arguments)
        # One process imports PyTorch, and the others are forks of it.
        multiprocessing.set_forkserver_preload(["torch._dynamo", build.__name__])
        torch.multiprocessing.start_processes(_rank, arguments, size, start_method="forkserver")
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(size)]


def _rank(rank: int, size: int, folder: Path, function: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    logging.disable()
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    torch.save(function(World.current(), *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest absolute difference between the numbers in two nested values."""
    if isinstance(one, Mapping):
        assert list(one) == list(other)
        return max((largest_difference(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return max((largest_difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, Tensor) and one.numel():
        return float((one.double() - other.double()).abs().max())
    if isinstance(one, float):
        return 0.0 if one == other or (one != one and other != other) else abs(one - other)
    assert isinstance(one, Tensor) or one == other, (one, other)
    return 0.0


def _without_clocks(state: Any) -> Any:
    state = {name: value for name, value in state.items() if name not in ("about", "model")}
    for record in state["history"]:
        for name in CLOCKS:
            del record[name]
    return state


def _weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all processes must have alike: not the running statistics of a local BatchNorm."""
    network = {
        name: value for name, value in state["network"].items() if not name.endswith(("_mean", "_var"))
    }
    return {"network": network, "optimizer": state["optimizer"], "history": state["history"]}


def differences(everywhere: Mapping[int, list[dict[str, Result]]]) -> list[Row]:
    """Return the largest differences from one process, by case and number of processes."""
    rows: list[Row] = []
    (alone,) = everywhere[1]
    for name in alone:
        for size, ranks in everywhere.items():
            state, first = ranks[0][name].state, alone[name].state
            row: Row = {
                "case": name,
                "processes": size,
                "skipped steps": state["skipped"],
                "between processes": max(
                    largest_difference(_weights(state), _weights(rank[name].state)) for rank in ranks
                ),
            }
            if name not in OTHERS:
                row |= {
                    part: largest_difference(first[part], state[part])
                    for part in ("network", "ema", "optimizer", "history")
                    if first[part] is not None
                }
            rows.append(row)
    return rows


# Communication


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count what this process sends to be summed, and the messages."""
    counts = {"bytes": 0, "messages": 0}
    all_reduce = dist.all_reduce

    def counting(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        counts["bytes"] += tensor.nbytes
        counts["messages"] += 1
        return all_reduce(tensor, *arguments, **options)

    with patch.object(dist, "all_reduce", counting):
        yield counts


LARGER = replace(RECIPE, architecture="unet_small", width_multiplier=1.0, input_size=(256, 384), batch_size=8)


def measured_steps(world: World, rounds: int = 4) -> Row:
    """Time the gradient of a batch of `LARGER`, with communication and without it in turns; count what is sent."""
    alone = built(LARGER, ALONE).training  # the share of a batch, without the others
    alone.batch_size = 0
    together = built(LARGER, world).training
    count = sum(world.share_sizes(LARGER.batch_size))
    images, targets = torch.rand(count, 3, *LARGER.input_size), torch.rand(count, *LARGER.input_size)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    sent: dict[str, int] = {}
    for _ in range(rounds):
        for communicates, run in ((True, together), (False, alone)):
            world.agree(0)  # begin together
            started = time.perf_counter()
            with counted() as counts:
                forward_backward(run, images, targets)
            seconds[communicates].append(time.perf_counter() - started)
            sent = counts if communicates else sent
    step, without = (
        min(seconds[communicates][1:]) for communicates in (True, False)
    )  # the first one warms up
    return {
        "processes": world.size,
        "MB per step": sent["bytes"] / 1e6,
        "messages per step": sent["messages"],
        "step, s": step,
        "without communication, s": without,
        "share of communication": 1 - without / step,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    report = Report(_arguments().json)
    everywhere = {size: run_everywhere(results, size) for size in (1, 2, 4)}
    report.add("Differences from one process, float64", differences(everywhere))
    steps = [run_everywhere(measured_steps, size)[0] for size in (1, 2)]
    report.add(f"A step of unet_small, {LARGER.batch_size} x 256 x 384, float32, on the CPU", steps)
    report.end()


if __name__ == "__main__":
    import benchmarks.distributed

    benchmarks.distributed.main()  # under this name the other processes find its functions
