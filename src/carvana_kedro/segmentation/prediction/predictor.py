"""Prediction of masks with trained models."""

import logging
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import lru_cache, partial
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.area_resize import resize_by_area
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.reader import Reader
from carvana_kedro.segmentation.data.samples import ImageReader
from carvana_kedro.segmentation.data.transfer import Upload
from carvana_kedro.segmentation.hardware import DeviceName, Hardware, is_out_of_memory
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.segmentation.prediction.batch_edges import BatchEdges, equal_neighbors
from carvana_kedro.segmentation.prediction.composition import Composition, compose
from carvana_kedro.segmentation.prediction.fitted_images import FittedImages, ImageBatch
from carvana_kedro.segmentation.prediction.prediction import Prediction as Prediction
from carvana_kedro.segmentation.prediction.prediction import check_threshold
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.stores.checkpoints import load_checkpoint
from carvana_kedro.stores.images.reading import ImageLike, read_image
from carvana_kedro.stores.machine import usable_cores
from carvana_kedro.weights import path_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Predictor:
    """Predicts masks with one network, or with the mean probability of several networks.

    BatchNorm is folded into the convolutions.

    >>> from carvana_kedro.segmentation.architectures import build_network
    >>> predictor = Predictor([build_network("unet_small")], (64, 96), device="cpu")
    >>> predictor(np.zeros((100, 150, 3), np.uint8)).shape
    (100, 150)
    """

    def __init__(
        self,
        networks: Sequence[SegmentationNetwork],
        input_size: tuple[int, int],
        *,
        threshold: float = 0.5,
        flip: bool = False,
        device: DeviceName = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        compile: bool = False,
        engine: Literal["torch", "onnxruntime"] = "torch",
    ) -> None:
        """Copy the networks to a device.

        Args:
            networks: One network, or several whose probabilities are averaged.
            input_size: (H, W) of the networks' input.
            threshold: On the probability; the default of `__call__`.
            flip: Whether to average over the image and its mirror image, which takes twice the time.
            device: Device to compute on; `auto`: a GPU if there is one.
            precision: Precision to compute in; `auto`: bfloat16 if the hardware supports it.
            compile: Whether to compile the networks with torch.compile, which takes half a minute.
            engine: Library that runs the networks; `onnxruntime` computes in float32.

        Raises:
            UserError: The machine does not have the device, the engine is not installed or does not support the
                options, a network does not take the input size, its weights are not finite, or the threshold is not
                in (0, 1).
            TypeError: `networks` is not a sequence of networks.
        """
        _check_networks(networks)
        check_threshold(threshold)
        self.threshold = threshold
        self.flip = flip
        if engine == "onnxruntime":
            if compile or precision not in ("auto", "float32"):
                raise UserError(
                    "engine=onnxruntime computes in float32 and does not compile: leave precision and compile at their "
                    "defaults, or choose engine=torch."
                )
            device, precision = onnx.choose_device(device), "float32"  # type: ignore[assignment]
        self.hardware = Hardware.choose(device, precision, compile=compile)
        self.geometry = Geometry.of(networks[0], input_size)
        if any(Geometry.of(network, input_size) != self.geometry for network in networks):
            raise UserError(
                "These networks cannot be averaged: their output sizes differ. Choose networks with equal output sizes."
            )
        segmenters = [Segmenter(network, self.geometry) for network in networks]
        self._segmenters = [
            onnx.OnnxSegmenter(onnx.to_bytes(segmenter.cpu()), self.hardware.device.type)
            if engine == "onnxruntime"
            else self._placed(segmenter)
            for segmenter in segmenters
        ]
        on_gpu = self.hardware.device.type == "cuda"
        self._ahead = on_gpu  # whether a batch is read and started before the previous one is used
        self._beside = torch.cuda.Stream(self.hardware.device) if on_gpu else None
        self._upload = Upload(self.hardware.device)
        self._fitting = 0  # images that fit into memory at once; 0: unknown

    @classmethod
    def from_model(
        cls,
        model: TrainedModel,
        *,
        threshold: float | None = None,
        trusted: Iterable[str] = (),
        **options: Any,
    ) -> Self:
        """Build a predictor from a trained model. The probabilities of several members are averaged.

        Args:
            model: A model from training or from `TrainedModel.from_dict`.
            threshold: On the probability; None: the model's own.
            trusted: Dotted paths of networks that may be imported: see `Member.build_network`.
            options: Arguments of the constructor.

        Raises:
            UserError: A network cannot be built from the model, or the members have different sizes.
        """
        return cls(
            model.build_networks(trusted), model.input_size, threshold=model.threshold(threshold), **options
        )

    @classmethod
    def from_checkpoint(cls, *paths: str | Path, **options: Any) -> Self:
        """Build a predictor from the packaged model `cars`, or from files that training has written.

            predictor = Predictor.from_checkpoint("cars")
            mask = predictor(np.asarray(Image.open("car.jpg")))

        Args:
            paths: A file (`model.pt`, `best-*.pt` or `last-*.pt`) or the name of a packaged model. The probabilities of
                several are averaged.
            options: Arguments of `from_model`.

        Raises:
            UserError: A file is missing, damaged or not a carvana-kedro model.
        """
        models = [TrainedModel.from_dict(load_checkpoint(path_of(path)), str(path)) for path in paths]
        return cls.from_model(TrainedModel.join(models), **options)

    @classmethod
    def load(cls, model: str | Path = "cars", **options: Any) -> Self:
        """Load the packaged model `cars`, or one that training has written.

        Args:
            model: The name of a packaged model, or the path of a file. To average several: `from_checkpoint`.
            options: Such as `device="cpu"` or `threshold=0.4`: arguments of `from_model`.

        Raises:
            UserError: The file is missing, damaged or not a carvana-kedro model.

        >>> Predictor.load("cars", device="cpu").mask(np.zeros((100, 150, 3), np.uint8)).shape
        (100, 150)
        """
        return cls.from_checkpoint(model, **options)

    def __call__(self, image: ImageLike, threshold: float | None = None) -> NDArray[np.bool_]:
        """Predict the mask of an image: see `mask`."""
        return self.mask(image, threshold)

    def mask(self, image: ImageLike, threshold: float | None = None) -> NDArray[np.bool_]:
        """Predict which pixels belong to the car.

        Args:
            image: A path, the content of an image file, an image of Pillow, or (H, W, 3) uint8 RGB; of any size.
            threshold: On the probability; None: the predictor's.

        Returns:
            (H, W) bool, at the size of the upright image.

        Raises:
            UserError: The image cannot be read, the threshold is not in (0, 1), or the logits are not finite.
            TypeError, ValueError: It is not an image: see `check_image`.
        """
        threshold = self.threshold if threshold is None else threshold
        return self.predict_one(read_image(image)).mask(threshold)

    def probabilities(self, image: ImageLike) -> NDArray[np.float32]:
        """Predict the probability that a pixel belongs to the car.

        Args:
            image: See `mask`.

        Returns:
            (H, W) float32 in [0, 1], at the size of the upright image.

        Raises:
            UserError, TypeError, ValueError: See `mask`.

        >>> Predictor.load("cars", device="cpu").probabilities(np.zeros((100, 150, 3), np.uint8)).dtype
        dtype('float32')
        """
        return self.predict_one(read_image(image)).probabilities()

    def cut_out(
        self, image: ImageLike, *, threshold: float | None = None, **composition: Unpack[Composition]
    ) -> Image.Image:
        """Cut the car out of an image.

            Predictor.load("cars").cut_out("car.jpg").save("car.png")

        Args:
            image: See `mask`.
            threshold: On the probability; None: the predictor's.
            composition: `background`, `crop`, `margin` and `canvas`: see `compose`.

        Returns:
            An image of Pillow: RGBA if the background is transparent, as it is by default; otherwise RGB.

        Raises:
            UserError, TypeError, ValueError: See `mask` and `compose`.

        >>> Predictor.load("cars", device="cpu").cut_out(np.zeros((100, 150, 3), np.uint8), background="white").mode
        'RGB'
        """
        pixels = read_image(image)
        threshold = self.threshold if threshold is None else threshold
        prediction = self.predict_one(pixels)
        alpha = prediction.alpha(prediction.mask(threshold), threshold)
        return Image.fromarray(compose(pixels, alpha, **composition))

    def predict_one(self, image: np.ndarray) -> Prediction:
        """Predict one image, (H, W, 3) uint8 RGB of any size.

        Raises:
            TypeError, ValueError: It is not an image: see `check_image`.
        """
        logits = self.logits(torch.from_numpy(self.geometry.fit_image(image))[None])
        return Prediction("", (image.shape[0], image.shape[1]), logits[0], self.geometry)

    @torch.inference_mode()
    def logits(self, fitted: Tensor) -> Tensor:
        """Compute the logits of a batch. If it does not fit into memory, it is computed in smaller parts.

        Args:
            fitted: (N, h, w, 3) uint8 images at the geometry's output size.

        Returns:
            (N, h, w) float32 on the device. With several networks: the logits of the mean probability.

        Raises:
            ValueError: The images have another dtype or shape.
            UserError: Not even one image fits into memory.
        """
        try:
            return torch.cat([self._logits(part) for part in fitted.split(self._fitting or len(fitted))])
        except Exception as error:
            count = min(self._fitting or len(fitted), len(fitted))
            if not is_out_of_memory(error):
                raise
            if count == 1:
                raise UserError(
                    f"The memory of {self.hardware.device} is too small for a single image of "
                    f"{self.geometry.input_size[0]} x {self.geometry.input_size[1]} (height x width). Free "
                    "memory, or predict on the CPU: device=cpu"
                ) from error
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that did not fit
            self._fitting = count // 2
        logger.warning(
            "%d images do not fit into memory together: continuing with %d at a time", count, self._fitting
        )
        return self.logits(fitted)

    def _placed(self, segmenter: Segmenter) -> Segmenter:
        # Convert the weights once, so that autocast does not convert them for every batch.
        segmenter.convert_weights(self.hardware.precision)
        segmenter.network = self.hardware.place(segmenter.network)
        return segmenter

    def _logits(self, fitted: Tensor) -> Tensor:
        images = fitted.to(self.hardware.device, non_blocking=True)
        found = []
        for segmenter in self._segmenters:
            with self.hardware.autocast() if segmenter.needs_autocast else nullcontext():
                found.append(segmenter(images))
                if self.flip:
                    found.append(segmenter(images.flip(2)).flip(2))
        if len(found) == 1:
            return found[0]
        # In float32, the logit of a probability near 1 is imprecise.
        double = torch.float32 if self.hardware.device.type == "mps" else torch.float64
        mean = torch.stack([logits.to(double).sigmoid() for logits in found]).mean(0)
        return mean.logit(eps=1e-7).float()

    def predict(
        self,
        source: ImageReader,
        image_ids: Sequence[str],
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        threshold: float | None = None,
        shard_sizes: Sequence[int] | None = None,
        on_bad_image: Literal["stop", "empty"] = "stop",
    ) -> Iterator[Prediction]:
        """Yield the prediction for every image, in order. Only a few batches are in memory at a time.

        On a GPU, a batch is yielded when it is finished and the next one has been started.

        Args:
            source: Reads the images.
            image_ids: Ids of the images to predict.
            batch_size: Number of images in a batch.
            num_workers: Processes that read images; 0: this one, and on a GPU as many threads as there are cores.
            threshold: On the probability. On a GPU, the edges at this threshold are found right behind the logits, so
                that `Prediction.edges` returns them at once. None: they are found on demand.
            shard_sizes: Numbers of images in consecutive shards. No batch crosses the end of a shard, so that a
                prediction that is resumed at a shard computes the same batches. None: one shard.
            on_bad_image: Whether to stop at an image that cannot be read, or to leave its mask empty.

        Raises:
            UserError: An image cannot be read, a worker was killed, an image does not fit into memory, or the threshold
                is not in (0, 1).
        """
        if threshold is not None:
            check_threshold(threshold)
        images = FittedImages(source, image_ids, self.geometry, on_bad_image == "empty")
        batches = _batches(shard_sizes or [len(image_ids)], batch_size)
        largest = max(map(len, batches), default=0)
        read = self._read(images, batches, num_workers)
        with closing(read):  # ends its threads, also after an error
            started = (self._start(batch, largest, threshold) for batch in read)
            for finish in _one_later(started) if self._ahead else started:
                yield from finish()

    def _read(
        self, images: FittedImages, batches: Sequence[NDArray[np.int64]], num_workers: int
    ) -> Generator[ImageBatch]:
        on_gpu = self.hardware.device.type == "cuda"
        if self._ahead and not num_workers:
            return images.read_in_threads(batches, usable_cores(), pin_memory=on_gpu)
        reader = Reader(
            images.read,
            images.image_ids,
            num_workers,
            image_nbytes=images.image_nbytes,
            pin_memory=on_gpu,
        )
        return reader(batches)

    @torch.inference_mode()
    def _start(
        self, batch: ImageBatch, largest: int, threshold: float | None
    ) -> Callable[[], list[Prediction]]:
        """Start the prediction of a batch on the device. The function that is returned waits for it."""
        fitted = (
            self._upload(batch.images)[0] if isinstance(batch.images, Tensor) else self._fit(batch.images)
        )
        count = len(fitted)
        if self.hardware.compile and count < largest:  # another shape would be compiled again
            fitted = torch.cat([fitted, fitted[:1].expand(largest - count, -1, -1, -1)])
        logits = self.logits(fitted)[:count]
        for row, problem in zip(logits, batch.problems, strict=True):
            if problem:
                row.fill_(-100)
        edges = self._edges(logits, batch.sizes, threshold) if self._ahead else None
        return partial(
            self._finish, batch._replace(images=()), logits, edges
        )  # their memory may be used again

    def _edges(self, logits: Tensor, sizes: Sequence[Size], threshold: float | None) -> BatchEdges:
        try:
            return BatchEdges(logits, sizes, self.geometry, threshold, self._beside)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        return BatchEdges(
            logits, sizes, self.geometry, None, self._beside
        )  # edges are found on demand, one by one

    def _fit(self, images: Sequence[Tensor]) -> Tensor:
        """Copy (H, W, 3) uint8 images to the device, and resize them there: (N, h, w, 3) uint8."""
        placed = self._upload(*images)
        size = self.geometry.output_size
        parts = []
        for part, original in equal_neighbors([(image.shape[0], image.shape[1]) for image in images]):
            same = torch.stack(placed[part])
            parts.append(same if original == size else resize_by_area(same, size))
        return torch.cat(parts)

    def _finish(self, batch: ImageBatch, logits: Tensor, edges: BatchEdges | None) -> list[Prediction]:
        found = edges.wait() if edges else [None] * len(logits)
        facts = zip(batch.ids, batch.sizes, logits, batch.problems, found, strict=True)
        return [
            Prediction(image_id, (height, width), row, self.geometry, problem, known)
            for image_id, (height, width), row, problem, known in facts
        ]


