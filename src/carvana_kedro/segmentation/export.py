"""Trained models as files that need nothing of this package: ONNX, and PyTorch's exported programs.

    photograph --resize--> images (uint8) --file--> logits --enlarge, compare--> mask

What differs from network to network is inside of the file: the range of the colours, the mirrored margin. What any
image library does is left to who uses it, and is described in the file's metadata.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import build
from carvana_kedro.segmentation.geometry import Geometry
from carvana_kedro.segmentation.predictor import Predictor
from carvana_kedro.stores.atomic import atomic_path

METADATA_FILE = "metadata.json"
"""Name of the metadata among a program's `extra_files`."""

_PREPROCESSING = (
    "Turn the photograph upright and resize the whole of it to {height} x {width} (height x width), whatever its "
    "proportions: by area averaging (OpenCV: INTER_AREA), and bilinearly (INTER_LINEAR) along an axis that grows. "
    "Colours are RGB, uint8 from 0 to 255; scaling and padding them is done inside."
)
_POSTPROCESSING = (
    "Enlarge the logits bilinearly to the photograph's size (OpenCV: INTER_LINEAR; PyTorch: bilinear, "
    "align_corners=False), and only then compare: the car is where a logit exceeds log(threshold / (1 - threshold)). "
    "The probability is the sigmoid, 1 / (1 + exp(-logit))."
)


class ExportableModel(nn.Module):
    """A network that only predicts, with what it needs around it: uint8 images in, logits out.

    Logits, not probabilities: enlarged to the photograph's size, they keep the edge between the network's pixels.

    Attributes:
        network: in evaluation, on the CPU in float32, its BatchNorm folded.
        geometry: of the network.
        metadata: how to use the model and where it comes from, as plain text.
    """

    def __init__(self, model: Mapping[str, Any], model_digest: str) -> None:
        """Build it from what training stored as `model`.

        Args:
            model: weights and all that is needed to use them.
            model_digest: short hash of the model, for the metadata.

        Raises:
            UserError: it is no such thing, or several models at once.
        """
        super().__init__()
        model = _only_member(model)
        predictor = Predictor.from_model(model, device="cpu", precision="float32")
        self.geometry = predictor.geometry
        # The layout that made predicting faster here would be written into the file.
        self.network = predictor.networks[0].to(memory_format=torch.contiguous_format).requires_grad_(False)
        height, width = self.geometry.output_size
        self.metadata = {
            "architecture": str(model["architecture"]),
            "run_id": str(model["run_id"]),
            "model_digest": model_digest,
            "input": f"images: (N, {height}, {width}, 3) uint8",
            "height": str(height),
            "width": str(width),
            "colour_order": "RGB",
            "range": "0 to 255",
            "preprocessing": _PREPROCESSING.format(height=height, width=width),
            "output": f"logits: (N, {height}, {width}) float32",
            "postprocessing": _POSTPROCESSING,
            "threshold": str(model["threshold"]),
        }
        if model.get("best_threshold") is not None:
            self.metadata["best_threshold"] = str(model["best_threshold"])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits: (N, h, w, 3) uint8 to (N, h, w) float32."""
        return _logits(self.network, self.geometry, images)


def to_onnx(model: ExportableModel, path: Path) -> None:
    """Write a model as one ONNX file, whole or not at all, its metadata in `metadata_props`.

    Input `images`, (N, h, w, 3) uint8; output `logits`, (N, h, w) float32; N is free.

    Raises:
        UserError: packages that this needs are not installed, or the file cannot be written.
    """
    _require("onnx", "onnxscript")
    exported = torch.onnx.export(
        _program(model),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: "N"}},
        verbose=False,
    )
    assert exported
    exported.model.metadata_props.update(model.metadata)
    with _written(path) as part:
        exported.save(part, external_data=False)


def to_program(model: ExportableModel, path: Path) -> None:
    """Write a model as a program for `torch.export.load`, whole or not at all, its metadata in `extra_files`.

    It needs PyTorch and no class of this package. It takes (N, h, w, 3) uint8 images and returns (N, h, w) float32
    logits; N is free.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()  # torch takes no name but *.pt2, and does not tell why it could not write
    torch.export.save(
        _program(model), buffer, extra_files={METADATA_FILE: json.dumps(model.metadata, indent=2)}
    )
    with _written(path) as part:
        part.write_bytes(buffer.getbuffer())


FORMATS: Mapping[str, tuple[str, Callable[[ExportableModel, Path], None]]] = {
    "onnx": ("model.onnx", to_onnx),
    "program": ("model.pt2", to_program),
}
"""By name: what a file of the format is called, and what writes it."""


def check_export(
    model: Mapping[str, Any], paths: Sequence[Path], picture: NDArray[np.uint8]
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
    model = _only_member(model)
    network = build(model["architecture"], width_multiplier=model["width_multiplier"])
    network.load_state_dict(model["weights"])
    network.eval()
    geometry = Geometry.of(network, tuple(model["input_size"]))
    fitted = geometry.fit_image(picture)
    noise = np.random.default_rng(0).integers(256, size=fitted.shape, dtype=np.uint8)
    batches = {
        "picture": [fitted],
        "noise": [noise],
        "black": [np.zeros_like(fitted)],
        "white": [np.full_like(fitted, 255)],
        "picture, mirrored, noise": [fitted, fitted[:, ::-1], noise],
    }
    limit = np.log(model["threshold"] / (1 - model["threshold"]))
    running = {path: _running(path) for path in paths}
    rows = []
    for name, pictures in batches.items():
        images = np.stack(pictures)
        with torch.inference_mode():
            expected = _logits(network, geometry, torch.from_numpy(images)).numpy()
        for path, run in running.items():
            found = run(images)
            rows.append(
                {
                    "file": path.name,
                    "pictures": name,
                    "batch_size": len(images),
                    "largest_logit": float(np.abs(expected).max()),
                    "largest_difference": float(np.abs(found - expected).max()),
                    "differing_pixels": float(((found > limit) != (expected > limit)).mean()),
                }
            )
    return sorted(rows, key=lambda row: row["file"])


def _logits(network: nn.Module, geometry: Geometry, images: Tensor) -> Tensor:
    logits: Tensor = network(geometry.pad(images.permute(0, 3, 1, 2).float() / 255))
    return logits


def _only_member(model: Mapping[str, Any]) -> Mapping[str, Any]:
    members = model.get("members", [model])
    if len(members) > 1:
        raise UserError(
            f"{len(members)} models were given, and a file holds one: export them one by one, --params checkpoint=FILE"
        )
    only: Mapping[str, Any] = members[0]
    return only


def _program(model: ExportableModel) -> torch.export.ExportedProgram:
    images = torch.zeros(
        2, *model.geometry.output_size, 3, dtype=torch.uint8
    )  # of 1 torch would make a constant
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("N")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def _running(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from images to the logits that a file finds in them."""
    if path.suffix == ".onnx":
        _require("onnxruntime")
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.asarray(session.run(["logits"], {"images": images})[0])

        return run
    program = torch.export.load(path).module()

    def run_program(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(program(torch.from_numpy(images)))

    return run_program


def _require(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(
            f'ONNX files need {" and ".join(missing)}: pip install "carvana-kedro[export]". Or export without them: '
            "--params export.formats=[program]"
        )


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    try:
        with atomic_path(path) as part:
            yield part
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
