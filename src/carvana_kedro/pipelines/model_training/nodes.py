"""Nodes of the model_training pipeline."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from carvana_kedro import provenance
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import check_source
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.segmentation import metrics
from carvana_kedro.segmentation.architectures import SegmentationNetwork, build
from carvana_kedro.segmentation.augmentation import Augmentation
from carvana_kedro.segmentation.batches import Batches, CachedSamples, Samples
from carvana_kedro.segmentation.callbacks import (
    CheckpointSaver,
    ProgressBar,
    TensorBoardPictures,
    TensorBoardScalars,
)
from carvana_kedro.segmentation.geometry import Geometry
from carvana_kedro.segmentation.hardware import choose_device, choose_precision, usable_workers
from carvana_kedro.segmentation.losses import segmentation_loss
from carvana_kedro.segmentation.optimizers import build_optimizer, build_schedule
from carvana_kedro.segmentation.predictor import Predictor
from carvana_kedro.segmentation.trainer import Training, train
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.images import Photographs

logger = logging.getLogger(__name__)


def check_recipe(parameters: ModelTraining) -> None:
    """Make sure that a recipe fits its network and this machine, without computing anything.

    Raises:
        UserError: the network cannot take the input size or the batch, or the device is not there.
    """
    choose_device(parameters.device)
    size = (parameters.input_size.height, parameters.input_size.width)
    with torch.device("meta"):
        network = build(parameters.architecture, width_multiplier=parameters.width_multiplier)
        network.output_size(size)
        try:
            network(torch.empty(parameters.batch_size, 3, *size))
        except ValueError as error:
            raise UserError(
                f"{parameters.architecture} cannot learn from batches of {parameters.batch_size} image(s) of "
                f"{size[0]} x {size[1]} (height x width): {error}. "
                "Take a larger model_training.batch_size or input_size."
            ) from error


def train_model(
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_images: Photographs,
    checkpoints: CheckpointStore,
    tensorboard: Path,
    parameters: ModelTraining,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a network as the recipe says.

    Args:
        train_index: images to train on.
        validation_index: images that choose the best epoch.
        training_images: the source that both indices were made from.
        checkpoints: where `last` and `best` are saved, in the run's own folder.
        tensorboard: where events are written, in the run's own folder.
        parameters: `model_training`, the recipe.

    Returns:
        The model of the best epoch (weights with architecture, input size and origin), and a row an epoch.

    Raises:
        UserError: the indices belong to another source; the recipe does not fit the network or the machine.
    """
    check_source(train_index, training_images, "data_ingestion")
    sides = [train_index["image"].tolist(), validation_index["image"].tolist()]
    source = training_images.fingerprint()
    run_id = provenance.run_id(parameters.model_dump(), *sides, source)
    torch.manual_seed(parameters.seed)
    network = build(
        parameters.architecture,
        width_multiplier=parameters.width_multiplier,
        pretrained=parameters.pretrained,
    )
    geometry = Geometry.of(network, (parameters.input_size.height, parameters.input_size.width))
    train_batches, validation_batches = _batches(training_images, sides, geometry, parameters)
    origin = {
        "source": source,
        "run_id": run_id,
        "validation_cars": sorted(validation_index["car"].unique().tolist()),
    }
    run = _training(network, geometry, len(train_batches), origin, parameters)
    logger.info(
        "Run %s: %s on %s in %s, %d epochs of %d steps of %d images",
        run_id, parameters.architecture, run.device, run.precision, run.epochs, len(train_batches),
        parameters.batch_size,
    )  # fmt: skip
    # What an earlier attempt at the same run has written is taken back.
    with SummaryWriter(tensorboard / run_id, purge_step=run.epoch) as events:
        callbacks = [
            ProgressBar(),
            TensorBoardScalars(events),
            TensorBoardPictures(events, parameters.pictures),
            CheckpointSaver(partial(checkpoints.save, run_id)),
        ]
        history = train(run, train_batches, validation_batches, callbacks)
    return checkpoints.load(run_id, "best")["model"], pd.DataFrame(history)


