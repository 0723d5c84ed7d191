"""From photographs to masks with trained models."""

import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.reader import Reader
from carvana_kedro.segmentation.data.samples import ImageReader, errors_naming
from carvana_kedro.segmentation.hardware import Hardware, is_out_of_memory
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.checkpoints import load_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a network says of one photograph, on its device; enlarged to the photograph's size when asked.

    Attributes:
        image_id: of the photograph.
        size: its (height, width).
        logits: (h, w) float32 at the network's output size.
        geometry: of the network.
        problem: why the photograph could not be read, if it could not: then nothing is found in it.
    """

    image_id: str
    size: Size
    logits: Tensor
    geometry: Geometry
    problem: str = ""

    def probabilities(self) -> NDArray[np.float32]:
        """Return the probability that a pixel is of the car, (H, W) float32."""
        probabilities: NDArray[np.float32] = self.enlarged().sigmoid().cpu().numpy()
        return probabilities

    def mask(self, threshold: float) -> NDArray[np.bool_]:
        """Return where the probability exceeds the threshold, (H, W) bool.

        The logits are enlarged to the photograph's size and *then* compared: that keeps the edge between the network's
        pixels.
        """
        mask: NDArray[np.bool_] = self._exceeding(threshold).cpu().numpy()
        return mask

    def edges(self, threshold: float) -> NDArray[np.int64]:
        """Return the edges of the mask's runs: see `run_lengths.find_edges`.

        A GPU finds them itself, and copies these 6 kB instead of a mask of 2.5 MB.
        """
        mask = self._exceeding(threshold)
        if not mask.is_cuda:
            return run_lengths.find_edges(mask.cpu().numpy())
        pixels = torch.nn.functional.pad(mask.flatten(), (1, 1))
        edges: NDArray[np.int64] = (pixels[1:] != pixels[:-1]).nonzero()[:, 0].cpu().numpy()
        return edges

    def _exceeding(self, threshold: float) -> Tensor:
        return self.enlarged() > math.log(threshold / (1 - threshold))

    def enlarged(self) -> Tensor:
        """Return the logits at the photograph's size, (H, W) float32, on the device."""
        return self.geometry.restore(self.logits[None], self.size)[0]


