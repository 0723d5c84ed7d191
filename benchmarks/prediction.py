"""Measure the speed of prediction, from jpgs to the rows of a submission, against the loop of old_style.py.

Run `python -m benchmarks.prediction [--json]`, which takes 8 minutes on two cores. It renders images, or uses yours
(`--images PATH --masks PATH`: jpgs, and gifs named as Kaggle's). Other measurements:

    python -m benchmarks.prediction --submission    # write 100,064 rows, as dense as Carvana's, from shards to the file
    python -m benchmarks.prediction --agreement     # compare the masks of both, and their scores, with trained weights

All contenders run in one process, one after the other. `ratio` is the speed relative to the first row of the table.
`--tiny` makes everything small, to test the program itself. `python -m benchmarks.gpu` measures a GPU.
"""

import argparse
import gzip
import resource
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import old_style
from benchmarks.measuring import Report, Row, find_images, synchronize
from carvana_kedro.segmentation.architectures import SegmentationNetwork, build_network
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Prediction, Predictor
from carvana_kedro.stores import predictions as stored
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictionShards, write_submission
from carvana_kedro.stores.processes import map_in_threads
from carvana_kedro.stores.tables import Row as MaskRow

TEST_IMAGES = 100_064
SHARD = 512
PIXELS = 100_000_000  # of all images whose rows are being written


@dataclass(frozen=True)
class Task:
    """A network and its input size (height, width)."""

    architecture: str
    input_size: tuple[int, int]
    width_multiplier: float = 1.0

    def network(self) -> SegmentationNetwork:
        """Build the network, always with the same weights."""
        torch.manual_seed(0)
        return build_network(self.architecture, width_multiplier=self.width_multiplier)

    def __str__(self) -> str:
        """Return the name and the input size."""
        return f"{self.architecture}, {self.input_size[0]} x {self.input_size[1]}"


CLASSIC = Task("unet_1024", (683, 1024))
TINY = Task("unet_1024", (64, 96), width_multiplier=0.05)


def predict(
    predictor: Predictor, store: ImageStore, image_ids: list[str], folder: Path, **options: Any
) -> None:
    """Predict as the inference pipeline does: from jpgs to shards to a submission."""
    shards = PredictionShards(DiskFolder(folder / "shards"))
    sizes = [len(image_ids[start : start + SHARD]) for start in range(0, len(image_ids), SHARD)]
    found = predictor.predict(store, image_ids, threshold=0.5, shard_sizes=sizes, **options)
    rows = map_in_threads(_row, found, size=lambda prediction: prod(prediction.size), limit=PIXELS)
    names = [shards.write("key", number, list(islice(rows, size))).name for number, size in enumerate(sizes)]
    write_submission(*open_file(folder / "submit.csv.gz"), shards.read(names))


def _row(prediction: Prediction) -> MaskRow:
    return prediction.image_id, run_lengths.format_runs(prediction.edges(0.5))


def compare(report: Report, task: Task, store: ImageStore, image_ids: list[str], folder: Path) -> None:
    """Time the old style, this project and this project compiled on the same images, one after the other."""
    size, network = task.input_size, task.network()
    rows: list[Row] = []
    contenders = {
        "old style": lambda ids: old_style.predict(network, store.images, ids, size, folder / "old.csv.gz"),
        **{
            name: partial(
                _predict_two_at_a_time,
                Predictor([network], size, device="cpu", compile=compiled),
                store,
                folder,
            )
            for name, compiled in (("this project", False), ("this project, compiled", True))
        },
    }
    for name, run in contenders.items():
        first = _seconds(run, image_ids[:2])  # compiles and warms up
        best = _seconds(run, image_ids)
        speed = len(image_ids) / best
        ratio = speed / float(rows[0]["images/s"]) if rows else 1.0
        rows.append({"contender": name, "images/s": speed, "ratio": ratio, "s": best, "first two, s": first})
    report.add(f"From jpgs to rows: {task}, {len(image_ids)} images", rows)


def _predict_two_at_a_time(
    predictor: Predictor, store: ImageStore, folder: Path, image_ids: list[str]
) -> None:
    predict(predictor, store, image_ids, folder, batch_size=2)


def _seconds(run: Any, image_ids: list[str]) -> float:
    synchronize()
    began = time.perf_counter()
    run(image_ids)
    synchronize()
    return time.perf_counter() - began


def split(report: Report, predictor: Predictor, task: Task, store: ImageStore, image_ids: list[str]) -> None:
    """Time the stages of this project's prediction separately, and wait for the device after each."""
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def ends(stage: str) -> None:
        nonlocal clock
        synchronize()
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - clock
        clock = time.perf_counter()

    size = predictor.geometry.output_size
    predictor.logits(torch.zeros(1, *size, 3, dtype=torch.uint8))
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for image_id in image_ids:
            image = store.read_image(image_id, at_least=size)
            ends("read the jpg")
            fitted = torch.from_numpy(predictor.geometry.fit_image(image))[None]
            ends("resize")
            logits = predictor.logits(fitted)
            ends("network")
            edges = Prediction(image_id, store.size(image_id), logits[0], predictor.geometry).edges(0.5)
            ends("enlarge, threshold, find runs")
            rows.append((image_id, run_lengths.format_runs(edges)))
            ends("write the runs")
        shards = PredictionShards(DiskFolder(Path(folder)))
        write_submission(
            *open_file(Path(folder) / "submit.csv.gz"), shards.read([shards.write("key", 0, rows).name])
        )
        ends("shard and submission")
    total = sum(seconds.values())
    table: list[Row] = [
        {"stage": stage, "ms per image": 1000 * spent / len(image_ids), "share": spent / total}
        for stage, spent in seconds.items()
    ]
    report.add(f"Stages of prediction: {task} ({predictor.hardware})", table)