def evaluate_model(
    model: dict[str, Any],
    validation_index: pd.DataFrame,
    training_images: Photographs,
    parameters: ModelTraining,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Score every validation image at its original size.

    Returns:
        A row an image, worst first (image, dice, iou, pixel_accuracy, boundary_dice of a rim of 3 pixels), and
        the means over the images, with the lowest Dice coefficient.

    Raises:
        UserError: the index belongs to another source or to another split than the model was trained with.
    """
    check_source(validation_index, training_images, "data_ingestion")
    if sorted(validation_index["car"].unique()) != model["validation_cars"]:
        raise UserError(
            "The model was trained with another split: some of these validation cars may be among those it has seen. "
            "Train it anew, with the same options: kedro run --pipelines model_training"
        )
    predictor = Predictor.from_model(model, device=parameters.device, precision=parameters.precision)
    predictions = predictor.predict(
        training_images,
        validation_index["image"].tolist(),
        threshold=parameters.threshold,
        batch_size=parameters.batch_size,
        workers=usable_workers(parameters.workers),
    )
    rows = []
    for image_id, mask in tqdm(
        predictions, "Evaluating", len(validation_index), unit=" images", leave=False, disable=None
    ):
        target = training_images.read_mask(image_id)
        rows.append(
            {
                "image": image_id,
                "dice": metrics.dice(mask, target),
                "iou": metrics.iou(mask, target),
                "pixel_accuracy": metrics.pixel_accuracy(mask, target),
                "boundary_dice": metrics.boundary_dice(mask, target, width=3),
            }
        )
    scores = pd.DataFrame(rows).sort_values("dice", kind="stable")
    means = {name: float(scores[name].mean()) for name in scores.columns.drop("image")}
    logger.info("Validation Dice at original size: %.4f (%d images)", means["dice"], len(scores))
    return scores, {"images": len(scores), **means, "lowest_dice": float(scores["dice"].min())}


def describe_run(
    model: dict[str, Any],
    train_index: pd.DataFrame,
    training_history: pd.DataFrame,
    validation_metrics: dict[str, float],
    recipe: str,
    parameters: ModelTraining,
) -> dict[str, Any]:
    """Write down where a model comes from: parameters, source, split, versions, commit, machine, scores."""
    return {
        "run_id": model["run_id"],
        "recipe": recipe,
        "source": model["source"],
        # The cars themselves, not the parameters of ingestion, which may have changed since the split was made.
        "train_cars": sorted(train_index["car"].unique().tolist()),
        "validation_cars": model["validation_cars"],
        "parameters": parameters.model_dump(),
        "epochs": len(training_history),
        "training_seconds": round(float(training_history["seconds"].sum()), 1),
        "validation": validation_metrics,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "machine": provenance.machine(),
    }


def _batches(
    images: Photographs, sides: list[list[str]], geometry: Geometry, parameters: ModelTraining
) -> tuple[Batches, Batches]:
    """Return the shuffled batches to train on and the ordered ones to validate on."""
    samples: list[Samples | CachedSamples] = [Samples(images, image_ids, geometry) for image_ids in sides]
    if parameters.cache_images:
        samples = [CachedSamples(Samples(images, image_ids, geometry)) for image_ids in sides]
    batches = partial(Batches, batch_size=parameters.batch_size, workers=usable_workers(parameters.workers))
    return batches(samples[0], seed=parameters.seed), batches(samples[1])


def _training(
    network: SegmentationNetwork,
    geometry: Geometry,
    steps_per_epoch: int,
    origin: dict[str, Any],
    parameters: ModelTraining,
) -> Training:
    """Return the run that the recipe describes."""
    device = choose_device(parameters.device)
    network = network.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network.parameters(), **parameters.optimizer.model_dump())
    steps = parameters.epochs * steps_per_epoch
    return Training(
        network=network,
        geometry=geometry,
        optimizer=optimizer,
        schedule=build_schedule(
            optimizer,
            name=parameters.schedule.name,
            total_steps=steps,
            # A run of a few steps has none to spare.
            warmup_steps=min(int(parameters.schedule.warmup_fraction * steps), max(0, steps - 2)),
        ),
        loss=partial(segmentation_loss, **parameters.loss.model_dump()),
        augmentation=Augmentation(**parameters.augmentation.model_dump()),
        device=device,
        precision=choose_precision(parameters.precision, device),
        threshold=parameters.threshold,
        seed=parameters.seed,
        epochs=parameters.epochs,
        description={
            "architecture": parameters.architecture,
            "width_multiplier": parameters.width_multiplier,
            "input_size": list(geometry.input_size),
            "threshold": parameters.threshold,
            **origin,
        },
    )
