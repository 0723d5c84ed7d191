"""Segmenters as ONNX: written down, and computed by ONNX Runtime."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.prediction.segmenter import Segmenter


def traced(segmenter: Segmenter) -> torch.export.ExportedProgram:
    """Return a segmenter's program, which takes any number of images."""
    # Of a single image torch would make a constant.
    images = torch.zeros(2, *segmenter.geometry.output_size, 3, dtype=torch.uint8)
    program = torch.export.export(segmenter, (images,), dynamic_shapes={"images": {0: torch.export.Dim("N")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def to_bytes(segmenter: Segmenter, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a segmenter as the content of an ONNX file.

    Input `images`, (N, h, w, 3) uint8; output `logits`, (N, h, w) float32; N is free.

    Args:
        segmenter: on the CPU in float32.
        metadata: for the file's `metadata_props`.

    Raises:
        UserError: packages that this needs are not installed.
    """
    require("onnx", "onnxscript")
    exported = torch.onnx.export(
        traced(segmenter),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: "N"}},
        verbose=False,
    )
    assert exported
    exported.model.metadata_props.update(metadata or {})
    content: bytes = exported.model_proto.SerializeToString()
    return content


_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def choose_device(name: str) -> str:
    """Return the device that ONNX Runtime is to compute on: the named one, or the best that it knows of.

    Raises:
        UserError: onnxruntime is not installed, or does not know the device.
    """
    require("onnxruntime")
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() and _PROVIDERS["cuda"] in known else "cpu"
    if _PROVIDERS.get(name) not in known:
        raise _unknown(name)
    return name


class OnnxSegmenter:
    """What ONNX Runtime makes of a segmenter: called with (N, h, w, 3) uint8, it returns (N, h, w) float32 logits.

    Args:
        model: an ONNX file, or the content of one.
        device: `cpu`, `cuda` where the package onnxruntime-gpu is installed, or `auto`.

    Raises:
        UserError: onnxruntime is not installed, or cannot use the device.
    """

    def __init__(self, model: Path | bytes, device: str = "cpu") -> None:
        """Let ONNX Runtime optimize the network."""
        device = choose_device(device)
        provider = _PROVIDERS[device]
        import onnxruntime

        options = {"use_tf32": 0} if device == "cuda" else {}
        content = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(content, providers=[(provider, options)])
        if provider not in self._session.get_providers():  # it goes on without what it cannot load
            raise _unknown(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Predict logits, on the device of the images.

        Raises:
            MemoryError: they do not fit into memory at once.
        """
        try:
            (logits,) = self._session.run(["logits"], {"images": images.cpu().numpy()})
        except Exception as error:  # ONNX Runtime has no class for it
            if any(
                text in str(error) for text in ("Failed to allocate memory", "bad_alloc", "out of memory")
            ):
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(np.asarray(logits)).to(images.device)


def _unknown(device: str) -> UserError:
    return UserError(
        f"engine=onnxruntime: the onnxruntime that is installed here does not compute on {device}. Choose "
        "device=cpu, or engine=torch; for NVIDIA's GPUs there is the package onnxruntime-gpu."
    )


def require(*packages: str) -> None:
    """Make sure that packages are installed.

    Raises:
        UserError: they are not.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(
            f'ONNX needs {" and ".join(missing)}: pip install "carvana-kedro[export]". Or do without it: export with '
            "--params export.formats=[program], predict with inference.engine=torch"
        )
