"""From a recipe to a training run: the one place that knows what a recipe's values mean."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import ARCHITECTURES, SegmentationNetwork, build_network
from carvana_kedro.segmentation.architectures.global_batch_norm import CONVERTED, GlobalBatchNorm
from carvana_kedro.segmentation.data.augmentation import Augmentation
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.cache import Cache, CacheName
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import CachedSamples, ImageReader, Samples
from carvana_kedro.segmentation.extensions import Spec
from carvana_kedro.segmentation.hardware import (
    Hardware,
    choose_device,
    measured_peak,
    training_flop,
    usable_workers,
)
from carvana_kedro.segmentation.model import Member
from carvana_kedro.segmentation.training.average import WeightAverage
from carvana_kedro.segmentation.training.callbacks import load_callback
from carvana_kedro.segmentation.training.distributed import ALONE, World, replicate
from carvana_kedro.segmentation.training.losses import build_loss
from carvana_kedro.segmentation.training.optimizers import build_optimizer, build_schedule
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Training
from carvana_kedro.segmentation.training.warm_start import fitting_weights, load_start, read_start

logger = logging.getLogger(__name__)

_BY_NEED: tuple[CacheName, ...] = ("auto", "device", "memory", "memmap", "none")
"""Where decoded images are kept: of several choices, all processes take the last one. `auto` is decided already."""


class Run(NamedTuple):
    """A training run with its batches."""

    training: Training
    train_batches: Batches
    validation_batches: Batches


def check_recipe(recipe: Recipe) -> None:
    """Check that a recipe fits its network and this machine, without training.

    Raises:
        UserError: The network does not take the input size or the batch, the device is missing, a file of weights
            does not fit, or a network, loss, optimizer or callback cannot be built.
    """
    choose_hardware(recipe)
    devices = count_devices(recipe)
    for callback in recipe.callbacks:
        load_callback(callback)
    _check_optimizer(recipe)
    _check_loss(build_loss(recipe.loss), recipe.loss)
    network = _network_on_meta(recipe)
    output_size = _geometry(network, recipe).output_size
    if recipe.init_from:
        fitting_weights(network, recipe.architecture, read_start(recipe.init_from))
    elif isinstance(recipe.pretrained, str):
        build_network(
            recipe.architecture, width_multiplier=recipe.width_multiplier, pretrained=recipe.pretrained
        )
    elif recipe.pretrained:
        network.check_pretrained()
    part = recipe.batch_size // recipe.accumulation_steps
    if recipe.batch_norm == "local":  # each process normalizes its share by itself
        part //= devices * recipe.nodes
    if _is_own(recipe.architecture):
        _check_forward(network, recipe, torch.empty(part, 3, *recipe.input_size, device="meta"), output_size)
    else:
        # Other people's networks may not run on the meta device: one image, computed for real. If each part of a batch
        # is one image, BatchNorm may have too few values to train, so the network computes as in training.
        network = build_network(recipe.architecture).train(part == 1)
        with torch.no_grad():
            _check_forward(network, recipe, torch.zeros(1, 3, *recipe.input_size), output_size)


def choose_hardware(recipe: Recipe) -> Hardware:
    """Return the hardware that the recipe asks for.

    Raises:
        UserError: This machine does not have it.
    """
    return Hardware.choose(
        recipe.device,
        recipe.precision,
        channels_last=recipe.channels_last,
        compile=recipe.compile,
        fused=recipe.fused,
    )


def count_devices(recipe: Recipe, images: int | None = None) -> int:
    """Return the number of processes that train together on this machine.

    Args:
        recipe: How to train.
        images: Number of training images. `auto` takes no more processes than can share a batch of them; None: the
            number does not matter.

    Raises:
        UserError: There are fewer GPUs than the recipe asks for, or the device cannot be used by several processes.
    """
    device = choose_device(recipe.device)
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if recipe.devices == "auto":
        batch = min(recipe.batch_size, images or recipe.batch_size)
        part = -(-batch // recipe.accumulation_steps)
        smallest = batch % part or part  # only the last part may be smaller
        return max(1, min(gpus, smallest // recipe.nodes))
    if gpus and recipe.devices > gpus:
        raise UserError(
            f"model_training.devices={recipe.devices}, but this machine has {gpus} GPU(s) for {device}. Choose "
            f"devices=auto, or device=cpu."
        )
    if device.type == "mps" and recipe.devices * recipe.nodes > 1:
        raise UserError(
            "Several processes cannot train on mps. Choose model_training.devices=1, or device=cpu."
        )
    return recipe.devices


def output_size(recipe: Recipe) -> Size:
    """Return the (height, width) of the network's logits.

    Raises:
        UserError: The network does not take the recipe's input size.
    """
    return _network_on_meta(recipe).output_size(recipe.input_size)


def build_run(
    recipe: Recipe,
    images: ImageReader,
    sides: Sequence[Sequence[str]],
    *,
    origin: Mapping[str, Any],
    about: Mapping[str, Any],
    cache: Cache | None = None,
    start: Member | None = None,
    world: World = ALONE,
) -> Run:
    """Build a run at its beginning.

    Args:
        recipe: How to train.
        images: Where images and masks are read.
        sides: Ids of the training images, and of the validation images.
        origin: Plain values that are stored with the weights: `run_id`, `source`, `validation_cars`, `trained_on`.
        about: Plain values that every checkpoint holds.
        cache: Keeps decoded images, for this run and others with the same images; None: as the recipe says, for this
            run alone.
        start: Model to start from; None: that of `recipe.init_from`, if there is one.
        world: The processes that train together. All of them call this function.

    Raises:
        UserError: The recipe does not fit the network, the machine or the processes, or an image cannot be read.
    """
    torch.manual_seed(recipe.seed)
    with world.together():
        network = _first_network(recipe, start)
        geometry = _geometry(network, recipe)
        flop = _flop(network, geometry.input_size)
        hardware = choose_hardware(recipe)
        batch_size = min(recipe.batch_size, len(sides[0]))
        _check_shares(recipe, batch_size, world)
        cache = cache or Cache(recipe.cache, processes=world.local_size)
    samples = _build_samples(cache, images, sides, geometry, hardware, world)
    train_batches, validation_batches = _build_batches(recipe, samples, hardware, world)
    training = build_training(
        recipe,
        network,
        geometry,
        hardware,
        steps_per_epoch=len(train_batches),
        batch_size=batch_size,
        origin=origin,
        about=about,
        world=world,
    )
    training.flop, training.peak = flop, world.size * measured_peak(hardware)
    return Run(training, train_batches, validation_batches)


def build_training(
    recipe: Recipe,
    network: SegmentationNetwork,
    geometry: Geometry,
    hardware: Hardware,
    *,
    steps_per_epoch: int,
    batch_size: int = 0,
    origin: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    world: World = ALONE,
) -> Training:
    """Put a network on the hardware, and build all that trains it.

    Args:
        recipe: How to train.
        network: With its first weights. It is moved to the device.
        geometry: Of the network at its input size.
        hardware: What to compute on.
        steps_per_epoch: Steps of the optimizer in an epoch.
        batch_size: Images per step in all processes; 0, for one process only: those that it receives.
        origin: See `build_run`.
        about: See `build_run`.
        world: See `build_run`.

    Raises:
        UserError: The optimizer, schedule or loss cannot be built.
    """
    if world.size > 1 and recipe.batch_norm == "global":
        network = _with_global_batch_norm(network, world, hardware.device)
    network = hardware.place(network)
    ema = WeightAverage(network, recipe.ema_decay) if recipe.ema_decay else None
    if ema is not None:
        hardware.place(ema.module)  # the copy of a compiled network is not compiled
    _check_optimizer_keys(recipe)
    optimizer = build_optimizer(network.parameters(), **recipe.optimizer, fused=hardware.fused)
    loss = build_loss(recipe.loss)
    if world.size > 1:
        _check_loss_of_several(loss, recipe.loss)
    if isinstance(loss, nn.Module):
        loss = loss.to(hardware.device)
    return Training(
        network=network,
        geometry=geometry,
        optimizer=optimizer,
        schedule=_build_schedule(recipe, optimizer, recipe.epochs * steps_per_epoch),
        loss=loss,
        augmentation=Augmentation(**recipe.augmentation),
        hardware=hardware,
        seed=recipe.seed,
        epochs=recipe.epochs,
        description={
            "architecture": recipe.architecture,
            "width_multiplier": recipe.width_multiplier,
            "input_size": list(geometry.input_size),
            "threshold": recipe.threshold,
            **(origin or {}),
        },
        about={**(about or {}), "hardware": _describe(hardware, world)},
        threshold=recipe.threshold,
        ema=ema,
        accumulation_steps=recipe.accumulation_steps,
        batch_size=batch_size,
        clip_gradient_norm=recipe.clip_gradient_norm,
        best_by=recipe.best_by,
        patience=recipe.early_stopping,
        max_skipped_steps=recipe.max_skipped_steps,
        world=world,
        replica=replicate(network, world),
    )


def _with_global_batch_norm(
    network: SegmentationNetwork, world: World, device: torch.device
) -> SegmentationNetwork:
    """Return the network with BatchNorm's statistics taken over all processes; the names of its weights stay.

    Raises:
        UserError: The network has a BatchNorm of another class, which would lose what that class adds.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in (*CONVERTED, nn.SyncBatchNorm):
            raise UserError(
                f"model_training.batch_norm=global does not support {type(module).__name__} ({name}) of the "
                f"architecture. Choose model_training.batch_norm=local, or devices=1."
            )
    if device.type == "cuda":
        converted: SegmentationNetwork = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    GlobalBatchNorm.convert(network, world.sum)
    return network


