"""Export of segmenters to ONNX, and inference with ONNX Runtime."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.architectures.smp import SmpNetwork
from carvana_kedro.segmentation.hardware import is_out_of_memory
from carvana_kedro.segmentation.prediction.segmenter import Segmenter

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def traced(segmenter: Segmenter) -> torch.export.ExportedProgram:
    """Export a segmenter as a program that takes any number of images.

    Args:
        segmenter: Segmenter on the CPU.

    Returns:
        A program from `(N, h, w, 3)` uint8 images to `(N, h, w)` float32 logits.

    Raises:
        UserError: torch.export cannot export the network.
    """
    # Two images, because torch.export treats a dimension of size 1 as a constant.
    images = torch.zeros(2, *segmenter.geometry.output_size, 3, dtype=torch.uint8)
    with _errors_naming(segmenter.network, "torch.export"):
        program = torch.export.export(
            segmenter, (images,), dynamic_shapes={"images": {0: torch.export.Dim("N")}}
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains paths of this machine
    return program


def to_bytes(segmenter: Segmenter, metadata: Mapping[str, str] | None = None) -> bytes:
    """Export a segmenter to the content of an ONNX file.

    The model has the input `images`, `(N, h, w, 3)` uint8, and the output `logits`, `(N, h, w)` float32, for any N.

    Args:
        segmenter: Segmenter on the CPU in float32.
        metadata: Entries for the model's `metadata_props`.

    Raises:
        UserError: onnx or onnxscript is not installed, or the network cannot be exported.
    """
    require("onnx", "onnxscript")
    program = traced(segmenter)
    with _errors_naming(segmenter.network, "torch.onnx.export"):
        exported = torch.onnx.export(
            program,
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


@contextmanager
def _errors_naming(network: SegmentationNetwork, exporter: str) -> Iterator[None]:
    """Turn any error of an exporter into one that names the network and the reason."""
    try:
        yield
    except Exception as error:  # the exporters' errors have no common base
        if is_out_of_memory(error):
            raise
        reason: BaseException = error
        while reason.__cause__ is not None:  # the outermost error is general advice
            reason = reason.__cause__
        kind = type(network)
        name = network.name if isinstance(network, SmpNetwork) else f"{kind.__module__}.{kind.__qualname__}"
        raise UserError(
            f"The network {name} cannot be exported: {exporter} raised {type(reason).__name__}: "
            f"{str(reason).strip().partition(chr(10))[0]}. An exported network must take any number of images, and "
            "its control flow must not depend on the values of tensors. To predict without ONNX: --params "
            "inference.engine=torch."
        ) from error


def choose_device(name: str) -> str:
    """Return the name of the device for ONNX Runtime.

    Args:
        name: `cpu`, `cuda`, or `auto` for the fastest available device.

    Raises:
        UserError: onnxruntime is not installed or does not support the device.
    """
    require("onnxruntime")
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() and _PROVIDERS["cuda"] in available else "cpu"
    if _PROVIDERS.get(name) not in available:
        raise _unsupported_device(name)
    return name


class OnnxSegmenter:
    """Runs an exported segmenter with ONNX Runtime, in float32, in as many threads as PyTorch.

    Args:
        model: Path or content of an ONNX file.
        device: `cpu`, `cuda` (requires the package onnxruntime-gpu), or `auto`.

    Raises:
        UserError: onnxruntime is not installed or cannot use the device.
    """

    needs_autocast = False

    def __init__(self, model: Path | bytes, device: str = "cpu") -> None:
        """Load and optimize the model."""
        device = choose_device(device)
        provider = _PROVIDERS[device]
        import onnxruntime

        options = {"use_tf32": 0} if device == "cuda" else {}
        content = model if isinstance(model, bytes) else str(model)
        settings = onnxruntime.SessionOptions()
        # By itself it would use all cores, in each of several processes.
        settings.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(content, settings, providers=[(provider, options)])
        if (
            provider not in self._session.get_providers()
        ):  # ONNX Runtime silently skips providers it cannot load
            raise _unsupported_device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Predict the logits of a batch.

        Args:
            images: `(N, h, w, 3)` uint8 RGB.

        Returns:
            `(N, h, w)` float32 logits on the device of the images.

        Raises:
            MemoryError: The batch does not fit into memory.
        """
        try:
            (logits,) = self._session.run(["logits"], {"images": images.cpu().numpy()})
        except Exception as error:  # ONNX Runtime has no exception class for missing memory
            if any(text in str(error) for text in _OUT_OF_MEMORY):
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(np.asarray(logits)).to(images.device)


def _unsupported_device(device: str) -> UserError:
    return UserError(
        f"engine=onnxruntime: the installed onnxruntime does not support device={device}. Choose device=cpu or "
        "engine=torch; for NVIDIA GPUs, install the package onnxruntime-gpu."
    )


def require(*packages: str) -> None:
    """Check that optional packages are installed.

    Args:
        packages: Import names of the packages.

    Raises:
        UserError: A package is not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(
            f'ONNX needs {" and ".join(missing)}: pip install "carvana-kedro[export]". Without ONNX, export with '
            "--params export.formats=[program] and predict with --params inference.engine=torch."
        )
