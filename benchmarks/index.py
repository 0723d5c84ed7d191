"""Measure the index table of a source at a million rows: size, memory, and CPU time of what runs do with it.

Run `python -m benchmarks.index [--rows N]`. It prints JSON. The rows are those of photographs without problems: ids,
cars, views, sizes, areas, digests. No image is read.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from carvana_kedro.datasets.table import TableDataset
from carvana_kedro.image_index import usable_images

VIEWS = 16
Value = TypeVar("Value")


def make_index(rows: int) -> pd.DataFrame:
    """Return an index like that of the competition, of any length."""
    rng = np.random.default_rng(0)
    cars = [f"{number * 0x9E3779B97F4A % 2**48:012x}" for number in range(-(-rows // VIEWS))]
    cars = [cars[row // VIEWS] for row in range(rows)]
    views = [row % VIEWS + 1 for row in range(rows)]
    return pd.DataFrame(
        {
            "image": [f"{car}_{view:02d}" for car, view in zip(cars, views, strict=True)],
            "car": cars,
            "view": views,
            "width": 1918,
            "height": 1280,
            "mask_area": rng.uniform(0.1, 0.4, rows),
            "problems": "",
            "digest": [rng.bytes(16).hex() for _ in range(rows)],
            "source": "0123456789abcdef0123456789abcdef",
        }
    )


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Return sizes in bytes per row, and seconds of CPU time, of an index that is written, read and filtered."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Value]) -> Value:
        began = time.process_time()
        value = step()
        seconds[f"{name}_s"] = round(time.process_time() - began, 2)
        return value

    index = timed("make", lambda: make_index(rows))
    path = folder / "index.csv"
    timed("save", lambda: TableDataset(filepath=str(path)).save(index))
    loaded = timed("load", lambda: TableDataset(filepath=str(path)).load())
    timed("filter", lambda: usable_images(loaded, "stop", advice=""))
    timed("split", lambda: loaded[loaded["car"].isin(loaded["car"].unique()[::10])])
    return {
        "rows": rows,
        **seconds,
        "csv_bytes_per_row": round(path.stat().st_size / rows, 1),
        "table_bytes_per_row": round(float(loaded.memory_usage(deep=True).sum()) / rows, 1),
        "peak_bytes_per_row": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / rows, 1),
    }


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments.rows, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
