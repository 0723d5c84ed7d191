"""A pretended GPU: tensors without values on the device `cuda:0`, on a machine that need not have one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from carvana_kedro.segmentation.hardware import Hardware

GPU = Hardware(torch.device("cuda", 0), torch.bfloat16, channels_last=True, compile=False, fused=True)


class Operations(TorchDispatchMode):
    """Records the operations inside the block, and gives the results of convolutions the layout of a GPU's.

    Enter it inside the `FakeTensorMode`.

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
        self.calls.append((operation, args, kwargs or {}))
        result = operation(*args, **(kwargs or {}))
        if (
            isinstance(result, Tensor)
            and args
            and isinstance(args[0], Tensor)
            and result.device != args[0].device
        ):
            self.copies.append((result.device, (kwargs or {}).get("non_blocking", False)))
        if operation is torch.ops.aten.convolution.default and any(map(_is_channels_last, args[:2])):
            return result.contiguous(memory_format=torch.channels_last)  # as cuDNN does
        return result

    @property
    def inputs_of_convolutions(self) -> list[Tensor]:
        return [
            args[0] for operation, args, _ in self.calls if operation is torch.ops.aten.convolution.default
        ]


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def place(module: nn.Module, pretended: FakeTensorMode) -> None:
    """Do in place what `Hardware.place` does, for tensors without values."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is not None:
                    layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
                    with torch.no_grad():
                        moved = pretended.from_tensor(tensor).to(GPU.device, memory_format=layout)
                    tensors[name] = (
                        nn.Parameter(moved, requires_grad=False)
                        if isinstance(tensor, nn.Parameter)
                        else moved
                    )
