"""Nodes of the model_training pipeline."""

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from carvana_kedro import provenance
from carvana_kedro.errors import UserError
from carvana_kedro.folds import Sides, by_fold, split_folds
from carvana_kedro.image_index import check_source
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.provenance import check_run
from carvana_kedro.scoring import score_images
from carvana_kedro.segmentation.data.cache import Cache
from carvana_kedro.segmentation.data.samples import Fill
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.segmentation.monitoring.callbacks import build_callbacks
from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.monitoring.event_writer import EventWriter
from carvana_kedro.segmentation.training.build import Run, build_run, count_devices, output_size
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.distributed import ALONE, World
from carvana_kedro.segmentation.training.interrupts import Interrupts, TrainingInterruptedError
from carvana_kedro.segmentation.training.launch import run_in_processes, stop_requested
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.segmentation.training.state import Record, Training, divergence
from carvana_kedro.segmentation.training.warm_start import read_start
from carvana_kedro.stores.checkpoints import CheckpointStore, RunCheckpoints
from carvana_kedro.stores.folders import Folder
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.pixel_cache import MappedRows, PixelCache

logger = logging.getLogger(__name__)

_SHARED_DATA_ROOT = "With model_training.nodes above 1, all machines need one data_root that they share."


def train_model(
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_images: ImageSource,
    checkpoints: CheckpointStore,
    tensorboard: Folder,
    pixel_cache: PixelCache,
    parameters: ModelTraining,
) -> tuple[TrainedModel, pd.DataFrame]:
    """Train a network as the recipe says, or resume its run; a finished run is not trained again.

    The recipe, the images, and the code that decides the result identify a run. If one of them changes, a new run
    starts in a new folder. With `folds`, one run per fold follows the other, and the model is their average.

    Args:
        train_index: Images to train on.
        validation_index: Images that choose the best epoch.
        training_images: The source that both indices were made from.
        checkpoints: Of the recipe's runs.
        tensorboard: Folder of the events; each run has a subfolder. An object store gets them when training ends.
        pixel_cache: Keeps decoded images if the recipe's cache is `memmap`.
        parameters: `model_training`, the recipe.

    Returns:
        The model of the best epoch, or those of all folds; and the history, one row per epoch.

    Raises:
        UserError: The indices belong to another source or to two splits; the recipe does not fit the network or the
            machine; training was interrupted, or had to stop.
    """
    _check_sides((train_index, validation_index), training_images)
    splits = split_folds(train_index, validation_index, parameters.folds, parameters.seed)
    arguments = splits, training_images, checkpoints, tensorboard, pixel_cache, parameters
    devices = count_devices(parameters.to_recipe(), min(len(train) for train, _ in splits))
    if devices * parameters.nodes == 1:
        trained = _train_splits(ALONE, *arguments)
    else:
        ids = [provenance.run_id(_facts(sides, training_images, parameters)) for sides in splits]
        run_in_processes(
            _train_splits,
            *arguments,
            ids,
            devices=devices,
            nodes=parameters.nodes,
            rendezvous=parameters.rendezvous,
            max_restarts=parameters.max_restarts,
        )
        trained = [_read_finished(checkpoints.run(run_id, read_only=True)) for run_id in ids]
    models, histories = zip(*trained, strict=True)
    tables = [
        pd.DataFrame(history).assign(fold=number) if parameters.folds else pd.DataFrame(history)
        for number, history in enumerate(histories, start=1)
    ]
    model = TrainedModel.join(models)
    return model, pd.concat(tables, ignore_index=True).assign(run_id=model.run_id)


def _train_splits(
    world: World,
    splits: Sequence[Sides],
    training_images: ImageSource,
    checkpoints: CheckpointStore,
    tensorboard: Folder,
    pixel_cache: PixelCache,
    parameters: ModelTraining,
    run_ids: Sequence[str] = (),
) -> list[tuple[TrainedModel, list[Record]]]:
    """Train one network on each split; return their models and histories. Several processes return nothing.

    `run_ids` are those of the runs that the process that has started this one will read.
    """
    caches: dict[str, Cache] = {}
    trained = []
    for number, sides in enumerate(splits, start=1):
        expected = run_ids[number - 1] if run_ids else None
        if parameters.folds:
            cars = [index["car"].nunique() for index in sides]
            logger.info("Fold %d of %d: %d training cars, %d validation cars", number, len(splits), *cars)
        trained += _train_run(
            world, sides, training_images, checkpoints, tensorboard, pixel_cache, caches, parameters, expected
        )
    return trained


