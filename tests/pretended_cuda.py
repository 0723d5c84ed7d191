"""A CUDA device on a machine without one: its tensors have device, dtype, layout and shape, but no values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from carvana_kedro.segmentation.hardware import Hardware

GPU = Hardware(torch.device("cuda", 0), torch.bfloat16, channels_last=True, compile=False, fused=True)


@contextmanager
def pretended_cuda(*networks: nn.Module) -> Iterator[None]:
    """Create tensors without values within the block, and pretend that CUDA has autocast, bfloat16 and cuDNN.

    Reading a value, which a real GPU would have to be waited for, raises `DataDependentOutputException`. There is no
    backward pass.

    Args:
        networks: Their weights are replaced by pretended ones on CUDA, with the channels_last layout, for good.
    """
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        patch.setattr(torch._C, "_select_conv_backend", lambda *_, **__: torch._C._ConvBackend.Cudnn)
        patch.setattr(torch._C, "_conv_determine_backend_memory_format", _layout_of_cudnn)
        for network in networks:
            _move(network)
        yield


class Operations(TorchDispatchMode):
    """Records the operations inside the block.

    Attributes:
        calls: The operation, its arguments and its keyword arguments.
        copies: For each copy between devices: the device it goes to, and whether the program does not wait for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self.copies: list[tuple[torch.device, bool]] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        self.calls.append((operation, args, options))
        result = operation(*args, **options)
        source = next((value for value in args if isinstance(value, Tensor)), None)
        if isinstance(result, Tensor) and source is not None and result.device != source.device:
            self.copies.append((result.device, options.get("non_blocking", False)))
        return result

    @property
    def inputs_of_convolutions(self) -> list[Tensor]:
        """The first argument of each convolution."""
        return [
            args[0] for operation, args, _ in self.calls if operation is torch.ops.aten.convolution.default
        ]


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether a 4-dimensional tensor has the channels_last layout."""
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _layout_of_cudnn(images: Tensor, weight: Tensor, _: object) -> torch.memory_format:
    # As `cudnn_conv_suggest_memory_format` in ATen/native/ConvUtils.h.
    return (
        torch.channels_last
        if is_channels_last(images) or is_channels_last(weight)
        else torch.contiguous_format
    )


def _move(network: nn.Module) -> None:
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
                moved = torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU.device, memory_format=layout)
                table[name] = (
                    nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
                )
