"""Export of trained models to files that do not need this package: ONNX, and PyTorch's exported programs.

    image --resize--> (N, h, w, 3) uint8 --file--> logits --enlarge, compare--> mask

The file contains what depends on the network: scaling the colors and padding the image. The user of the file does what
any image library can do: resizing and comparing. The metadata of the file describes these steps.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.stores.atomic import atomic_path

METADATA_FILE = "metadata.json"
"""Name of the metadata in the `extra_files` of a program."""

_PREPROCESSING = (
    "Turn the image upright. Resize it to {height} x {width} (height x width) without keeping its aspect ratio: by "
    "area averaging (OpenCV: INTER_AREA), or bilinearly (INTER_LINEAR) along an axis that grows. Colors are RGB, uint8 "
    "from 0 to 255. Do not scale the colors or pad the image: the model does both."
)
_POSTPROCESSING = (
    "First enlarge the logits bilinearly to the image's size (OpenCV: INTER_LINEAR; PyTorch: bilinear, "
    "align_corners=False). Then compare: a pixel belongs to the car if its logit exceeds log(threshold / (1 - "
    "threshold)). The probability is the sigmoid, 1 / (1 + exp(-logit))."
)


class ExportableModel(Segmenter):
    """A trained model for export: a segmenter on the CPU in float32, with metadata.

    Attributes:
        metadata: How to use the model and where it comes from.
    """

    def __init__(self, model: TrainedModel, trusted: Iterable[str] = ()) -> None:
        """Build it from a trained model.

        Args:
            model: A model with one member.
            trusted: Dotted paths of networks that may be imported: see `Member.build_network`.

        Raises:
            UserError: The network cannot be built from the model, or the model has several members.
        """
        member = _only_member(model)
        network = member.build_network(trusted)
        super().__init__(network, Geometry.of(network, member.input_size))
        height, width = self.geometry.output_size
        self.metadata = {
            "architecture": str(member.architecture),
            "run_id": member.run_id,
            "model_digest": model.digest(),
            "input": f"images: (N, {height}, {width}, 3) uint8",
            "height": str(height),
            "width": str(width),
            "color_order": "RGB",
            "range": "0 to 255",
            "preprocessing": _PREPROCESSING.format(height=height, width=width),
            "output": f"logits: (N, {height}, {width}) float32",
            "postprocessing": _POSTPROCESSING,
            "threshold": str(member.threshold),
        }
        if member.best_threshold is not None:
            self.metadata["best_threshold"] = str(member.best_threshold)


def to_onnx(model: ExportableModel, path: Path) -> None:
    """Write a model as one ONNX file, with the metadata in `metadata_props`. The file is written atomically.

    The input is `images`, (N, h, w, 3) uint8; the output is `logits`, (N, h, w) float32, for any N.

    Raises:
        UserError: The packages for ONNX are not installed, or the file cannot be written.
    """
    _write(path, onnx.to_bytes(model, model.metadata))


def to_program(model: ExportableModel, path: Path) -> None:
    """Write a model as a program for `torch.export.load`, with the metadata in `extra_files`. Written atomically.

    The program needs PyTorch, but not this package. It takes (N, h, w, 3) uint8 images and returns (N, h, w) float32
    logits, for any N.

    Raises:
        UserError: The file cannot be written.
    """
    buffer = io.BytesIO()  # torch writes to names in *.pt2 only, and its errors do not say why writing failed
    metadata = json.dumps(model.metadata, indent=2)
    torch.export.save(onnx.traced(model), buffer, extra_files={METADATA_FILE: metadata})
    _write(path, buffer.getbuffer())


FORMATS: Mapping[str, tuple[str, Callable[[ExportableModel, Path], None]]] = {
    "onnx": ("model.onnx", to_onnx),
    "program": ("model.pt2", to_program),
}
"""The file name of each format, and the function that writes it."""


def check_export(
    model: TrainedModel, paths: Sequence[Path], image: NDArray[np.uint8], trusted: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Compare exported files with the original network on the CPU in float32, without folded BatchNorm.

    Args:
        model: The exported model.
        paths: `*.onnx` or `*.pt2` files.
        image: (H0, W0, 3) uint8 RGB of any size, like the images that the model was trained on.
        trusted: Dotted paths of networks that may be imported: see `Member.build_network`.

    Returns:
        One row per file and batch: `file`, `images` (what is in the batch), `batch_size`, `largest_logit` and
        `largest_difference` (absolute values), and `differing_pixels`, the share of pixels in which the masks at the
        model's threshold differ.

    Raises:
        UserError: onnxruntime is not installed.
    """
    member = _only_member(model)
    network = member.build_network(trusted).eval()
    geometry = Geometry.of(network, member.input_size)
    limit = np.log(member.threshold / (1 - member.threshold))
    exported = {path: _load(path) for path in paths}
    rows = []
    for name, batch in _test_batches(geometry.fit_image(image)).items():
        images = torch.from_numpy(np.stack(batch))
        with torch.inference_mode():
            scaled = images.permute(0, 3, 1, 2).float() / 255
            expected = network(geometry.pad(scaled)).numpy()
            found = {path: predict(images).numpy() for path, predict in exported.items()}
        for path, logits in found.items():
            rows.append(
                {
                    "file": path.name,
                    "images": name,
                    "batch_size": len(images),
                    "largest_logit": float(np.abs(expected).max()),
                    "largest_difference": float(np.abs(logits - expected).max()),
                    "differing_pixels": float(((logits > limit) != (expected > limit)).mean()),
                }
            )
    return sorted(rows, key=lambda row: row["file"])


def _test_batches(fitted: NDArray[np.uint8]) -> dict[str, list[NDArray[np.uint8]]]:
    """Return batches made from an image at the output size, by name."""
    noise = np.random.default_rng(0).integers(256, size=fitted.shape, dtype=np.uint8)
    return {
        "image": [fitted],
        "noise": [noise],
        "black": [np.zeros_like(fitted)],
        "white": [np.full_like(fitted, 255)],
        "image, mirrored, noise": [fitted, fitted[:, ::-1], noise],
    }


def _only_member(model: TrainedModel) -> Member:
    if len(model.members) > 1:
        raise UserError(
            f"{len(model.members)} models were given, but an exported file contains one model. Export them one by one: "
            "--params checkpoint=FILE"
        )
    return model.members[0]


def _load(path: Path) -> Callable[[Tensor], Tensor]:
    """Load an exported file as a function from images to logits."""
    if path.suffix == ".onnx":
        return onnx.OnnxSegmenter(path)
    program: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return program


def _write(path: Path, content: bytes | memoryview) -> None:
    with atomic_path(path) as part:
        part.write_bytes(content)