def _facts(indices: Sides, training_images: ImageSource, parameters: ModelTraining) -> dict[str, Any]:
    """Return the facts that identify the run on one split."""
    sides = [index["image"].tolist() for index in indices]
    extensions = parameters.to_recipe().extensions()
    return provenance.run_facts(parameters.decisive(), sides, training_images.fingerprint(), extensions)


def _read_finished(checkpoints: RunCheckpoints) -> tuple[TrainedModel, list[Record]]:
    """Return the model and the history of a run that several processes have finished."""
    state = checkpoints.newest("last")
    if not state or not state["finished"]:
        raise UserError(
            f"Training has ended, but {checkpoints.folder} has no finished run on this machine, {platform.node()}. "
            f"{_SHARED_DATA_ROOT} If they do, start the same command again."
        )
    return _best_model(state, checkpoints), state["history"]


def _train_run(
    world: World,
    indices: Sides,
    training_images: ImageSource,
    checkpoints: CheckpointStore,
    tensorboard: Folder,
    pixel_cache: PixelCache,
    caches: dict[str, Cache],
    parameters: ModelTraining,
    expected: str | None,
) -> list[tuple[TrainedModel, list[Record]]]:
    """Train one network on one split, or resume it; return the model of its best epoch and its history.

    `caches` holds the decoded images of each source for the runs that follow. Of several processes, the leader locks
    and writes, and none returns the model: the process that has started them reads it, by the id `expected`.
    """
    recipe = parameters.to_recipe()
    sides = [index["image"].tolist() for index in indices]
    with world.together():
        facts = _facts(indices, training_images, parameters)
    _check_same_facts(facts, world)
    source, decisive, run_id = facts["source"], facts["parameters"], provenance.run_id(facts)
    with world.together():
        if expected not in (None, run_id):  # processes load the code when they start, also after a restart
            raise UserError(
                f"The code, parameters or images changed since this training was started: it is run {expected}, but "
                f"they are now those of run {run_id}. Start the command again."
            )
    run_checkpoints = checkpoints.run(run_id, keep=recipe.keep_checkpoints)
    with run_checkpoints.locked() if world.leader else nullcontext():
        # The leader reads for all: it holds the lock, and renames damaged checkpoints.
        with world.together():
            found = run_checkpoints.newest("last") if world.leader else None
        state: Mapping[str, Any] | None = world.led(found)
        if state and state["finished"]:
            _check_finished(state, run_checkpoints)
            logger.info(
                "Run %s is finished, and nothing that decides its result has changed: its model is used. To train "
                "again, choose another model_training.seed, or remove %s.", run_id, run_checkpoints.folder,
            )  # fmt: skip
            if world.leader:
                # An object store gets the events of a process that was killed before it copied them.
                try:
                    with tensorboard.folder(run_id).directory():
                        pass
                except UserError as error:  # the model is there
                    logger.warning("%s", error)
        else:
            with world.together():
                if world.leader and run_checkpoints.facts is None:
                    _log_differences(checkpoints, facts)
                    run_checkpoints.begin(facts)
            with world.together():
                _check_shared(run_checkpoints)
            start, started_from = _start(recipe, decisive, state, indices[1])
            keep_in_file = partial(_keep_in_file, pixel_cache, training_images, source)
            run = build_run(
                replace(recipe, pretrained=False, init_from=None) if state else recipe,
                training_images,
                sides,
                origin={"source": source, "run_id": run_id, **_sides_of(indices), **started_from},
                about={
                    "parameters": parameters.model_dump(mode="json"),
                    "versions": provenance.versions(),
                },
                cache=caches.setdefault(source, Cache(recipe.cache, keep_in_file, world.local_size)),
                start=start,
                world=world,
            )
            _restore(run, state, run_checkpoints)
            state = _train(run, recipe, run_checkpoints, tensorboard.folder(run_id), _origin(source))
            if world.leader and training_images.fingerprint() != source:
                logger.warning(
                    "Files in %s changed while run %s was trained: it may have seen both contents. To train again, "
                    "remove %s.", training_images.images, run_id, run_checkpoints.folder,
                )  # fmt: skip
        if world.size > 1:
            return []
        return [(_best_model(state, run_checkpoints), state["history"])]