def cut_out(
    image: ImageLike,
    *,
    model: str | Path = "cars",
    device: DeviceName = "auto",
    threshold: float | None = None,
    **composition: Unpack[Composition],
) -> Image.Image:
    """Cut the car out of an image, in one call. The model stays loaded for the next one.

        from carvana_kedro import cut_out

        cut_out("car.jpg").save("car.png")

    Args:
        image: A path, the content of an image file, an image of Pillow, or (H, W, 3) uint8 RGB; of any size.
        model: The name of a packaged model, or the path of a file. A file that has changed is loaded again.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threshold: On the probability; None: the model's.
        composition: `background`, `crop`, `margin` and `canvas`: see `Predictor.cut_out`.

    Returns:
        An image of Pillow: RGBA if the background is transparent, as it is by default; otherwise RGB.

    Raises:
        UserError, TypeError, ValueError: See `Predictor.load` and `Predictor.cut_out`.

    >>> cut_out(np.zeros((100, 150, 3), np.uint8), device="cpu", canvas=(80, 60)).size
    (80, 60)
    """
    path = path_of(model).resolve()
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    predictor = _loaded(path, changed, device)
    return predictor.cut_out(image, threshold=threshold, **composition)


@lru_cache(maxsize=2)
def _loaded(path: Path, changed: int, device: DeviceName) -> Predictor:
    """Return a predictor. `changed`: the time of the file, so that a new model under the same path is loaded."""
    return Predictor.load(path, device=device)


def _one_later(items: Iterable[T]) -> Iterator[T]:
    """Yield each item after the next one has been taken.

    >>> list(_one_later("abc"))
    ['a', 'b', 'c']
    """
    last: list[Any] = [None]
    return (item for item, _ in pairwise(chain(items, last)))


def _check_networks(networks: object) -> None:
    if not isinstance(networks, Sequence) or not all(isinstance(n, SegmentationNetwork) for n in networks):
        raise TypeError(
            "networks must be a list of SegmentationNetworks, such as [build_network(...)]. For a file: "
            "Predictor.from_checkpoint(path)."
        )
    if not networks:
        raise UserError("A predictor needs at least one network.")


def _batches(shard_sizes: Sequence[int], batch_size: int) -> list[NDArray[np.int64]]:
    """Return the positions of the images of each batch. No batch crosses the end of a shard.

    >>> [batch.tolist() for batch in _batches([5, 2], 3)]
    [[0, 1, 2], [3, 4], [5, 6]]
    """
    ends = [0, *accumulate(shard_sizes)]
    return [
        np.arange(start, min(start + batch_size, end))
        for first, end in pairwise(ends)
        for start in range(first, end, batch_size)
    ]
