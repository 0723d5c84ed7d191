"""Parts that measure prediction: the network alone, from jpgs to the rows of a submission, and decoding."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.roofline import Work
from benchmarks.gpu.steps import CLASSIC, DOUBLED
from benchmarks.measuring import Row, race, repeat, synchronize
from benchmarks.prediction import TEST_IMAGES, predict
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.competition import ImageStore

BATCH = 16

R = TypeVar("R")
T = TypeVar("T")


def network_alone(bench: Bench) -> Iterator[Row]:
    """Measure the network of unet_1024 on a batch that is on the device."""
    for size in (CLASSIC, DOUBLED):
        task = bench.task("unet_1024", size)
        predictor = Predictor([task.network()], task.input_size)
        shape = (task.batch_size, *predictor.geometry.output_size, 3)
        batch = torch.randint(256, shape, dtype=torch.uint8, device=bench.hardware.device)
        rounds = 1 if bench.tiny else 20
        contender = partial(repeat, rounds, partial(predictor.logits, batch))
        timing = race({"": contender}, rounds=2)[""]
        speed, allowed = rounds * len(batch) / timing.best, bench.ceilings.prediction_speed(Work.of(task))
        yield {
            "what": f"network alone, {task}",
            "images/s": speed,
            "roofline, images/s": allowed,
            "share of roofline": speed / allowed,
        }


def end_to_end(bench: Bench) -> Iterator[Row]:
    """Measure from full-size jpgs to the rows of a submission."""
    store = bench.held_out_images
    ids = bench.repeated(store.ids(), 1536)
    for size, workers in ((CLASSIC, 0), (DOUBLED, 0), (CLASSIC, bench.num_workers)):
        task = bench.task("unet_1024", size)
        predictor = Predictor([task.network()], task.input_size)
        with tempfile.TemporaryDirectory() as name:
            run = partial(predict, predictor, store, folder=Path(name), batch_size=BATCH, num_workers=workers)
            run(image_ids=ids[:64])
            synchronize()
            began = time.perf_counter()
            run(image_ids=ids)
            speed = len(ids) / (time.perf_counter() - began)
        yield {
            "what": f"from jpgs to rows, {task}",
            "images": len(ids),
            "read by": f"{workers} processes" if workers else "threads of this process",
            "images/s": speed,
            f"minutes for {TEST_IMAGES} images": TEST_IMAGES / speed / 60,
        }


def decoding(bench: Bench) -> Iterator[Row]:
    """Measure decoding full-size jpgs by OpenCV, alone and with resizing, and by torchvision (nvJPEG on CUDA)."""
    store = bench.held_out_images
    ids = bench.repeated(store.ids(), 240)
    files = [np.fromfile(store.images / f"{image_id}.jpg", np.uint8) for image_id in ids]
    device, threads = bench.hardware.device, bench.num_workers
    geometry = bench.task("unet_1024", DOUBLED).geometry
    decoders: dict[str, Callable[[], object]] = {
        "OpenCV, one thread": lambda: _in_threads(_shape, files, 1),
        f"OpenCV, {threads} threads": lambda: _in_threads(_shape, files, threads),
        f"OpenCV, {threads} threads, resized to {geometry.output_size[0]} x {geometry.output_size[1]}": (
            lambda: _in_threads(partial(_fit, store, geometry), ids, threads)
        ),
        f"torchvision on {device}": lambda: _by_torchvision(files, device),
    }
    for name, timing in race(decoders, rounds=2).items():
        yield {"what": "decoding", "decoder": name, "images/s": len(files) / timing.best}
    pixels, (others,) = _decode(files[0]), _by_torchvision(files[:1], device)
    difference = np.abs(pixels.astype(int) - others.permute(1, 2, 0).cpu().numpy())
    yield {
        "what": "difference of the two decoders",
        "mean": float(difference.mean()),
        "highest": int(difference.max()),
    }


def _in_threads(work: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def _decode(content: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR_RGB))


def _shape(content: np.ndarray) -> tuple[int, ...]:
    return _decode(content).shape  # keeping the pixels would take gigabytes


def _fit(store: ImageStore, geometry: Geometry, image_id: str) -> tuple[int, ...]:
    return geometry.fit_image(store.read_image(image_id, at_least=geometry.output_size)).shape


def _by_torchvision(files: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    contents = [torch.from_numpy(content) for content in files]
    decoded: list[Tensor] = []
    for start in range(0, len(contents), 60):  # all at once would need several gigabytes
        decoded = decode_jpeg(contents[start : start + 60], ImageReadMode.RGB, device=device)
    return decoded
