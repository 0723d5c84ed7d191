"""Writes a rendered competition in the same files as Kaggle's."""

import csv
import functools
import hashlib
import io
import itertools
import logging
import multiprocessing
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
from PIL import Image
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.stores.processes import end_with_parent

from .render import render_view
from .settings import STUDIO_VERSION, VARIETY_VERSION, StudioSettings, car_id, generator

logger = logging.getLogger(__name__)

_JPEG_QUALITY = 85
_LAST_FILE = "solution.csv.zip"  # the competition is complete when this file exists
_MAKES = ("Halvorn", "Zephyrine", "Oktavia Motor", "Brumblefield", "Quillon", "Tarsova", "Wexmoor", "Lumenti")
_MODELS = (
    "Otter",
    "Parallax",
    "Mistral 9",
    "Kestrel",
    "Nimbus",
    "Ferrule",
    "Solstice X",
    "Cobalt Jr",
    "Marrow",
)
_TRIMS = ("Base", "S", "LX", "Touring", "Sport", "Limited")
_METADATA_FIELDS = ("id", "year", "make", "model", "trim1", "trim2")
_MASK_FIELDS = ("img", "rle_mask")

Shot = tuple[int, int]
"""Car and view."""
Encoded = tuple[bytes, bytes, str]
"""A jpg, a gif of the mask, and the mask's run lengths."""


def sample_folder(path: Path, settings: StudioSettings) -> Path:
    """Return the subfolder of `path` that belongs to these settings and this version of the studio."""
    plain = asdict(settings)
    del plain["variety"]  # so that settings without variety keep the key that they had before there was any
    listed = ", ".join(f"{name}={value!r}" for name, value in plain.items())
    variety = f" {VARIETY_VERSION} {'+'.join(sorted(settings.kinds))}" if settings.kinds else ""
    text = f"{STUDIO_VERSION} StudioSettings({listed}){variety}"
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return path / f"rendered-{key}"


def render_sample(settings: StudioSettings, folder: Path) -> None:
    """Render the competition into `folder` with a progress bar, unless a complete one is there."""
    if (folder / _LAST_FILE).is_file():
        return
    logger.info("Rendering the sample into %s", folder)
    # disable=None: no bar without a terminal.
    with tqdm(desc="Rendering", unit=" images", leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        render_competition(settings, folder, on_image=show)


def render_competition(
    settings: StudioSettings,
    folder: Path,
    *,
    num_workers: int | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> None:
    """Render all images of the competition and write archives like Kaggle's into `folder`.

    The bytes of the files depend only on the settings, not on the number of workers. Each file is written atomically.

    Args:
        settings: Settings of the competition.
        folder: Created if it does not exist. Archives with the same names are replaced.
        num_workers: Number of processes that render. None: one per usable core. 1: only this process.
        on_image: Called with (number of written images, number of all images).

    Raises:
        ValueError: If `num_workers` is below 1.
    """
    num_workers = usable_cores() if num_workers is None else num_workers
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, not {num_workers}")
    folder.mkdir(parents=True, exist_ok=True)
    training = _shots(settings, range(settings.training_cars))
    test = _shots(settings, range(settings.training_cars, settings.cars))
    done, total = itertools.count(1), len(training) + len(test)
    training_rows, test_rows = [], []

    with ExitStack() as stack:
        images, masks, test_images = (
            stack.enter_context(_archive(folder / name))
            for name in ("train.zip", "train_masks.zip", "test.zip")
        )
        encoded = stack.enter_context(_encode_all(settings, training + test, num_workers))
        for (car, view), (jpeg, gif, runs) in zip(training + test, encoded, strict=True):
            name = f"{car_id(settings, car)}_{view:02d}"
            if car < settings.training_cars:
                _add(images, f"train/{name}.jpg", jpeg)
                _add(masks, f"train_masks/{name}_mask.gif", gif)
                training_rows.append((f"{name}.jpg", runs))
            else:
                _add(test_images, f"test/{name}.jpg", jpeg)
                test_rows.append((f"{name}.jpg", runs))
            if on_image is not None:
                on_image(next(done), total)

    _write_table(folder / "train_masks.csv.zip", _MASK_FIELDS, training_rows)
    _write_table(folder / "metadata.csv.zip", _METADATA_FIELDS, _metadata(settings))
    _write_table(folder / "sample_submission.csv.zip", _MASK_FIELDS, ((name, "1 1") for name, _ in test_rows))
    _write_table(folder / _LAST_FILE, _MASK_FIELDS, test_rows)


def _shots(settings: StudioSettings, cars: Iterable[int]) -> list[Shot]:
    """Return all shots of these cars, sorted by file name."""
    by_name = sorted(cars, key=lambda car: car_id(settings, car))
    return [(car, view) for car in by_name for view in range(1, settings.views + 1)]


@contextmanager
def _encode_all(settings: StudioSettings, shots: list[Shot], num_workers: int) -> Iterator[Iterable[Encoded]]:
    """Yield an iterable of all encoded shots, in order."""
    encode = functools.partial(_encode, settings)
    if num_workers == 1:
        yield map(encode, shots)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_init_worker) as pool:
        try:
            # All views of a car are rendered in one process, which builds the car once.
            yield pool.map(encode, shots, chunksize=settings.views)
        except BrokenProcessPool as error:
            raise UserError(
                "A process that renders the sample was killed. The usual cause is too little memory. Free some memory "
                "and run again, or use other images: --params source=NAME"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _init_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)


def _encode(settings: StudioSettings, shot: Shot) -> Encoded:
    """Render and encode one shot."""
    image, mask = render_view(settings, *shot)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    )
    gif = Image.fromarray(mask)
    gif.putpalette((0, 0, 0, 255, 255, 255))
    stream = io.BytesIO()
    gif.save(stream, "GIF", optimize=False)
    return jpeg.tobytes(), stream.getvalue(), run_lengths.encode(mask)


def _metadata(settings: StudioSettings) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for car in range(settings.cars):
        rng = generator(settings, car, 0, 1)
        make, model, trim = (names[rng.integers(len(names))] for names in (_MAKES, _MODELS, _TRIMS))
        rows.append((car_id(settings, car), int(rng.integers(2003, 2017)), make, model, trim, f"{trim} 4dr"))
    return sorted(rows)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:
        yield archive


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Add a file with metadata that depends neither on the time nor on the machine."""
    entry = zipfile.ZipInfo(name, date_time=(2017, 7, 25, 0, 0, 0))
    entry.create_system, entry.external_attr, entry.compress_type = 3, 0o644 << 16, compression
    archive.writestr(entry, content)


def _write_table(path: Path, fields: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(itertools.chain((fields,), rows))
    with _archive(path) as archive:
        _add(archive, path.name.removesuffix(".zip"), text.getvalue().encode(), zipfile.ZIP_DEFLATED)