def _check_same_facts(facts: Mapping[str, Any], world: World) -> None:
    """Check that all processes are about to train the same run: each has its own parameters, code and images."""
    (first, leaders), *others = world.gather((platform.node(), facts))
    for machine, theirs in others:
        if changes := provenance.differences(leaders, theirs):
            raise UserError(
                f"The machines {first} and {machine} would train different runs: {'; '.join(changes)}. All machines "
                "need the same parameters, code and images."
            )


def _check_shared(checkpoints: RunCheckpoints) -> None:
    """Check that this process sees what the leader has written."""
    if checkpoints.folder.stat(checkpoints.FACTS) is None:
        raise UserError(
            f"The machine {platform.node()} does not see {checkpoints.folder}, which the first process has written. "
            f"{_SHARED_DATA_ROOT}"
        )


def _check_sides(indices: Sides, images: ImageSource) -> None:
    """Check that both indices are of these images and of one split: a run may have been killed between the two."""
    for index in indices:
        check_source(index, images, "--pipelines data_ingestion")
    if shared := {*indices[0]["car"]} & {*indices[1]["car"]}:
        raise UserError(
            f"train_index and validation_index are of two splits: both have the car {min(shared)}. Create them again "
            "with the same options: kedro run --pipelines data_ingestion"
        )


def _keep_in_file(
    pixel_cache: PixelCache, images: ImageSource, source: str, key: str, shape: tuple[int, int], fill: Fill
) -> MappedRows:
    """Keep decoded images of a source (a `Keep`).

    Raises:
        UserError: A file changed while the images were decoded. Nothing is kept.
    """

    def fill_unchanged(rows: NDArray[np.uint8]) -> None:
        fill(rows)
        if images.fingerprint() != source:
            raise UserError(f"Files in {images.images} changed while they were decoded. Run again.")

    return pixel_cache.rows(f"{source}-{provenance.decoding_digest()}", key, shape, fill_unchanged)


def _sides_of(indices: Sides) -> dict[str, list[str]]:
    """Return what a model knows of its two sides: which images it was trained on, and which cars it was not."""
    train, validation = indices
    return {
        "validation_cars": sorted(validation["car"].unique().tolist()),
        "trained_on": _digests(train),
    }


def _start(
    recipe: Recipe,
    decisive: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    validation_index: pd.DataFrame,
) -> tuple[Member | None, dict[str, Any]]:
    """Return the model whose weights a run starts from, and what its own model records of it.

    A run that resumes needs no such model: its weights are in the checkpoint. Warn if the model was trained on
    validation images.
    """
    if state:
        return None, {name: value for name, value in state["model"].items() if name == "started_from"}
    if recipe.init_from is None:
        return None, {}
    start = read_start(recipe.init_from)
    if seen := len({*start.trained_on}.intersection(_digests(validation_index))):
        logger.warning(
            "The model %s, which training starts from, was trained on %d of the %d validation images: their scores "
            "will be too high.", start.run_id, seen, len(validation_index),
        )  # fmt: skip
    return start, {
        "started_from": {
            "path": recipe.init_from,
            "sha256": decisive["init_from"],
            "run_id": start.run_id,
            "architecture": start.architecture,
            "validation_images_seen": seen,
        }
    }


def _check_finished(state: Mapping[str, Any], checkpoints: RunCheckpoints) -> None:
    """Refuse a run that an earlier version let end with weights or losses that are not finite."""
    if reason := divergence(state["network"], state["model"]["weights"], state["history"][-1]):
        raise UserError(
            f"The finished run {checkpoints.folder} diverged: {reason}. Train with a smaller "
            "model_training.optimizer.learning_rate, or remove this folder to repeat the run."
        )


