"""A small training in several processes, for tests to end: `python -c "import launched_process as p; p.main()" FOLDER`.

Its one weight depends on all ranks and on every step, so that a step that is lost or repeated changes it.
"""

import json
import logging
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.training.distributed import World
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.launch import report_step, run_in_processes, stop_requested
from carvana_kedro.stores.machine import usable_cores

logger = logging.getLogger("carvana_kedro.launched")

STEPS, STEPS_PER_CHECKPOINT = 150, 5


def train(world: World, folder: Path) -> dict[str, Any]:
    """Train to the end, or from the checkpoint in the folder; save one every few steps.

    If the folder has a file `busy`, the training does not stop when it should.
    """
    checkpoint = folder / "checkpoint.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "weight": 0.5}
    (folder / f"{world.rank}.pid").write_text(str(os.getpid()))
    report_step(state["step"])
    logger.info("Process %d starts after step %d", world.rank + 1, state["step"])
    while state["step"] < STEPS:
        time.sleep(0.04)
        part = torch.tensor(state["weight"] * (world.rank + 1) + state["step"], dtype=torch.float64).sin()
        state = {"step": state["step"] + 1, "weight": float(world.sum(part))}
        report_step(state["step"])
        stops = bool(world.agree(stop_requested()))
        if world.leader and (stops or state["step"] % STEPS_PER_CHECKPOINT == 0):
            (folder / "part").write_text(json.dumps(state))
            (folder / "part").replace(checkpoint)
        if world.leader:
            print(f"step {state['step']}", flush=True)  # noqa: T201
        if stops:
            if (folder / "busy").exists():
                time.sleep(600)
            raise TrainingInterruptedError(f"Stopped after step {state['step']}.")
    return state


def fail(world: World, error: Exception) -> None:
    """Raise an error in the second process, while the first one waits for it. Each has a semaphore, as readers do."""
    _semaphore = multiprocessing.get_context("spawn").Semaphore()
    if world.rank == 1:
        raise error
    world.sum(torch.ones(1))


def wait_for_second(world: World, seconds: float) -> int:
    """Wait while the second process does something for so long, and return what it then has."""
    if world.rank == 1:
        time.sleep(seconds)
    return world.agree(world.rank)


def surroundings(world: World) -> tuple[int, int, int, int]:
    """Log and warn in all processes, and return what the first one finds."""
    logger.info("Only from process %d", world.rank + 1)
    logger.debug("Below the level")
    return world.size, int(world.sum(torch.ones(1))), torch.get_num_threads(), usable_cores()


def main() -> None:
    """Train in two processes, and print the result or the error."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    folder, *options = sys.argv[1:]
    try:
        result = run_in_processes(
            train, Path(folder), **{"devices": 2, **json.loads("".join(options) or "{}")}
        )
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(result))  # noqa: T201
