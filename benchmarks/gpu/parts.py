"""Parts of a measurement that must end before a deadline. Every result is one JSON object on a line of its own."""

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measuring import Row


@dataclass(frozen=True)
class Part:
    """One part of the measurement.

    Attributes:
        name: Its name in the output.
        seconds: How long it takes at most on a large GPU.
        measure: Yields a row as soon as it is measured.
    """

    name: str
    seconds: float
    measure: Callable[[], Iterable[Row]]


class Lines:
    """Prints rows as JSON lines, and appends them to a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def __call__(self, row: Row) -> None:
        """Write a row; floats get four significant digits."""
        rounded = {
            name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()
        }
        line = json.dumps(rounded)
        print(line, flush=True)
        with self._path.open("a") as file:
            file.write(line + "\n")


def run_parts(parts: Sequence[Part], deadline: float, write: Callable[[Row], None]) -> None:
    """Run the parts in order. One that fails, or that would pass the deadline, does not keep the next from running.

    Args:
        parts: Parts to run.
        deadline: On the clock `time.monotonic`.
        write: Receives the rows of all parts, and a last row for each part: its duration, why it was skipped, or how it
            failed.
    """
    for part in parts:
        left = deadline - time.monotonic()
        if part.seconds > left:
            write({"part": part.name, "skipped": f"it may need {part.seconds:.0f} s; {left:.0f} s are left"})
            continue
        write({"part": part.name, **_outcome(part, write)})
        _release_memory()


def _outcome(part: Part, write: Callable[[Row], None]) -> Row:
    began = time.monotonic()
    try:
        for row in part.measure():
            write({"part": part.name, **row})
    except Exception as error:
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # they hold tensors on the GPU
        return {"failed": f"{type(error).__name__}: {error}"[:500], "seconds": time.monotonic() - began}
    return {"seconds": time.monotonic() - began}


def _release_memory() -> None:
    torch.compiler.reset()  # after eight shapes torch would stop compiling
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
