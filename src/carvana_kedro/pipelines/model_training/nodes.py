"""Nodes of the model_training pipeline."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.tensorboard import SummaryWriter

from carvana_kedro import provenance
from carvana_kedro.folds import Sides, by_fold, split_folds
from carvana_kedro.image_index import check_source
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.scoring import score_images
from carvana_kedro.segmentation.architectures import build
from carvana_kedro.segmentation.training.interrupts import Interrupts, TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.stores.checkpoints import CheckpointStore, ensemble
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.pixel_cache import PixelCache

from .recipe import build_callbacks, build_run

logger = logging.getLogger(__name__)


def train_model(
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_images: ImageSource,
    checkpoints: CheckpointStore,
    tensorboard: Path,
    pixel_cache: PixelCache,
    parameters: ModelTraining,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a network as the recipe says, or go on with it; a run that is finished is not trained again.

    What makes a run this run is what decides its result: the recipe, the images, this package and its code. Anything
    else is another run, with a folder of its own. With `folds` there are as many runs, one after the other, and the
    model is their average.

    Args:
        train_index: images to train on.
        validation_index: images that choose the best epoch.
        training_images: the source that both indices were made from.
        checkpoints: of the recipe's runs.
        tensorboard: where events are written, in the run's own folder.
        pixel_cache: where resized images are kept, if the recipe says so.
        parameters: `model_training`, the recipe.

    Returns:
        The model of the best epoch (weights with architecture, input size and origin), or those of all folds as its
        `members`; and a row an epoch, of all folds.

    Raises:
        UserError: the indices belong to another source; the recipe does not fit the network or the machine; training
            was interrupted, or had to stop.
    """
    check_source(train_index, training_images, "data_ingestion")
    models, histories = [], []
    splits = split_folds(train_index, validation_index, parameters.folds, parameters.seed)
    for number, sides in enumerate(splits, start=1):
        if parameters.folds:
            cars = [index["car"].nunique() for index in sides]
            logger.info("Fold %d of %d: %d cars to train on, %d to validate on", number, len(splits), *cars)
        model, history = _train_run(sides, training_images, checkpoints, tensorboard, pixel_cache, parameters)
        models.append(model)
        histories.append(
            pd.DataFrame(history).assign(fold=number) if parameters.folds else pd.DataFrame(history)
        )
    return ensemble(models), pd.concat(histories, ignore_index=True)