def _describe(hardware: Hardware, world: World) -> str:
    return str(hardware) if world.size == 1 else f"{hardware}, {world.size} processes"


def _check_shares(recipe: Recipe, batch_size: int, world: World) -> None:
    """Check that each process gets an image of each part of a batch."""
    last = replace(world, rank=world.size - 1)
    if 0 in last.share_sizes(batch_size, recipe.accumulation_steps):
        raise UserError(
            f"A batch of {batch_size} images in {recipe.accumulation_steps} part(s) has too few images for "
            f"{world.size} processes: each needs one of each part. Choose fewer model_training.devices or "
            "accumulation_steps, or a larger batch_size."
        )


def _first_network(recipe: Recipe, start: Member | None) -> SegmentationNetwork:
    """Return the network with its first weights."""
    if start is None and recipe.init_from:
        start = read_start(recipe.init_from)
    pretrained = start is None and recipe.pretrained
    network = build_network(
        recipe.architecture, width_multiplier=recipe.width_multiplier, pretrained=pretrained
    )
    if start is not None:
        load_start(network, recipe.architecture, start)
    return network


def _build_schedule(recipe: Recipe, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    options = {"name": "constant", **recipe.schedule}
    # A run of a few steps keeps two of them after the warm-up.
    warmup_steps = min(int(options.pop("warmup_fraction", 0.0) * total_steps), max(0, total_steps - 2))
    mode: Literal["min", "max"] = "min" if recipe.best_by.endswith("loss") else "max"
    return build_schedule(optimizer, **options, total_steps=total_steps, warmup_steps=warmup_steps, mode=mode)


def _build_samples(
    cache: Cache,
    images: ImageReader,
    sides: Sequence[Sequence[str]],
    geometry: Geometry,
    hardware: Hardware,
    world: World,
) -> list[Samples | CachedSamples]:
    """Return the samples of each side. All processes keep them in the same way."""
    # Cached together: then folds, which have other sides but the same images, share the cache.
    image_ids = sorted(image_id for side in sides for image_id in side)
    arguments = images, image_ids, geometry, hardware.device
    with world.together():
        chosen = cache.choose(*arguments)
    # Nobody decodes before all have measured their memory.
    agreed = _BY_NEED[world.agree(_BY_NEED.index(chosen))]
    if agreed != chosen:
        logger.info("cache=%s: another process has less memory", agreed)
    with world.together():
        everything = cache.samples(*arguments, agreed)
    return [everything.subset(side) for side in sides]


def _build_batches(
    recipe: Recipe, samples: Sequence[Samples | CachedSamples], hardware: Hardware, world: World
) -> tuple[Batches, Batches]:
    """Return the shuffled training batches, and the ordered validation batches of the size that fits at once.

    A process takes its share of each training batch, and every so many validation batches as a whole.
    """
    build = partial(
        Batches,
        num_workers=usable_workers(recipe.num_workers, world.local_size),
        pin_memory=hardware.device.type == "cuda",
    )
    train, validation = samples

    def share(batches: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        return [world.share(batch, recipe.accumulation_steps) for batch in batches]

    return (
        build(train, recipe.batch_size, seed=recipe.seed, deal=share),
        build(validation, recipe.batch_size // recipe.accumulation_steps, deal=world.deal),
    )


def _check_loss_of_several(loss: Callable[[Tensor, Tensor], Tensor], spec: Mapping[str, Any]) -> None:
    """Check that a loss that depends on the whole batch can be computed by several processes."""
    if for_batch := getattr(loss, "for_batch", None):
        try:
            inspect.signature(for_batch).bind("targets", "mean")
        except TypeError as error:
            raise UserError(
                f"The loss {spec.get('type')} cannot be trained by several processes: for_batch must also take a "
                "function `mean`, which returns the mean over the values of all of them. Or set "
                "model_training.devices=1."
            ) from error


def _is_own(architecture: Spec) -> bool:
    return isinstance(architecture, str) and architecture in ARCHITECTURES


def _flop(network: SegmentationNetwork, input_size: Size) -> float:
    try:
        return training_flop(network, input_size)
    except Exception:  # other people's networks may not run on the meta device
        return 0.0


def _network_on_meta(recipe: Recipe) -> SegmentationNetwork:
    """Return the network without weights, for questions about its sizes."""
    if _is_own(recipe.architecture):
        with torch.device("meta"):
            return build_network(recipe.architecture, width_multiplier=recipe.width_multiplier)
    # Other people's constructors may compute with real numbers.
    return build_network(recipe.architecture, width_multiplier=recipe.width_multiplier).to("meta")


def _check_forward(network: SegmentationNetwork, recipe: Recipe, images: Tensor, output_size: Size) -> None:
    count, _, height, width = images.shape
    try:
        logits = network(images)
    except Exception as error:  # the user's code may raise anything
        images_of = f"{count} image(s) of {height} x {width} (height x width)"
        if network.training and isinstance(error, ValueError):  # BatchNorm has one value per channel
            raise UserError(
                f"{recipe.architecture} cannot be trained on batches of {images_of}: {error}. Choose a larger "
                "model_training.batch_size or input_size."
            ) from error
        raise UserError(
            f"{recipe.architecture} fails for {images_of}: {type(error).__name__}: {error}. Correct the network, or "
            "choose another model_training.input_size."
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (count, *output_size):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"{recipe.architecture} returns {found} for {count} image(s) of {height} x {width}, but its output_size "
            f"requires {(count, *output_size)}: forward must return one logit per pixel, (N, h, w)."
        )


def _geometry(network: SegmentationNetwork, recipe: Recipe) -> Geometry:
    try:
        return Geometry.of(network, recipe.input_size)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"{recipe.architecture} does not fit the input size {recipe.input_size[0]} x {recipe.input_size[1]} "
            f"(height x width): {type(error).__name__}: {error}. See SegmentationNetwork.stride and output_size."
        ) from error


def _check_optimizer_keys(recipe: Recipe) -> None:
    if reserved := {"lr", "fused", "parameters", "params"} & recipe.optimizer.keys():
        raise UserError(
            f"model_training.optimizer has {', '.join(sorted(reserved))}, which the training sets itself. Remove it: "
            "the learning rate is learning_rate, and fused is model_training.fused."
        )


def _check_optimizer(recipe: Recipe) -> None:
    """Check that the optimizer can be built and can step as the training loop does."""
    _check_optimizer_keys(recipe)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([weight], **recipe.optimizer)
    weight.grad = torch.ones(1)
    try:
        optimizer.step()
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"The optimizer {recipe.optimizer['name']} cannot step: {type(error).__name__}: {error}. The training loop "
            "calls step() without arguments, with dense gradients."
        ) from error


def _check_loss(loss: Callable[[Tensor, Tensor], Tensor], spec: Mapping[str, Any]) -> None:
    if "type" not in spec:
        return
    if isinstance(loss, nn.Module) and loss.state_dict():
        raise UserError(
            f"The loss {spec['type']} has parameters or buffers ({', '.join(loss.state_dict())}). They would not be "
            "trained or resumed. Compute them from the arguments, or register buffers with persistent=False."
        )
    logits = torch.zeros(2, 8, 8, requires_grad=True)
    try:
        value = loss(logits, torch.zeros(2, 8, 8))
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"The loss {spec['type']} fails for logits and targets of shape (2, 8, 8): {type(error).__name__}: {error}."
        ) from error
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
        raise UserError(
            f"The loss {spec['type']} must return a scalar tensor that depends on the logits: the mean over the images."
        )
