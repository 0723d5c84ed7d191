"""What the pipelines share that predict: which images, in which shards, and with what."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from carvana_kedro import provenance
from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import TEST_INDEX_OPTIONS, are_unchanged, first_few, outdated, usable_images
from carvana_kedro.parameters import Inference, ModelTraining
from carvana_kedro.predicting.work import Job, Options, Work
from carvana_kedro.segmentation.hardware import choose_device, choose_precision
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import KINDS, Kind, PredictedImages, PredictionShards

logger = logging.getLogger(__name__)

INPUTS = [
    "model",
    "test_index",
    "test_images",
    "prediction_shards",
    "predicted_images",
    "params:inference",
    "params:model_training",
    "source",
]
"""The inputs of the nodes that predict, in the order of `PredictionPlan.make`."""


def select_test_images(
    test_image_index: pd.DataFrame, test_images: ImageSource, parameters: Inference
) -> pd.DataFrame:
    """Check that every test image can be predicted. This is a separate node so that a run stops before training.

    Args:
        test_image_index: What `index_test_images` returns.
        test_images: The test images.
        parameters: `inference`.

    Returns:
        The rows of the images that get a mask. The masks of images with problems will be empty. With `on_bad_image`
        `empty`, images that are not in the sample submission are left out.

    Raises:
        UserError: `on_bad_image` is `stop`, and an image is missing, damaged or not part of the competition.
    """
    advice = (
        "Every test image needs a mask. Correct these files (or remove them, if they are your own), then run again. To "
        "leave their masks empty instead: --params inference.on_bad_image=empty"
    )
    usable_images(test_image_index, "skip" if parameters.on_bad_image == "empty" else "stop", advice)
    wanted = _in_sample_submission(test_image_index, test_images)
    if others := test_image_index.loc[~wanted, "image"].tolist():
        logger.warning(
            "%d images are not in sample_submission.csv. They are left out:\n%s",
            len(others),
            first_few(others),
        )
    index = test_image_index[wanted]
    bad = index[index["problems"] != ""]
    if len(bad):
        lines = [f"{row.image}: {row.problems}" for row in bad.itertuples()]
        logger.warning("%d masks will be empty:\n%s", len(bad), first_few(lines))
    return index


def _in_sample_submission(index: pd.DataFrame, images: ImageSource) -> "pd.Series[bool]":
    """Return which images need a row in the submission: all of them if there is no sample submission."""
    expected = images.expected if isinstance(images, ImageStore) else None
    return index["image"].isin(index["image"] if expected is None else list(expected))


@dataclass(frozen=True)
class PredictionPlan:
    """What is predicted.

    Attributes:
        origin: Everything that decides the masks.
        jobs: The images of each shard, by its number.
        work: What they are predicted with.
    """

    origin: dict[str, Any]
    jobs: dict[int, Job]
    work: Work

    @classmethod
    def make(
        cls,
        model: TrainedModel,
        test_index: pd.DataFrame,
        test_images: ImageSource,
        prediction_shards: PredictionShards,
        predicted_images: PredictedImages,
        parameters: Inference,
        model_training: ModelTraining,
        source: SourceDescription,
    ) -> "PredictionPlan":
        """Plan the prediction of all images of an index. The arguments are those of the node `predict_masks`.

        The index must describe these images: see `check_source` and `check_images`.

        Raises:
            UserError: The model is unknown.
        """
        parameters = parameters.with_images(source.writes_images)
        trusted = model_training.trusted()
        origin = _origin(model, test_index, parameters, trusted)
        work = Work(
            model=model,
            trusted=trusted,
            predictor=_predictor(model, parameters),
            images=test_images,
            predicted_images=predicted_images,
            shards=prediction_shards,
            key=provenance.run_id(origin),
            options=_options(parameters),
            hardware=origin["hardware"],
        )
        return cls(origin, _jobs(test_index, predicted_images, parameters), work)


def check_images(index: pd.DataFrame, images: ImageSource, image_ids: Sequence[str]) -> None:
    """Check that no image was added to those of an index or removed, and that some are unchanged. Only these are read.

    Args:
        index: What `select_test_images` returns.
        images: The test images.
        image_ids: Those to look at.

    Raises:
        UserError: The index was made from other files.
    """
    present, known = {*images.ids()}, {*index["image"]}
    if isinstance(images, ImageStore) and images.expected is not None:
        present &= known  # there may be others, which the sample submission does not have
    readable = {*index.loc[index["digest"] != "", "image"]}
    if not readable <= present <= known or not are_unchanged(index, images, image_ids):
        raise outdated(images, TEST_INDEX_OPTIONS)


def requested_kinds(parameters: Inference) -> list[Kind]:
    """Return the kinds of images that the parameters request."""
    return [kind for kind in KINDS if getattr(parameters, kind) is True]


def _jobs(index: pd.DataFrame, predicted_images: PredictedImages, parameters: Inference) -> dict[int, Job]:
    """Return the images of each shard by its number."""
    jobs = {}
    for number, start in enumerate(range(0, len(index), parameters.shard_size)):
        rows = index.iloc[start : start + parameters.shard_size]
        readable = rows.loc[rows["problems"] == "", "image"].tolist()
        names = [
            predicted_images.name(kind, image_id)
            for image_id in readable
            for kind in requested_kinds(parameters)
        ]
        jobs[number] = Job(rows["image"].tolist(), readable, names)
    return jobs


def _origin(
    model: TrainedModel,
    index: pd.DataFrame,
    parameters: Inference,
    trusted: Sequence[str],
) -> dict[str, Any]:
    """Return everything that decides the predicted masks."""
    bad = index["problems"] != ""
    return {
        "run_id": model.run_id,
        "model": model.digest(),
        "source": index["source"].iat[0],
        "image_ids": provenance.images_digest(index["image"].tolist(), index.loc[bad, "image"].tolist()),
        "parameters": parameters.decisive(),
        "hardware": _hardware(parameters),
        "code": provenance.predicting_digest(model.extensions(trusted)),
    }


def _hardware(parameters: Inference) -> list[str]:
    """Return the kind of device and the precision that `auto` means on this machine: masks depend on them."""
    try:
        if parameters.engine == "onnxruntime":
            return [onnx.choose_device(parameters.device), "float32"]
        device = choose_device(parameters.device)
    except UserError:
        if parameters.cluster is None:
            raise
        return [parameters.device, parameters.precision]  # only other machines of the cluster have the device
    return [device.type, str(choose_precision(parameters.precision, device)).removeprefix("torch.")]


def _predictor(model: TrainedModel, parameters: Inference) -> dict[str, Any]:
    """Return the arguments of `Predictor`."""
    return {
        "threshold": model.threshold(parameters.threshold),
        "flip": parameters.flip,
        "device": parameters.device,
        "precision": parameters.precision,
        "compile": parameters.compile,
        "engine": parameters.engine,
    }


def _options(parameters: Inference) -> Options:
    return Options(
        kinds=requested_kinds(parameters),
        keep_largest=parameters.keep_largest,
        fill_holes=parameters.fill_holes,
        background=parameters.background,
        on_bad_image=parameters.on_bad_image,
        batch_size=parameters.batch_size,
        num_workers=parameters.num_workers,
    )
