"""Measure prediction in one process and in several: images per second, and the seconds to start.

Run `python -m benchmarks.devices [--devices N] [--cluster local] [--images FOLDER] [--count N]`, which takes a minute
on two cores and prints JSON. Without `--images` it renders images. The processes predict in turns, and the fastest of
three rounds counts; every round starts new processes and writes all shards.
"""

import argparse
import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import device_name, find_images
from carvana_kedro.predicting import engine
from carvana_kedro.predicting.work import Job, Options, Work
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from carvana_kedro.weights import path_of

ROUNDS = 3


def predict(
    model: TrainedModel, images: ImageStore, jobs: Mapping[int, Job], engine_options: Mapping[str, Any]
) -> tuple[float, float, str]:
    """Return the seconds to start and to predict, and the digest of all shards."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"threshold": 0.5, "device": "auto", "engine": "torch"}
        written = DiskFolder(Path(folder))
        shards, pictures = PredictionShards(written), PredictedImages(written)
        work = Work(model, (), options, images, pictures, shards, "benchmark", Options())
        began = time.perf_counter()
        with engine.started(work, jobs, **engine_options) as predicted:
            started = time.perf_counter()
            found = dict(predicted)
            ended = time.perf_counter()
        rows = hashlib.sha256()
        for content in shards.read([found[number].name for number in jobs]).contents():
            rows.update(content)
        return started - began, ended - started, rows.hexdigest()


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=2, help="number of processes, to compare with one")
    parser.add_argument("--cluster", help="Ray cluster to compare with too: local, or ray://HOST:PORT")
    parser.add_argument("--images", type=Path, help="folder of jpgs")
    parser.add_argument("--count", type=int, default=64, help="number of images")
    parser.add_argument("--shard-size", type=int, default=8, help="number of images in a shard")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, ids = find_images(arguments.images, None, arguments.count, False, Path(folder))
        size = arguments.shard_size
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        jobs = {number: Job(part, part, ()) for number, part in enumerate(parts)}
        model = TrainedModel.from_dict(load_checkpoint(path_of("cars")))
        compared: list[dict[str, Any]] = [{"devices": 1}, {"devices": arguments.devices}]
        if arguments.cluster:
            compared.append({"cluster": arguments.cluster})
        rounds: dict[str, list[tuple[float, float, str]]] = {}
        for _ in range(ROUNDS):
            for options in compared:
                name = ", ".join(f"{option}={value}" for option, value in options.items())
                rounds.setdefault(name, []).append(predict(model, images, jobs, options))
    found = {
        name: {
            "images/s": round(len(ids) / min(seconds for _, seconds, _ in timed), 2),
            "start, s": round(min(start for start, _, _ in timed), 2),
        }
        for name, timed in rounds.items()
    }
    cluster = f" --cluster {arguments.cluster}" if arguments.cluster else ""
    command = f"python -m benchmarks.devices --devices {arguments.devices} --count {arguments.count}{cluster}"
    report = {
        "command": command,
        "hardware": f"{device_name()}, {usable_cores()} cores ({platform.machine()})",
        "torch": torch.__version__,
        "images": len(ids),
        "shards": len(jobs),
        **found,
        "same rows": len({rows for timed in rounds.values() for *_, rows in timed}) == 1,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
