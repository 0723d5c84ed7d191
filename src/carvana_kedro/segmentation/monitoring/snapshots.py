"""Copies of the state of a run in memory, which a thread can write while training continues."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

Content = TypeVar("Content")


class Snapshots:
    """Copies tensors and plain values, the tensors to memory of the CPU.

    The memory of a copy is used again for the next one: allocating it takes longer than copying.

    >>> weights = torch.ones(2)
    >>> copied = Snapshots().take({"weights": weights, "history": [1]})
    >>> _ = weights.zero_()
    >>> copied
    {'weights': tensor([1., 1.]), 'history': [1]}
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[object, ...], Tensor] = {}

    def take(self, content: Content) -> Content:
        """Copy content. What this method returned before is overwritten, so nobody may use it any more.

        Tensors that share memory share the copy's, so that a file of the copy has the bytes of a file of the original.

        Args:
            content: Tensors and plain values in mappings, lists and tuples.
        """
        tensors = list(_tensors(content))
        sources = {_place(tensor): tensor for tensor in tensors}
        self._copies = {place: _copy(source, self._copies.get(place)) for place, source in sources.items()}
        if any(tensor.is_cuda for tensor in tensors):
            torch.cuda.synchronize()  # until then, copies are incomplete
        copies = {id(tensor): self._copies[_place(tensor)].detach() for tensor in tensors}
        return copy.deepcopy(content, dict(copies))


def _tensors(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for value in content.values() if isinstance(content, Mapping) else content:
            yield from _tensors(value)


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Return a key that is equal for tensors with the same memory and layout."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _copy(tensor: Tensor, memory: Tensor | None) -> Tensor:
    """Copy a tensor with its layout; from CUDA to pinned memory if possible, without waiting.

    Args:
        tensor: What to copy.
        memory: An earlier copy of a tensor of this place, which is overwritten. None: there is none.
    """
    if memory is None:
        memory = _like(tensor)
    return memory.copy_(tensor.detach(), non_blocking=tensor.is_cuda)


def _like(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        with suppress(RuntimeError):  # the system limits pinned memory
            return torch.empty_like(tensor, device="cpu", pin_memory=True, requires_grad=False)
    return torch.empty_like(tensor, device="cpu", requires_grad=False)
