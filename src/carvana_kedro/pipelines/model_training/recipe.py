"""From a recipe to the objects that it describes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from carvana_kedro import provenance
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.segmentation.architectures import build
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.data.samples import CachedSamples, Samples, in_memory
from carvana_kedro.segmentation.hardware import (
    Hardware,
    measured_peak,
    training_flop,
    usable_workers,
)
from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.monitoring.progress import ProgressBar
from carvana_kedro.segmentation.monitoring.tensorboard import (
    TensorBoardCurves,
    TensorBoardGraph,
    TensorBoardHparams,
    TensorBoardImages,
    TensorBoardScalars,
)
from carvana_kedro.segmentation.training.callbacks import Callback, load_callback
from carvana_kedro.segmentation.training.losses import segmentation_loss
from carvana_kedro.segmentation.training.optimizers import build_ema, build_optimizer, build_schedule
from carvana_kedro.segmentation.training.state import Training
from carvana_kedro.stores.checkpoints import RunCheckpoints
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.pixel_cache import PixelCache, require_memory


def check_recipe(parameters: ModelTraining) -> None:
    """Make sure that a recipe fits its network and this machine, without computing anything.

    Raises:
        UserError: the network cannot take the input size or the batch, the device is not there, or a callback is not.
    """
    choose_hardware(parameters)
    for callback in parameters.callbacks:
        load_callback(callback)
    size = (parameters.input_size.height, parameters.input_size.width)
    part = parameters.batch_size // parameters.accumulation_steps
    with torch.device("meta"):
        network = build(parameters.architecture, width_multiplier=parameters.width_multiplier)
        network.output_size(size)
        try:
            network(torch.empty(part, 3, *size))
        except ValueError as error:
            raise UserError(
                f"{parameters.architecture} cannot learn from batches of {part} image(s) of "
                f"{size[0]} x {size[1]} (height x width): {error}. "
                "Take a larger model_training.batch_size or input_size."
            ) from error


def choose_hardware(parameters: ModelTraining) -> Hardware:
    """Return what the recipe is trained on."""
    return Hardware.choose(
        parameters.device,
        parameters.precision,
        channels_last=parameters.channels_last,
        compile=parameters.compile,
        fused=parameters.fused,
    )


def build_run(
    parameters: ModelTraining,
    images: ImageSource,
    sides: Sequence[Sequence[str]],
    pixel_cache: PixelCache,
    origin: Mapping[str, Any],
) -> tuple[Training, Batches, Batches]:
    """Return a run at its beginning, with its batches to train on and to validate on.

    Args:
        parameters: the recipe.
        images: the source.
        sides: ids of the images to train on, and to validate on.
        pixel_cache: where resized images are kept, if the recipe says so.
        origin: stored with the weights.
    """
    torch.manual_seed(parameters.seed)
    network = build(
        parameters.architecture,
        width_multiplier=parameters.width_multiplier,
        pretrained=parameters.pretrained,
    )
    geometry = Geometry.of(network, (parameters.input_size.height, parameters.input_size.width))
    hardware = choose_hardware(parameters)
    train_batches, validation_batches = _build_batches(
        parameters, images, sides, pixel_cache, geometry, pin_memory=hardware.device.type == "cuda"
    )

    flop = training_flop(network, geometry.input_size)
    network = hardware.place(network)
    average = build_ema(network, parameters.ema_decay) if parameters.ema_decay else None
    if average is not None:
        hardware.place(average.module)  # the copy of a compiled network is not compiled
    optimizer = build_optimizer(
        network.parameters(), **parameters.optimizer.model_dump(), fused=hardware.fused
    )
    steps = parameters.epochs * len(train_batches)
    schedule = parameters.schedule.model_dump(exclude={"warmup_fraction"})
    run = Training(
        network=network,
        geometry=geometry,
        optimizer=optimizer,
        schedule=build_schedule(
            optimizer,
            **schedule,
            total_steps=steps,
            # A run of a few steps has none to spare.
            warmup_steps=min(int(parameters.schedule.warmup_fraction * steps), max(0, steps - 2)),
            mode="min" if parameters.best_by.endswith("loss") else "max",
        ),
        loss=partial(segmentation_loss, **parameters.loss.model_dump()),
        augmentation=Augmentation(**parameters.augmentation.model_dump()),
        hardware=hardware,
        seed=parameters.seed,
        epochs=parameters.epochs,
        description={
            "architecture": parameters.architecture,
            "width_multiplier": parameters.width_multiplier,
            "input_size": list(geometry.input_size),
            "threshold": parameters.threshold,
            **origin,
        },
        about={
            "parameters": parameters.model_dump(mode="json"),
            "hardware": str(hardware),
            "versions": provenance.versions(),
        },
        threshold=parameters.threshold,
        ema=average,
        accumulation_steps=parameters.accumulation_steps,
        clip_gradient_norm=parameters.clip_gradient_norm,
        best_by=parameters.best_by,
        patience=parameters.early_stopping,
        max_skipped_steps=parameters.max_skipped_steps,
        flop=flop,
        peak=measured_peak(hardware),
    )
    return run, train_batches, validation_batches


def build_callbacks(
    parameters: ModelTraining, checkpoints: RunCheckpoints, events: SummaryWriter
) -> list[Callback]:
    """Return ours and the user's own."""
    return [
        ProgressBar(),
        TensorBoardGraph(events),
        TensorBoardScalars(events),
        TensorBoardImages(events, parameters.logged_images),
        TensorBoardCurves(events),
        TensorBoardHparams(events),
        # After ours, so that what is saved is what they were told of; before the user's, which may fail.
        CheckpointSaver(checkpoints, parameters.checkpoint_minutes),
        *map(load_callback, parameters.callbacks),
    ]


def _build_batches(
    parameters: ModelTraining,
    images: ImageSource,
    sides: Sequence[Sequence[str]],
    pixel_cache: PixelCache,
    geometry: Geometry,
    *,
    pin_memory: bool,
) -> list[Batches]:
    """Return the shuffled batches to train on and the ordered ones to validate on, as large as what fits at once."""
    sets: list[Samples | CachedSamples] = [Samples(images, image_ids, geometry) for image_ids in sides]
    if parameters.cache != "none":
        # Whatever the split, the same file: folds share it.
        both = Samples(images, sorted(image_id for image_ids in sides for image_id in image_ids), geometry)
        if parameters.cache == "memory":
            require_memory(both.nbytes, "keeping the images in memory")
        kept = partial(pixel_cache.rows, f"{images.fingerprint()}-{provenance.decoding_digest()}")
        keep = kept if parameters.cache == "memmap" else in_memory
        cached = CachedSamples(both, keep)
        sets = [cached.subset(image_ids) for image_ids in sides]
    sizes = parameters.batch_size, parameters.batch_size // parameters.accumulation_steps
    workers = usable_workers(parameters.num_workers)
    return [
        Batches(side, size, seed=seed, num_workers=workers, pin_memory=pin_memory)
        for side, size, seed in zip(sets, sizes, (parameters.seed, None), strict=True)
    ]