def _train_run(
    indices: Sides,
    training_images: ImageSource,
    checkpoints: CheckpointStore,
    tensorboard: Path,
    pixel_cache: PixelCache,
    parameters: ModelTraining,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Train one network on one split, or go on with it; return the model of its best epoch and its history."""
    train_index, validation_index = indices
    sides = [train_index["image"].tolist(), validation_index["image"].tolist()]
    source = training_images.fingerprint()
    facts = provenance.run_facts(parameters.decisive(), sides, source)
    run_id = provenance.run_id(facts)
    ours = checkpoints.run(run_id, keep=parameters.keep_checkpoints)
    origin = {
        "source": source,
        "run_id": run_id,
        "validation_cars": sorted(validation_index["car"].unique().tolist()),
    }
    with ours.locked():
        state = ours.newest("last")
        if state and state["finished"]:
            logger.info(
                "Run %s is finished, and nothing that decides its result has changed: its model is taken. To train "
                "anew, choose another model_training.seed, or remove %s.", run_id, ours.folder,
            )  # fmt: skip
            history = state["history"]
        else:
            if ours.facts is None:
                _tell_differences(checkpoints, facts)
                ours.begin(facts)
            run, train_batches, validation_batches = build_run(
                parameters, training_images, sides, pixel_cache, origin
            )
            if state:
                _tell_other_surroundings(state["about"], run.about)
                run.restore(state)
            # Killed after it and before the state that knows of it was saved: on a GPU it may not come about again.
            ours.put_aside("best", after=run.steps)
            logger.info(
                "Run %s %s epoch %d of %d, after step %d of %d: %s on %s", run_id, "goes on in" if state else "begins:",
                run.epoch, run.epochs, run.progress.steps, len(train_batches), parameters.architecture, run.hardware,
            )  # fmt: skip
            # What an earlier attempt has written of this epoch and later ones is taken back.
            with (
                SummaryWriter(tensorboard / run_id, purge_step=run.epoch) as events,
                Interrupts() as run.interrupted,
            ):
                callbacks = build_callbacks(parameters, ours, events)
                history = train(run, train_batches, validation_batches, callbacks)
                if run.interrupted():
                    raise TrainingInterruptedError(
                        "Training is finished and saved; what comes after it was interrupted: the same command goes on."
                    )
                state = run.state()
        best = ours.newest("best")
        if best is None or len(best["history"]) != state["best_epoch"]:
            logger.warning(
                "The model of the best epoch, %d, is lost: the files best-*.pt in %s are gone or damaged. That of "
                "epoch %d is taken.", state["best_epoch"], ours.folder, len((best or state)["history"]),
            )  # fmt: skip
    return (best or state)["model"], history


def _tell_other_surroundings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn if a run goes on elsewhere than it was begun: it will not become what it would have become there."""
    then, here = ({part: about[part] for part in ("hardware", "versions")} for about in (before, now))
    if changes := provenance.differences(then, here):
        logger.warning("The run goes on in other surroundings than it was left in: %s", "; ".join(changes))


def _tell_differences(checkpoints: CheckpointStore, facts: dict[str, Any]) -> None:
    """Say in what a new run differs from the one begun last."""
    for before in checkpoints.runs():
        changes = provenance.differences(before.facts or {}, facts)
        logger.info("This run differs from run %s in %s", before.folder.name, "; ".join(changes))
        return


def evaluate_model(
    model: dict[str, Any],
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_images: ImageSource,
    parameters: ModelTraining,
) -> tuple[pd.DataFrame, dict[str, float], pd.DataFrame]:
    """Score every validation image at its original size: see `score_images`.

    With folds that is every image, each scored by the one model that was not trained on its car (out of fold).
    """
    pairs = [(model, validation_index)]
    if parameters.folds:
        pairs = by_fold(model, pd.concat([train_index, validation_index]))
    return score_images(pairs, training_images, parameters)


def describe_run(
    model: dict[str, Any],
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_history: pd.DataFrame,
    validation_metrics: dict[str, float],
    recipe: str,
    parameters: ModelTraining,
) -> dict[str, Any]:
    """Write down where a model comes from: parameters, source, split, versions, commit, machine, scores.

    With folds every car is one to train on and one to validate on; `models` says which of them is which fold's.
    """
    members = model.get("members", [model])
    index = pd.concat([train_index, validation_index])
    validated = index["car"].isin([car for member in members for car in member["validation_cars"]])
    trained = index if parameters.folds else train_index
    sizes = index.value_counts(["width", "height"])  # the commonest first
    size = (parameters.input_size.height, parameters.input_size.width)
    with torch.device("meta"):
        height, width = build(parameters.architecture).output_size(size)
    return {
        "run_id": model["run_id"],
        "recipe": recipe,
        "source": model["source"],
        # The cars themselves, not the parameters of ingestion, which may have changed since the split was made.
        "train_cars": sorted(trained["car"].unique().tolist()),
        "train_images": len(trained),
        "validation_cars": sorted(index[validated]["car"].unique().tolist()),
        "validation_images": int(validated.sum()),
        "models": [{name: member[name] for name in ("run_id", "validation_cars")} for member in members],
        "photograph_size": {
            name: int(pixels) for name, pixels in zip(sizes.index.names, sizes.index[0], strict=True)
        },
        "photograph_sizes": len(sizes),
        "output_size": {"width": width, "height": height},
        "parameters": parameters.model_dump(mode="json"),
        "epochs": len(training_history),
        "training_seconds": round(float(training_history["seconds"].sum()), 1),
        "validation": validation_metrics,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "machine": provenance.machine(),
    }