class Predictor:
    """Networks that are ready to predict.

    BatchNorm is folded into the convolutions, and the hardware used as training does.

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
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        compile: bool = False,
        engine: Literal["torch", "onnxruntime"] = "torch",
    ) -> None:
        """Put networks on a device.

        Args:
            networks: whose probabilities are averaged.
            input_size: (H, W) that they read.
            threshold: on the probability: what calls use if they name none.
            flip: whether each network looks at the mirrored image as well; twice the time.
            device: what to compute on; `auto`: a GPU if there is one.
            precision: `auto`: bfloat16 where the hardware computes in it.
            compile: whether torch.compile makes kernels for the networks: takes half a minute before the first batch.
            engine: what computes the networks; `onnxruntime` does so in float32.

        Raises:
            UserError: the machine has no such device, the engine does not do what is asked for or is not installed, or
                a network cannot take the size.
        """
        self.threshold = threshold
        self.flip = flip
        if engine == "onnxruntime":
            if compile or precision not in ("auto", "float32"):
                raise UserError(
                    "engine=onnxruntime computes in float32 and compiles nothing: leave precision and compile at their "
                    "defaults, or choose engine=torch."
                )
            device, precision = onnx.choose_device(device), "float32"  # type: ignore[assignment]
        self.hardware = Hardware.choose(device, precision, compile=compile)
        self.geometry = Geometry.of(networks[0], input_size)
        if any(Geometry.of(network, input_size) != self.geometry for network in networks):
            raise UserError(
                "Networks that are averaged must have one output size: their architectures do not fit together."
            )
        segmenters = [Segmenter(network, self.geometry) for network in networks]
        self._segmenters: list[Callable[[Tensor], Tensor]] = [
            onnx.OnnxSegmenter(onnx.to_bytes(segmenter.cpu()), self.hardware.device.type)
            if engine == "onnxruntime"
            else self._placed(segmenter)
            for segmenter in segmenters
        ]
        self._most = 0  # images that fit into memory at once; 0: not found out yet

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
            model: What training returned, or `TrainedModel.from_dict` read.
            threshold: On the probability; None takes the model's own.
            trusted: Dotted paths of networks that may be imported: see `Member.build_network`.
            options: Those of the constructor.

        Raises:
            UserError: A network cannot be built from the model, or its members do not fit together.
        """
        return cls(
            model.build_networks(trusted), model.input_size, threshold=model.threshold(threshold), **options
        )

    @classmethod
    def from_checkpoint(cls, *paths: str | Path, **options: Any) -> Self:
        """Build a predictor from files that training wrote: `model.pt`, or a run's `best-*.pt` or `last-*.pt`.

            predictor = Predictor.from_checkpoint("data/06_models/sample/model.pt")
            mask = predictor(np.asarray(Image.open("car.jpg")))

        Args:
            paths: One checkpoint, or several whose probabilities are averaged.
            options: Those of `from_model`.

        Raises:
            UserError: A file is missing, damaged or not a carvana-kedro model.
        """
        models = [TrainedModel.from_dict(load_checkpoint(Path(path)), str(path)) for path in paths]
        return cls.from_model(TrainedModel.join(models), **options)

    def __call__(self, image: np.ndarray, threshold: float | None = None) -> NDArray[np.bool_]:
        """Return the mask, (H, W) bool, of an image (H, W, 3) uint8 RGB of any size."""
        return self.predict_one(image).mask(self.threshold if threshold is None else threshold)

    def predict_one(self, image: np.ndarray) -> Prediction:
        """Return what is to be said of an image (H, W, 3) uint8 RGB of any size."""
        logits = self.logits(torch.from_numpy(self.geometry.fit_image(image))[None])
        return Prediction("", (image.shape[0], image.shape[1]), logits[0], self.geometry)

    @torch.inference_mode()
    def logits(self, fitted: Tensor) -> Tensor:
        """Return the logits of a batch, of which as many are computed at once as memory has room for.

        Args:
            fitted: (N, h, w, 3) uint8, images at the geometry's output size.

        Returns:
            (N, h, w) float32 on the device; those of the mean probability, if there are several.

        Raises:
            UserError: there is no room for one.
        """
        try:
            return torch.cat([self._logits(part) for part in fitted.split(self._most or len(fitted))])
        except Exception as error:
            count = min(self._most or len(fitted), len(fitted))
            if not is_out_of_memory(error):
                raise
            if count == 1:
                raise UserError(
                    f"The memory of {self.hardware.device} is too small for a single image of "
                    f"{self.geometry.input_size[0]} x {self.geometry.input_size[1]} (height x width). Free some, or "
                    "predict on another device: --params inference.device=cpu"
                ) from error
            traceback.clear_frames(error.__traceback__)  # they hold what did not fit
            self._most = count // 2
        logger.warning("Memory has no room for %d images at once: going on with %d", count, self._most)
        return self.logits(fitted)

    def _placed(self, segmenter: Segmenter) -> Segmenter:
        # In the precision that they are used in, weights need not be converted for every batch.
        segmenter.network = self.hardware.place(segmenter.network.to(self.hardware.precision))
        return segmenter

    def _logits(self, fitted: Tensor) -> Tensor:
        images = fitted.to(self.hardware.device, non_blocking=True)
        found = []
        with self.hardware.autocast():
            for segmenter in self._segmenters:
                found.append(segmenter(images))
                if self.flip:
                    found.append(segmenter(images.flip(2)).flip(2))
        if len(found) == 1:
            return found[0]
        # Without float64 the logit of a probability near 1 would be coarse.
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
        shard_size: int | None = None,
        on_bad_image: Literal["stop", "empty"] = "stop",
    ) -> Iterator[Prediction]:
        """Yield a prediction for every image, in order, some batches in memory at a time.

        Args:
            source: where photographs are read.
            image_ids: which.
            batch_size: images that go through the networks at once.
            num_workers: processes that read; 0 reads in this one.
            shard_size: no batch reaches across a multiple of it, so that who begins again at one gets the same batches.
            on_bad_image: what to do about one that cannot be read.

        Raises:
            UserError: an image cannot be read, a worker was killed, or memory has no room for an image.
        """
        photographs = _FittedImages(source, image_ids, self.geometry, on_bad_image == "empty")
        on_gpu = self.hardware.device.type == "cuda"
        read = Reader(photographs.read, photographs.image_ids, num_workers, pin_memory=on_gpu)
        count, shard = len(image_ids), shard_size or len(image_ids)
        batches = [
            np.arange(start, min(start + batch_size, end, count))
            for begin in range(0, count, shard or 1)
            for end in [begin + shard]
            for start in range(begin, min(end, count), batch_size)
        ]
        largest = max(map(len, batches), default=0)
        waiting: list[Prediction] = []
        for ids, fitted, sizes, problems in read(batches):
            if self.hardware.compile and len(fitted) < largest:  # another shape would be compiled anew
                fitted = torch.cat([fitted, fitted[:1].expand(largest - len(fitted), -1, -1, -1)])
            batch = [
                Prediction(
                    image_id,
                    (height, width),
                    torch.full_like(logits, -100) if problem else logits,
                    self.geometry,
                    problem,
                )
                for image_id, (height, width), logits, problem in zip(
                    ids, sizes, self.logits(fitted)[: len(ids)], problems, strict=True
                )
            ]
            # A GPU computes these while the ones before them are put to use.
            yield from waiting if on_gpu else batch
            waiting = batch
        if on_gpu:
            yield from waiting


class _Read(NamedTuple):
    ids: list[str]
    fitted: Tensor
    sizes: list[Size]
    problems: list[str]


class _FittedImages:
    """Images fitted to the output size, and their own sizes."""

    def __init__(
        self, source: ImageReader, image_ids: Sequence[str], geometry: Geometry, goes_on: bool
    ) -> None:
        self.source = source
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry
        self.goes_on = goes_on

    def read(self, positions: Iterable[int]) -> _Read:
        batch = _Read([], torch.empty(0), [], [])
        images = []
        for position in positions:
            image_id = str(self.image_ids[position])
            try:
                with errors_naming(image_id):
                    image = self.source.read_image(image_id, at_least=self.geometry.output_size)
                    size, problem = self.source.size(image_id), ""
            except UserError as error:
                if not self.goes_on:
                    raise
                image = np.zeros((*self.geometry.output_size, 3), np.uint8)
                size, problem = self.geometry.output_size, str(error)
            images.append(self.geometry.fit_image(image))
            batch.ids.append(image_id)
            batch.sizes.append(size)
            batch.problems.append(problem)
        return batch._replace(fitted=torch.from_numpy(np.stack(images)))
