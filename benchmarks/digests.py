"""Measure what the fingerprint of a source costs, with and without remembered digests.

Run `python -m benchmarks.digests [--images FOLDER --masks FOLDER] [--files N]`. It prints JSON. The first measurement
is of the competition's images and masks in these folders; the second of N tiny files, which shows the cost per file.
`names_and_sizes` is a fingerprint without contents, for comparison.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from carvana_kedro.stores.digests import Digests
from carvana_kedro.stores.images.competition import ImageStore

_SETTLED = 2.5  # seconds; digests of files that have just changed are not remembered


def measure(images: Path, masks: Path | None, work: Path) -> dict[str, float]:
    """Return the number and size of the files, and the seconds that fingerprints of them take."""
    time.sleep(_SETTLED)
    memory = work / f"{time.time_ns()}.sqlite"

    def opened() -> ImageStore:
        return ImageStore(images, masks, digests=Digests(memory))

    sizes = [path.stat().st_size for folder in filter(None, (images, masks)) for path in folder.iterdir()]
    kept = opened()
    return {
        "files": len(sizes),
        "megabytes": round(sum(sizes) / 1e6, 1),
        "names_and_sizes": seconds(lambda: names_and_sizes(opened())),
        "nothing_remembered": seconds(opened().fingerprint),
        "remembered": seconds(kept.fingerprint),
        "again_in_this_process": seconds(kept.fingerprint),
        "memory_megabytes": round(memory.stat().st_size / 1e6, 1),
    }


def names_and_sizes(store: ImageStore) -> str:
    """Return a hash of the names and sizes of the files."""
    files = [*store.images.glob("*.jpg"), *(store.masks.glob("*_mask.gif") if store.masks else ())]
    listing = sorted((file.name, file.stat().st_size) for file in files)
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return round(time.perf_counter() - began, 2)


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--masks", type=Path, help="folder of their masks")
    parser.add_argument("--files", type=int, default=100_064, help="number of tiny files")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if arguments.images:
            results["photographs"] = measure(arguments.images, arguments.masks, work)
        (work / "tiny").mkdir()
        for number in range(arguments.files):
            (work / f"tiny/{number:012x}_01.jpg").write_bytes(b"%d" % number)
        results["tiny"] = measure(work / "tiny", None, work)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
