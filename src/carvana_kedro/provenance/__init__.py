"""Record where a result comes from: parameters, images, code, library versions and hardware."""

import json
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from carvana_kedro import __version__
from carvana_kedro.errors import UserError
from carvana_kedro.provenance.code_digest import code_of, digest, place_digest
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.predictions import SubmissionFile

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]

# Folders and modules whose code decides a result. What only observes or reports is left out.
DECODING = ("stores/images", "segmentation/data")
TRAINING = (
    *DECODING,
    "segmentation/architectures",
    "segmentation/extensions.py",
    "segmentation/training",
    "segmentation/hardware.py",
    "segmentation/metrics/threshold_curve.py",  # chooses best_threshold
)
PREDICTION = (
    *DECODING,
    "segmentation/architectures",
    "segmentation/extensions.py",
    "segmentation/model.py",
    "segmentation/prediction",
    "segmentation/hardware.py",
    "predicting/work.py",
    "stores/run_lengths.py",
)

_LIBRARIES = ("kedro", "numpy", "opencv-python-headless", "pandas", "pillow", "torch", "torchvision")

_place_digest = cache(place_digest)  # the loaded code stays the same while the process runs


def run_facts(
    parameters: Mapping[str, Any],
    image_ids: Sequence[Sequence[str]],
    source: str,
    extensions: Sequence[str] = (),
) -> dict[str, Any]:
    """Return everything that decides the result of a training run, as values that JSON can store.

    Args:
        parameters: the parameters that decide the result.
        image_ids: the image ids on each side of the split.
        source: the fingerprint of the image source.
        extensions: paths of the classes and functions outside this package that the parameters name: see `code_of`.
    """
    return {
        "parameters": json.loads(json.dumps(parameters)),  # as a file returns them: lists instead of tuples
        "images": images_digest(*image_ids),
        "source": source,
        **_code_facts(TRAINING, extensions),
    }


def run_id(facts: Mapping[str, Any]) -> str:
    """Return a short hash of facts.

    >>> run_id({"epochs": 3, "seed": 1}) == run_id({"seed": 1, "epochs": 3})
    True
    """
    return digest(json.dumps(facts, sort_keys=True))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the differences between two sets of facts.

    >>> differences({"a": {"b": 1, "c": 2}, "code": "x"}, {"a": {"b": 1, "c": 3}, "code": "y"})
    ['a.c: 2 -> 3', 'code: x -> y']
    """
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} -> {new}")
    return found


def check_run(name: str, artefact: Any, run_id: str) -> None:
    """Check that a table or record of a training run belongs to the run of a model.

    Args:
        name: of the dataset, for messages.
        artefact: a table with a column `run_id`, or a record with this key. Without it, as earlier versions wrote them,
            a warning is logged.
        run_id: of the model.

    Raises:
        UserError: it belongs to another run.
    """
    found = artefact.get("run_id")
    if found is None:
        logger.warning("%s does not say which run it belongs to, because an earlier version wrote it.", name)
        return
    runs = {found} if isinstance(found, str) else {*found}
    if runs - {run_id}:
        raise UserError(
            f"{name} belongs to run {' and '.join(sorted(runs))}, but the model to run {run_id}. Create both again, "
            "with the same options: kedro run --pipelines model_training"
        )


def check_predictions(
    predictions: Mapping[str, Any], submission: SubmissionFile, model: TrainedModel | None
) -> SubmissionFile:
    """Check that a submission belongs to the model: that it has the rows of its predictions.

    Predictions of a model that `checkpoint=` named belong to that model. They stay valid when the recipe is trained
    again; a message says which model they are from.

    Args:
        predictions: the manifest of the predictions.
        submission: the file.
        model: of this run: what the recipe has trained, or what `checkpoint=` names. None: there is none.

    Returns:
        The submission, unchanged.

    Raises:
        UserError: the predictions were made with another model, or the file has other rows.
    """
    again = "Predict again, with the same options: kedro run --pipelines inference"
    chosen = predictions.get("checkpoint") or ""
    made_with = _named(chosen, predictions["run_id"], predictions["model"])
    if model and model.digest() != predictions["model"]:
        now = _named(model.checkpoint, model.run_id, model.digest())
        if model.checkpoint or not chosen:
            raise UserError(
                f"{submission} was predicted with another model than the one that is used now.\n"
                f"  predicted with: {made_with}\n  used now: {now}\n{again}"
            )
    if chosen and not (model and model.checkpoint):
        logger.warning("%s is of another model than the recipe's: %s", submission, made_with)
    if "rows_sha256" in predictions and submission.rows_sha256() != predictions["rows_sha256"]:
        raise UserError(
            f"{submission} does not have the rows of the predictions beside it: it was changed, or a run was "
            f"interrupted. {again}"
        )
    return submission


def _named(checkpoint: str, run_id: str, digest: str) -> str:
    """Return what identifies a model, for messages."""
    return f"{f'checkpoint={checkpoint}, ' if checkpoint else ''}run {run_id}, weights {digest}"


def images_digest(*sides: Sequence[str]) -> str:
    """Return a short hash of the image ids on each side of a split. The order of the ids matters."""
    return digest(*(image_id for side in sides for image_id in (*side, "")))


def predicting_digest(extensions: Sequence[str] = ()) -> str:
    """Return a short hash of the package version and the code that decide which masks a model predicts.

    Args:
        extensions: paths of the classes and functions outside this package that the model uses: see `code_of`.
    """
    return run_id(_code_facts(PREDICTION, extensions))


def decoding_digest() -> str:
    """Return a short hash of the package version and the code that decide how image files become pixels."""
    return run_id(_code_facts(DECODING))


def _code_facts(places: Sequence[str], extensions: Sequence[str] = ()) -> dict[str, Any]:
    facts = {"package": __version__, "code": {place: _place_digest(PACKAGE, place) for place in places}}
    return facts | ({"extensions": code_of(*extensions)} if extensions else {})


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that its results depend on."""
    own = {"python": platform.python_version(), "carvana_kedro": __version__}
    return own | {library: version(library) for library in _LIBRARIES}


def git_commit() -> str | None:
    """Return the git commit of the package, followed by `+changes` if files differ, or None outside of git."""

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True)
        return call.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Return the hardware and operating system of the run."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }
