"""Copies of tensors to a device that do not make the CPU or the device wait."""

import torch
from torch import Tensor


def copy_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the work that the device has yet to do.

    Args:
        tensor: A small tensor on the CPU or on the device: on its way to a GPU it is copied to pinned memory first.
        device: Where to copy it.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)  # without pinned memory, the source could be freed before it is read


class Upload:
    """Copies batches to a device. A GPU receives them on a stream of its own, while it computes.

    The batches should be in pinned memory that PyTorch has allocated: PyTorch does not give such memory out again
    before the copy has ended. Other memory is copied correctly too, but the CPU waits.

    Args:
        device: Where to copy the batches.
    """

    def __init__(self, device: torch.device) -> None:
        """Store the argument; the first batch creates the stream."""
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors on the device. Work that is submitted after this call waits for the copies."""
        if self._device.type != "cuda" or all(tensor.device.type == "cuda" for tensor in tensors):
            return tuple(tensor.to(self._device) for tensor in tensors)
        self._stream = self._stream or torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            copies = tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for copied in copies:
            # The memory belongs to the copying stream, which must not write the next batch into it before the
            # computation has ended.
            copied.record_stream(computing)
        return copies
