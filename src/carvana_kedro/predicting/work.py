"""The work of predicting shards: what a process needs for it, and what it does for each image."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.hardware import usable_workers
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.monitoring import visualization
from carvana_kedro.segmentation.prediction.composition import color_of
from carvana_kedro.segmentation.prediction.cutouts import cut_out
from carvana_kedro.segmentation.prediction.postprocessing import postprocess
from carvana_kedro.segmentation.prediction.prediction import Prediction, map_in_order
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.source import ImageSource
from carvana_kedro.stores.predictions import Kind, PredictedImages, PredictionShards, Seal, Shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The images of one shard.

    Attributes:
        image_ids: All of them, in order.
        readable: Those without a problem in the index.
        names: Of the image files that are written for them.
    """

    image_ids: Sequence[str]
    readable: Sequence[str]
    names: Sequence[str]


@dataclass(frozen=True)
class Options:
    """How images are read, and what is made of their predictions. The fields are those of `parameters.Inference`.

    Attributes:
        kinds: Of the image files to write.
        keep_largest: Whether to keep only the largest connected part of a mask.
        fill_holes: Whether to fill the holes of a mask.
        background: Of the cut-outs: `transparent`, or a color.
        on_bad_image: Whether to stop at an image that cannot be read, or to leave its mask empty.
        batch_size: Number of images in a batch.
        num_workers: Processes that read images; 0: this one.
    """

    kinds: Sequence[Kind] = ()
    keep_largest: bool = False
    fill_holes: bool = False
    background: str = "transparent"
    on_bad_image: Literal["stop", "empty"] = "stop"
    batch_size: int = 8
    num_workers: int = 0

    @property
    def needs_masks(self) -> bool:
        """Whether the masks themselves are needed; otherwise their edges are enough, which a GPU finds."""
        return bool(self.kinds) or self.keep_largest or self.fill_holes


@dataclass(frozen=True)
class Work:
    """Everything that a process needs to predict shards. It can be pickled.

    Attributes:
        model: The model.
        trusted: Dotted paths of networks that may be imported: see `Member.build_network`.
        predictor: Arguments of `Predictor`, such as `threshold` and `device`.
        images: The images.
        predicted_images: Where image files are written.
        shards: Where shards are written.
        key: Of the shards.
        options: How images are read, and what is made of their predictions.
        hardware: The kind of device and the precision that are part of the key; `auto`: any.
    """

    model: TrainedModel
    trusted: Sequence[str]
    predictor: Mapping[str, Any]
    images: ImageSource
    predicted_images: PredictedImages
    shards: PredictionShards
    key: str
    options: Options
    hardware: Sequence[str] = ("auto", "auto")

    def finished(self, jobs: Mapping[int, Job]) -> dict[int, Shard]:
        """Return those of the shards that are written with all their images, by number."""
        found = {number: shard for number, shard in self.shards.find(self.key).items() if number in jobs}
        images = self.predicted_images.list(self.options.kinds) if found else {}
        return {
            number: shard
            for number, shard in found.items()
            if self.predicted_images.are_intact(jobs[number].names, shard.images, images)
        }

    def build_predictor(self) -> Predictor:
        """Build the predictor, and log its threshold and hardware.

        Raises:
            UserError: The model cannot be built, or the machine does not have the device, or computes in another
                precision than the one that made the key.
        """
        predictor = Predictor.from_model(self.model, trusted=self.trusted, **self.predictor)
        found = [predictor.hardware.device.type, str(predictor.hardware.precision).removeprefix("torch.")]
        if any(planned not in (here, "auto") for planned, here in zip(self.hardware, found, strict=True)):
            raise UserError(
                f"This machine predicts on {found[0]} in {found[1]}, but the one that started the prediction on "
                f"{self.hardware[0]} in {self.hardware[1]}. Masks would differ: set inference.device (such as cuda) "
                "and inference.precision (such as float32), the same on all."
            )
        in_torch = self.predictor.get("engine", "torch") == "torch"
        hardware = predictor.hardware if in_torch else f"{predictor.hardware.device} in ONNX Runtime"
        logger.info("Predicting at a threshold of %.2f on %s", predictor.threshold, hardware)
        return predictor

    def run(
        self, predictor: Predictor, jobs: Mapping[int, Job], on_image: Callable[[], object]
    ) -> Iterator[tuple[int, Shard]]:
        """Predict and write shards. Their image files are written in threads while the next images are predicted.

        Args:
            predictor: What `build_predictor` returns.
            jobs: The images of each shard, by its number.
            on_image: Called after each image, for a progress bar.

        Yields:
            The number of a shard, and the shard, as soon as it is written.

        Raises:
            UserError: An image cannot be read, a file cannot be written, or the network's output is not finite.
        """
        predictions = predictor.predict(
            self.images,
            [image_id for job in jobs.values() for image_id in job.readable],
            batch_size=self.options.batch_size,
            num_workers=usable_workers(self.options.num_workers),
            threshold=None if self.options.needs_masks else predictor.threshold,
            shard_sizes=[len(job.readable) for job in jobs.values()],
            on_bad_image=self.options.on_bad_image,
        )
        results = map_in_order(partial(self._write, predictor.threshold), predictions)
        for number, job in jobs.items():
            rows = dict.fromkeys(job.image_ids, "")
            images: dict[str, Seal] = {}
            problems: dict[str, str] = {}
            doubts: dict[str, float] = {}
            for image_id in job.readable:
                rows[image_id], seals, problem, doubt = next(results)
                if problem:
                    logger.warning("The mask of %s is empty: %s", image_id, problem)
                    problems[image_id] = problem
                else:
                    doubts[image_id] = round(doubt, 2)
                images |= seals
                on_image()
            yield number, self.shards.write(self.key, number, list(rows.items()), images, problems, doubts)

    def _write(self, threshold: float, prediction: Prediction) -> tuple[str, dict[str, Seal], str, float]:
        """Write the image files that the options request.

        Returns:
            The run lengths of the mask, the seals of the files, and the problem and the doubt of the prediction.
        """
        image_id = prediction.image_id
        if prediction.problem:
            return "", {}, prediction.problem, 0.0
        try:
            if not self.options.needs_masks:
                return run_lengths.format_runs(prediction.edges(threshold)), {}, "", prediction.doubt()
            mask = prediction.mask(threshold)
            mask = postprocess(mask, largest=self.options.keep_largest, filled=self.options.fill_holes)
            photograph = cache(partial(self.images.read_image, image_id))
            seals = {}
            for kind in self.options.kinds:
                picture = self._picture(kind, photograph, mask, prediction, threshold)
                name = self.predicted_images.name(kind, image_id)
                seals[name] = self.predicted_images.write(kind, image_id, picture)
            return run_lengths.encode(mask), seals, "", prediction.doubt()
        except Exception as error:
            error.add_note(f"This happened while the prediction for {image_id} was written.")
            raise

    def _picture(
        self,
        kind: Kind,
        photograph: Callable[[], np.ndarray],
        mask: np.ndarray,
        prediction: Prediction,
        threshold: float,
    ) -> np.ndarray:
        """Return what the file of a kind shows. The photograph is read when it is needed."""
        if kind == "masks":
            return mask
        if kind == "overlays":
            return visualization.overlay(photograph(), mask)
        return cut_out(photograph(), prediction.alpha(mask, threshold), color_of(self.options.background))
