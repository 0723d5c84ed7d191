"""Where decoded images are kept between the epochs of a training."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import CachedSamples, Fill, ImageReader, Keep, Samples, in_memory
from carvana_kedro.segmentation.hardware import free_memory, is_out_of_memory
from carvana_kedro.stores.machine import available_memory, format_size, require_memory

logger = logging.getLogger(__name__)

CacheName = Literal["auto", "none", "memory", "memmap", "device"]

SHARE_BESIDE_NETWORK = 0.4
"""Share of the free memory of the device that `auto` uses at most. The rest is for the network and its gradients."""

SHARE_OF_HOST = 0.8
"""Share of this machine's available memory that `auto` uses at most if the network is on a GPU."""

_CHUNK = 128 * 2**20  # bytes of pinned memory; two chunks are in use at once


class Cache:
    """Decoded images of one source. Runs that share the cache, such as those of the folds, decode each image once.

    Args:
        name: `none`, `memory`, `memmap` (a file), `device` (the memory of the GPU; without a GPU the same as
            `memory`), or `auto`: the device if the images take less than 40 % of its free memory, otherwise the memory
            of this machine if they fit, otherwise none.
        keep_in_file: Keeps the images for `memmap`.
        processes: Number of processes on this machine that keep the same images. They share a file, but each has its
            own memory.
    """

    def __init__(self, name: CacheName, keep_in_file: Keep = in_memory, processes: int = 1) -> None:
        """Store the arguments; images are decoded when they are first asked for."""
        self._name = name
        self._keep_in_file = keep_in_file
        self._processes = processes
        self._known: dict[tuple[Size, tuple[str, ...]], Samples | CachedSamples] = {}

    def choose(
        self, images: ImageReader, image_ids: Sequence[str], geometry: Geometry, device: torch.device
    ) -> CacheName:
        """Return where `samples` would keep images, after a check that all processes of this machine have the memory.

        Nothing is decoded. Of several processes, all should have chosen before one of them decodes.

        Args:
            images: See `samples`.
            image_ids: See `samples`.
            geometry: See `samples`.
            device: See `samples`.

        Raises:
            UserError: There is too little memory.
        """
        samples = Samples(images, image_ids, geometry)
        if (geometry.output_size, tuple(image_ids)) in self._known:  # they have the memory
            return self._name
        if self._name == "auto":
            return choose_cache(samples.nbytes, device, self._processes)
        if self._name == "memory" or (self._name == "device" and device.type != "cuda"):
            each = f" in each of {self._processes} processes" if self._processes > 1 else ""
            require_memory(samples.nbytes * self._processes, f"keeping the images in memory{each}")
        return self._name

    def samples(
        self,
        images: ImageReader,
        image_ids: Sequence[str],
        geometry: Geometry,
        device: torch.device,
        name: CacheName | None = None,
    ) -> Samples | CachedSamples:
        """Return the samples of images, cached if `name` says so.

        Args:
            images: Where images and masks are read.
            image_ids: Ids of the images, in the order of their positions.
            geometry: Geometry whose output size images and masks are resized to.
            device: What the network is trained on.
            name: What `choose` has returned; None: it is called.

        Raises:
            UserError: An image or a mask cannot be read, or the chosen memory is too small.
        """
        key = geometry.output_size, tuple(image_ids)
        if key not in self._known:
            name = name or self.choose(images, image_ids, geometry, device)
            self._known[key] = self._new(Samples(images, image_ids, geometry), device, name)
        return self._known[key]

    def _new(self, samples: Samples, device: torch.device, name: CacheName) -> Samples | CachedSamples:
        if name == "none":
            return samples
        on_gpu = name == "device" and device.type == "cuda"
        keep = self._keep_in_file if name == "memmap" else partial(on_device, device) if on_gpu else in_memory
        return CachedSamples(samples, keep)


def choose_cache(
    nbytes: int, device: torch.device, processes: int = 1
) -> Literal["device", "memory", "none"]:
    """Return what `auto` means for decoded images of this size, and log it.

    Args:
        nbytes: Bytes of all decoded images and targets.
        device: What the network is trained on.
        processes: Number of processes on this machine, each of which keeps all images in memory of its own.
    """
    size = format_size(nbytes)
    if device.type == "cuda" and nbytes < SHARE_BESIDE_NETWORK * (free := free_memory(device)):
        logger.info(
            "cache=auto: device. Decoded, the images take %s of %s of %s", size, format_size(free), device
        )
        return "device"
    available = available_memory() or 0  # unknown: the images may not fit
    share = SHARE_OF_HOST if device.type == "cuda" else SHARE_BESIDE_NETWORK
    choice: Literal["memory", "none"] = "memory" if nbytes * processes < share * available else "none"
    each = f" in each of {processes} processes," if processes > 1 else ""
    logger.info(
        "cache=auto: %s. Decoded, the images take %s%s of %s of memory",
        choice, size, each, format_size(available),
    )  # fmt: skip
    return choice


def on_device(device: torch.device, key: str, shape: tuple[int, int], fill: Fill) -> Tensor:
    """Keep the rows in the memory of a device (a `Keep`, if the device is given).

    They are decoded in chunks, so that the memory of this machine never holds all of them.

    Raises:
        UserError: There is not enough memory.
    """
    count, length = shape
    try:
        rows = torch.empty(shape, dtype=torch.uint8, device=device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"Keeping the images in the memory of {device} needs {format_size(count * length)}, but only "
            f"{format_size(free_memory(device))} is free. Keep them in the memory of this machine (--params "
            "model_training.cache=memory) or where they fit (cache=auto), or choose a smaller "
            "model_training.input_size."
        ) from error
    step = max(1, _CHUNK // length)
    for first in range(0, count, step):
        # Pinned memory is given out again only after the copy from it has ended.
        chunk = torch.empty(min(step, count - first), length, dtype=torch.uint8, pin_memory=rows.is_cuda)
        fill(chunk.numpy(), first)
        rows[first : first + step].copy_(chunk, non_blocking=True)
    return rows