def _restore(run: Run, state: Mapping[str, Any] | None, checkpoints: RunCheckpoints) -> None:
    """Restore a run from its last checkpoint, if there is one."""
    training = run.training
    if state:
        _warn_if_surroundings_changed(state["about"], training.about)
        training.restore(state)
    for module in (training.network, training.model):  # machines may differ in rounding, or in libraries
        training.world.lead(module.state_dict().values())
    # A best model that is newer than the last state: the process was killed between saving the two. On a GPU the same
    # model may not come out again.
    if training.world.leader:
        checkpoints.supersede("best", after=training.steps)
    name, steps = checkpoints.run_id, len(run.train_batches)
    if state:
        logger.info(
            "Run %s resumes in epoch %d of %d, after step %d of %d",
            name, training.epoch, training.epochs, training.progress.steps, steps,
        )  # fmt: skip
    else:
        logger.info("Run %s starts: %d epochs of %d steps", name, training.epochs, steps)
    logger.info("%s on %s", training.description["architecture"], training.about["hardware"])


def _origin(source: str) -> str:
    """Return, as Markdown, what a run depends on besides its parameters."""
    versions = ", ".join(f"{name} {number}" for name, number in provenance.versions().items())
    return (
        f"Commit `{provenance.git_commit() or 'unknown'}`; source with the fingerprint `{source}`; {versions}. The "
        "model card of the recipe has the command that repeats its last run."
    )


def _train(
    run: Run, recipe: Recipe, checkpoints: RunCheckpoints, events: Folder, origin: str
) -> Mapping[str, Any]:
    """Train to the end, and return the final state."""
    training = run.training
    alone = training.world.size == 1  # otherwise the process that has started this one receives the signals
    with (
        Interrupts() if alone else nullcontext(stop_requested) as training.interrupted,
        _callbacks(training, recipe, checkpoints, events, origin) as callbacks,
    ):
        train(*run, callbacks)
        if training.interrupted():
            raise TrainingInterruptedError(
                "Training is finished and saved, but the run was interrupted after it. The same command resumes it."
            )
        return training.state()


@contextmanager
def _callbacks(
    training: Training, recipe: Recipe, checkpoints: RunCheckpoints, events: Folder, origin: str
) -> Iterator[list[Callback]]:
    """Give the leader its callbacks, which write and show; the other processes none."""
    if not training.world.leader:
        yield []
        return
    # Events that an earlier attempt has written of this epoch and later ones are purged.
    with (
        events.directory() as folder,
        EventWriter(folder, purge_step=training.epoch) as writer,
        CheckpointSaver(checkpoints, recipe.checkpoint_minutes) as saver,
    ):
        yield build_callbacks(recipe, saver, writer, origin)


def _best_model(state: Mapping[str, Any], checkpoints: RunCheckpoints) -> TrainedModel:
    """Return the model of the best epoch, or the last one with a warning if that is lost."""
    best = checkpoints.newest("best")
    if best is None or len(best["history"]) != state["best_epoch"]:
        logger.warning(
            "The model of the best epoch, %d, is lost: the files best-*.pt in %s are missing or damaged. The model of "
            "epoch %d is used.", state["best_epoch"], checkpoints.folder, len((best or state)["history"]),
        )  # fmt: skip
    return TrainedModel.from_dict(best or state, str(checkpoints.folder))


def _warn_if_surroundings_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn if a run resumes on other hardware or libraries: the result may differ from an uninterrupted run's."""
    then, here = ({part: about[part] for part in ("hardware", "versions")} for about in (before, now))
    if changes := provenance.differences(then, here):
        logger.warning("The run resumes in other surroundings than before: %s", "; ".join(changes))


def _log_differences(checkpoints: CheckpointStore, facts: dict[str, Any]) -> None:
    """Log how a new run differs from the run that was started last."""
    before = next(checkpoints.runs(), None)
    if before is not None:
        changes = provenance.differences(before.facts or {}, facts)
        logger.info("This run differs from run %s in %s", before.run_id, "; ".join(changes))