def agree(report: Report, model: TrainedModel, store: ImageStore, image_ids: list[str]) -> None:
    """Compare the masks of both, on the same input and on each one's own input, and score them."""
    size, (network,) = model.input_size, model.build_networks()
    predictors = {
        name: Predictor([network], size, device="cpu", precision=precision)  # type: ignore[arg-type]
        for name, precision in (("this project", "auto"), ("this project in float32", "float32"))
    }
    found: dict[str, dict[str, np.ndarray]] = {
        name: {
            prediction.image_id: prediction.mask(0.5) for prediction in predictor.predict(store, image_ids)
        }
        for name, predictor in predictors.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        found["old style"] = old_style.predict(network, store.images, image_ids, size, Path(folder) / "x.gz")
    found["old style on this project's input"] = _old_style_on_same_input(
        network, predictors["this project"], store, image_ids
    )
    truth = {image_id: store.read_mask(image_id) for image_id in image_ids}
    rows: list[Row] = []
    for name, masks in found.items():
        agreement = [
            mask_scores.dice(masks[image_id], found["this project"][image_id]) for image_id in image_ids
        ]
        scores = [mask_scores.dice(masks[image_id], truth[image_id]) for image_id in image_ids]
        rows.append(
            {
                "masks of": name,
                "Dice with this project": f"{np.mean(agreement):.5f}",
                "lowest": f"{min(agreement):.5f}",
                "Dice with the true mask": f"{np.mean(scores):.5f}",
            }
        )
    report.add(f"Agreement: {model.members[0].architecture}, {len(image_ids)} images", rows)


@torch.no_grad()
def _old_style_on_same_input(
    network: SegmentationNetwork, predictor: Predictor, store: ImageStore, image_ids: list[str]
) -> dict[str, np.ndarray]:
    masks = {}
    network.eval()
    for image_id in image_ids:
        image = store.read_image(image_id, at_least=predictor.geometry.output_size)
        fitted = torch.from_numpy(predictor.geometry.fit_image(image)).permute(2, 0, 1)[None].float() / 255
        probabilities = network(predictor.geometry.pad(fitted)).sigmoid().numpy()[0]
        height, width = store.size(image_id)
        masks[image_id] = cv2.resize(probabilities, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    return masks


def write_rows(report: Report, store: ImageStore, image_ids: list[str], count: int, folder: Path) -> None:
    """Time writing a submission of `count` rows from shards, with each compression library."""
    random = np.random.default_rng(0)
    edges = [run_lengths.find_edges(store.read_mask(image_id)) for image_id in image_ids]
    shards = PredictionShards(DiskFolder(folder / "shards"))
    names = []
    for start in range(0, count, SHARD):
        numbers = range(start, min(count, start + SHARD))
        # The available masks, each shifted by a random number of pixels: just as dense, but never equal.
        rows = [
            (
                f"{number:012x}_01",
                run_lengths.format_runs(np.maximum(edges[number % len(edges)] + random.integers(999), 0)),
            )
            for number in numbers
        ]
        names.append(shards.write("key", start // SHARD, rows).name)
    size = sum(found.size for found in shards.folder.list("key/*.csv").values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table: list[Row] = []
    for name, library in {"standard library": gzip.GzipFile, "ISA-L": _isal()}.items():
        if library is None:
            table.append({"library": name, "note": "not installed"})
            continue
        setattr(stored, "_GzipFile", library)  # noqa: B010
        began, worked = time.perf_counter(), time.process_time()
        rows_written = write_submission(*open_file(folder / "submit.csv.gz"), shards.read(names))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        table.append(
            {
                "library": name,
                "rows": rows_written,
                "s": time.perf_counter() - began,
                "CPU s": time.process_time() - worked,
                "shards, MB": size / 1e6,
                "file, MB": (folder / "submit.csv.gz").stat().st_size / 1e6,
                "peak memory, MB": (memory + grown) / 1e3,
            }
        )
    report.add("Writing a submission from shards", table)


def _isal() -> Any:
    try:
        from isal.igzip import IGzipFile
    except ImportError:
        return None
    return IGzipFile


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--submission", action="store_true", help="measure writing a submission")
    parser.add_argument("--agreement", action="store_true", help="compare masks instead of speeds")
    parser.add_argument("--tiny", action="store_true", help="make everything small, to test this program")
    parser.add_argument("--images", type=Path, help="folder of jpgs")
    parser.add_argument("--masks", type=Path, help="folder of masks named <image>_mask.gif")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("data/06_models/sample/model.pt"),
        help="trained weights, for --agreement",
    )
    parser.add_argument("--count", type=int, default=32, help="number of images")
    return parser.parse_args()


def main() -> None:
    """Run the measurement that the arguments select, and print its tables."""
    arguments = _arguments()
    tiny, report = arguments.tiny, Report(arguments.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = 4 if tiny else arguments.count
        store, image_ids = find_images(arguments.images, arguments.masks, count, tiny, folder)
        if arguments.submission:
            write_rows(report, store, image_ids, 2000 if tiny else TEST_IMAGES, folder)
        elif arguments.agreement:
            agree(report, TrainedModel.from_dict(load_checkpoint(arguments.model)), store, image_ids)
        else:
            task = TINY if tiny else CLASSIC
            compare(report, task, store, image_ids, folder)
            predictor = Predictor([task.network()], task.input_size, device="cpu")
            split(report, predictor, task, store, image_ids[:8])
    report.end()


if __name__ == "__main__":
    main()
