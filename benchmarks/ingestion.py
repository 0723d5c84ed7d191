"""Measure unpacking and indexing at the competition's full number of images.

Run `python -m benchmarks.ingestion [--folder PATH] [--json]`. It needs 3 GB of disk. The studio renders one car at full
size. Every image is one of the car's 16 views, with its own name and its own bytes, so the sizes, formats and numbers
of files match the real archives. Each measurement runs in a separate process, so that its peak memory is its own. Each
is made twice: with a quarter of the images, and with all of them.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from carvana_kedro.image_index import index_images
from carvana_kedro.stores.archives import unpack
from carvana_kedro.stores.competition import open_side
from carvana_kedro.studio import StudioSettings, render_competition

TRAINING_CARS, TEST_CARS, VIEWS = 318, 6254, 16


def names(cars: int) -> Iterator[tuple[str, int]]:
    """Yield the image id and the view (counted from 0) of every image of `cars` cars."""
    for car in range(cars):
        for view in range(VIEWS):
            yield f"{car * 0x9E3779B97F4A % 2**48:012x}_{view + 1:02d}", view


def with_comment(jpeg: bytes, name: str) -> bytes:
    """Return the same jpg with different bytes: a comment with its name follows the first marker."""
    comment = name.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]


def write_archives(folder: Path, cars: int, test_cars: int) -> None:
    """Write train.zip, train_masks.zip and train_masks.csv, and a folder test/ with small images."""
    folder.mkdir(parents=True)
    one = folder.parent / "one"
    if not one.exists():
        render_competition(StudioSettings(training_cars=1, test_cars=1), one)
    with zipfile.ZipFile(one / "train.zip") as archive:
        views = [archive.read(member) for member in archive.infolist()]
    with zipfile.ZipFile(one / "train_masks.zip") as archive:
        masks = [archive.read(member) for member in archive.infolist()]
    with zipfile.ZipFile(one / "train_masks.csv.zip") as archive:
        runs = [line.partition(",")[2] for line in archive.read("train_masks.csv").decode().splitlines()[1:]]
    with (
        zipfile.ZipFile(folder / "train.zip", "w") as train,
        zipfile.ZipFile(folder / "train_masks.zip", "w") as train_masks,
        (folder / "train_masks.csv").open("w") as table,
    ):
        table.write("img,rle_mask\n")
        for name, view in names(cars):
            train.writestr(f"train/{name}.jpg", with_comment(views[view], name))
            train_masks.writestr(f"train_masks/{name}_mask.gif", masks[view])
            table.write(f"{name}.jpg,{runs[view]}\n")
    (folder / "test").mkdir()
    with (folder / "sample_submission.csv").open("w") as table:
        table.write("img,rle_mask\n")
        for name, _ in names(test_cars):
            # Indexing reads only the header and the end of test images.
            (folder / "test" / f"{name}.jpg").write_bytes(views[0][:2000] + views[0][-2:])
            table.write(f"{name}.jpg,1 1\n")


def unpack_train(folder: Path) -> int:
    """Unpack train.zip and return the number of images."""
    return sum(1 for _ in unpack(folder / "train.zip", folder / "unpacked").glob("*.jpg"))


def unpack_masks(folder: Path) -> int:
    """Unpack train_masks.zip and return the number of masks."""
    return sum(1 for _ in unpack(folder / "train_masks.zip", folder / "unpacked").glob("*.gif"))


def index_training(folder: Path) -> int:
    """Index the training images and compare 5 % of the masks with the table; return the number of images."""
    return len(index_images(open_side(folder, folder / "unpacked", "training"), 0.05))


def index_training_all(folder: Path) -> int:
    """Index the training images and compare all masks with the table; return the number of images."""
    return len(index_images(open_side(folder, folder / "unpacked", "training"), 1.0))


def index_test(folder: Path) -> int:
    """Index the test images and return their number."""
    return len(index_images(open_side(folder, folder / "unpacked", "test")))


STAGES = (unpack_train, unpack_masks, index_training, index_training_all, index_test)


def measure(
    stage: Callable[[Path], int], folder: Path, results: "multiprocessing.Queue[tuple[float, ...]]"
) -> None:
    """Run a stage and put (images, seconds, peak memory in MB) into the queue."""
    began = time.perf_counter()
    images = stage(folder)
    seconds = time.perf_counter() - began
    # Linux counts in kB, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    results.put((images, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit))


def main() -> None:
    """Measure every stage and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder for temporary files, on the disk to measure")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=arguments.folder))
    spawn = multiprocessing.get_context("spawn")
    rows = []
    try:
        for share in (4, 1):
            folder = work / f"share-{share}"
            write_archives(folder, TRAINING_CARS // share, TEST_CARS // share)
            for stage in STAGES:
                results = spawn.Queue()
                process = spawn.Process(target=measure, args=(stage, folder, results))
                process.start()
                images, seconds, memory = results.get()
                process.join()
                row = {"stage": stage.__name__, "images": images, "seconds": round(seconds, 2)}
                rows.append(
                    row | {"images_per_second": round(images / seconds), "peak_memory_mb": round(memory)}
                )
    finally:
        shutil.rmtree(work)
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    sys.stdout.write("| stage | images | seconds | images/s | peak memory, MB |\n|---|---:|---:|---:|---:|\n")
    for row in rows:
        sys.stdout.write(f"| {' | '.join(str(value) for value in row.values())} |\n")


if __name__ == "__main__":
    main()