def evaluate_model(
    model: TrainedModel,
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_images: ImageSource,
    parameters: ModelTraining,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Score every validation image, at its original size: see `score_images`.

    With folds these are all images, each scored by the one model that was not trained on its car (out of fold).
    """
    pairs = [(model, validation_index)]
    if parameters.folds:
        pairs = by_fold(model, pd.concat([train_index, validation_index]))
    return score_images(pairs, training_images, parameters, parameters.trusted(), run_id=model.run_id)


def describe_run(
    model: TrainedModel,
    train_index: pd.DataFrame,
    validation_index: pd.DataFrame,
    training_history: pd.DataFrame,
    validation_metrics: dict[str, Any],
    recipe: str,
    split_parameters: dict[str, Any],
    parameters: ModelTraining,
) -> dict[str, Any]:
    """Record where a model comes from: its parameters, source, split, versions, commit, machine, scores.

    With folds every car is a training car and a validation car; `models` lists the validation cars of each fold.

    Raises:
        UserError: The model was trained on other images than those of the index.
    """
    check_run("training_history", training_history, model.run_id)
    check_run("validation_metrics", validation_metrics, model.run_id)
    parameters = _trained_with(model, parameters)
    index = pd.concat([train_index, validation_index])
    validated = index["car"].isin([car for member in model.members for car in member.validation_cars])
    trained = index if parameters.folds else train_index
    for member in model.members:
        is_validation = trained["car"].isin(member.validation_cars) & bool(parameters.folds)
        _check_trained_on(member, trained[~is_validation])
    return {
        "run_id": model.run_id,
        "recipe": recipe,
        "source": model.source,
        **_describe_cars("train", trained),
        **_describe_cars("validation", index[validated]),
        "models": [
            {
                "run_id": member.run_id,
                "validation_cars": list(member.validation_cars),
                "started_from": member.started_from,
            }
            for member in model.members
        ],
        **_describe_sizes(index, parameters.to_recipe()),
        "data_ingestion": split_parameters,
        "parameters": parameters.model_dump(mode="json"),
        "epochs": len(training_history),
        "training_seconds": round(float(training_history["seconds"].sum()), 1),
        "validation": validation_metrics,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "machine": provenance.machine(),
    }


def _check_trained_on(member: Member, index: pd.DataFrame) -> None:
    """Check that a network was trained on the images of this index. One of an earlier version does not say that."""
    if member.trained_on and _digests(index) != list(member.trained_on):
        raise UserError(
            f"The model {member.run_id} was trained on other images than those that are now in train_index: the source "
            "or its split has changed since. Train it again, with the same options: "
            "kedro run --pipelines model_training"
        )


def _digests(index: pd.DataFrame) -> list[str]:
    return sorted(set(index.get("digest", ())) - {""})


def _trained_with(model: TrainedModel, parameters: ModelTraining) -> ModelTraining:
    """Return the parameters that a model was trained with; `parameters`, those of this run, if it does not say that."""
    if model.parameters is None:
        logger.warning(
            "The model does not say which parameters it was trained with. Those of this run are recorded."
        )
        return parameters
    if changes := provenance.differences(model.parameters, parameters.model_dump(mode="json")):
        logger.warning(
            "The model was trained with other parameters, which are recorded: %s", "; ".join(changes)
        )
    try:
        return ModelTraining.model_validate(model.parameters)
    except ValidationError as error:
        raise UserError(
            f"The model {model.run_id} was trained with parameters of another version. Train it again, with the same "
            "options: kedro run --pipelines model_training"
        ) from error


def _describe_cars(side: str, index: pd.DataFrame) -> dict[str, Any]:
    cars = sorted(index["car"].unique().tolist())
    return {f"{side}_cars": cars, f"{side}_images": len(index)}


def _describe_sizes(index: pd.DataFrame, recipe: Recipe) -> dict[str, Any]:
    """Return the most common size of the images, the number of their sizes, and the size of the output."""
    sizes = index.value_counts(["width", "height"])  # the most common first
    width, height = map(int, sizes.index[0])
    output_height, output_width = output_size(recipe)
    return {
        "photograph_size": {"width": width, "height": height},
        "photograph_sizes": len(sizes),
        "output_size": {"width": output_width, "height": output_height},
    }
