"""Trained models as files that need nothing of this package: ONNX, and PyTorch's exported programs.

    photograph --resize--> images (uint8) --file--> logits --enlarge, compare--> mask

What differs from network to network is inside of the file: the range of the colors, the mirrored margin. What any
image library does is left to who uses it, and is described in the file's metadata.
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
"""Name of the metadata among a program's `extra_files`."""

_PREPROCESSING = (
    "Turn the photograph upright and resize the whole of it to {height} x {width} (height x width), whatever its "
    "proportions: by area averaging (OpenCV: INTER_AREA), and bilinearly (INTER_LINEAR) along an axis that grows. "
    "Colors are RGB, uint8 from 0 to 255; scaling and padding them is done inside."
)
_POSTPROCESSING = (
    "Enlarge the logits bilinearly to the photograph's size (OpenCV: INTER_LINEAR; PyTorch: bilinear, "
    "align_corners=False), and only then compare: the car is where a logit exceeds log(threshold / (1 - threshold)). "
    "The probability is the sigmoid, 1 / (1 + exp(-logit))."
)


class ExportableModel(Segmenter):
    """A trained model as it is given away: a segmenter on the CPU, in float32, that says how to use it.

    Attributes:
        metadata: how to use the model and where it comes from, as plain text.
    """

    def __init__(self, model: TrainedModel, trusted: Iterable[str] = ()) -> None:
        """Build it from a trained model.

        Args:
            model: With one member.
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
    """Write a model as one ONNX file, whole or not at all, its metadata in `metadata_props`.

    Input `images`, (N, h, w, 3) uint8; output `logits`, (N, h, w) float32; N is free.

    Raises:
        UserError: packages that this needs are not installed, or the file cannot be written.
    """
    _write(path, onnx.to_bytes(model, model.metadata))


def to_program(model: ExportableModel, path: Path) -> None:
    """Write a model as a program for `torch.export.load`, whole or not at all, its metadata in `extra_files`.

    It needs PyTorch and no class of this package. It takes (N, h, w, 3) uint8 images and returns (N, h, w) float32
    logits; N is free.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()  # torch takes no name but *.pt2, and does not tell why it could not write
    metadata = json.dumps(model.metadata, indent=2)
    torch.export.save(onnx.traced(model), buffer, extra_files={METADATA_FILE: metadata})
    _write(path, buffer.getbuffer())


FORMATS: Mapping[str, tuple[str, Callable[[ExportableModel, Path], None]]] = {
    "onnx": ("model.onnx", to_onnx),
    "program": ("model.pt2", to_program),
}
"""By name: what a file of the format is called, and what writes it."""


def check_export(
    model: TrainedModel, paths: Sequence[Path], picture: NDArray[np.uint8], trusted: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Compare exported files with the network itself: in evaluation, on the CPU in float32, its BatchNorm not folded.

    Args:
        model: what was exported.
        paths: `*.onnx` or `*.pt2`.
        picture: (H0, W0, 3) uint8 RGB of any size, of the kind that the model is for. Looked at are this, random
            noise, black and white one by one, and three in a batch.

    Returns:
        A row for each file and batch: `file`, `pictures`, `batch_size`, `largest_logit` and `largest_difference`, both
        without their sign, and `differing_pixels`, the share of pixels on which the masks at the model's threshold
        differ.

    Raises:
        UserError: onnxruntime is not installed.
    """
    member = _only_member(model)
    network = member.build_network(trusted).eval()
    geometry = Geometry.of(network, member.input_size)
    fitted = geometry.fit_image(picture)
    noise = np.random.default_rng(0).integers(256, size=fitted.shape, dtype=np.uint8)
    batches = {
        "picture": [fitted],
        "noise": [noise],
        "black": [np.zeros_like(fitted)],
        "white": [np.full_like(fitted, 255)],
        "picture, mirrored, noise": [fitted, fitted[:, ::-1], noise],
    }
    limit = np.log(member.threshold / (1 - member.threshold))
    running = {path: _running(path) for path in paths}
    rows = []
    for name, pictures in batches.items():
        images = torch.from_numpy(np.stack(pictures))
        with torch.inference_mode():
            scaled = images.permute(0, 3, 1, 2).float() / 255
            expected = network(geometry.pad(scaled)).numpy()
            found = {path: run(images).numpy() for path, run in running.items()}
        for path, logits in found.items():
            rows.append(
                {
                    "file": path.name,
                    "pictures": name,
                    "batch_size": len(images),
                    "largest_logit": float(np.abs(expected).max()),
                    "largest_difference": float(np.abs(logits - expected).max()),
                    "differing_pixels": float(((logits > limit) != (expected > limit)).mean()),
                }
            )
    return sorted(rows, key=lambda row: row["file"])


def _only_member(model: TrainedModel) -> Member:
    if len(model.members) > 1:
        raise UserError(
            f"{len(model.members)} models were given, and an exported file holds one: export them one by one, "
            "--params checkpoint=FILE"
        )
    return model.members[0]


def _running(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function from images to the logits that a file finds in them."""
    if path.suffix == ".onnx":
        return onnx.OnnxSegmenter(path)
    program: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return program


def _write(path: Path, content: bytes | memoryview) -> None:
    try:
        with atomic_path(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
