"""The processes that train one network together, and what they tell each other.

Each process (rank) computes the same steps on its share of each batch. Two kinds of messages pass between them:

- sums of tensors, on the device of the tensors: nccl carries those of GPUs, gloo those of CPUs;
- agreements, always on the CPU: whether to go on, and the error of one process, which then is raised in all of them.
"""

import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

BACKEND = "cpu:gloo,cuda:nccl"
"""Backend of the process group on machines with GPUs: both kinds of messages use one group. Without GPUs: `gloo`."""


class LostProcessError(RuntimeError):
    """Another process has ended without saying why: it was killed, or it has raised an error of its own."""


@dataclass(frozen=True)
class World:
    """The processes that train together. With one process, every operation returns what it is given.

    Each operation that communicates must be called by all processes, in the same order.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes on all machines.
        local_size: Number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @classmethod
    def current(cls) -> Self:
        """Return the world of torch's process group; one process if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        size = dist.get_world_size()
        return cls(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))

    @property
    def leader(self) -> bool:
        """Whether this process locks, writes, logs and draws for all."""
        return self.rank == 0

    def share(self, batch: NDArray[Any], parts: int = 1) -> NDArray[Any]:
        """Return this process's share of a batch: a consecutive piece of each of its parts.

        >>> batch = np.arange(10)
        >>> [World(rank, 3).share(batch, parts=2).tolist() for rank in range(3)]
        [[0, 1, 5, 6], [2, 3, 7, 8], [4, 9]]
        """
        if self.size == 1:
            return batch
        return np.concatenate([np.array_split(part, self.size)[self.rank] for part in _split(batch, parts)])

    def share_sizes(self, count: int, parts: int = 1) -> list[int]:
        """Return how many images `share` takes of each part of a batch of `count` images.

        >>> World(2, 3).share_sizes(10, parts=2)
        [1, 1]
        """
        return [len(range(self.rank, len(part), self.size)) for part in _split(range(count), parts)]

    def deal(self, items: Sequence[T]) -> list[T]:
        """Return the items that are this process's when whole items are dealt, the last one to the leader.

        >>> [World(rank, 2).deal("abcde") for rank in range(2)]
        [['a', 'c', 'e'], ['b', 'd']]
        """
        return [item for left, item in enumerate(items, 1 - len(items)) if -left % self.size == self.rank]

    def collect(self, dealt: list[T]) -> list[T]:
        """Return what all processes made of the items that `deal` gave them, in the order of the items."""
        if self.size == 1:
            return dealt
        hands = self.gather(dealt[::-1])  # from the last item on
        rounds = range(max(map(len, hands)))
        return [hand[turn] for turn in rounds for hand in hands if turn < len(hand)][::-1]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes. The CPU does not wait for a GPU."""
        if self.size > 1:
            values = values.clone()
            with noticing_lost_processes():
                dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of the values of all processes, which may have different numbers of them."""
        if self.size == 1:
            return values.mean()
        total = values.sum()
        total, count = self.sum(torch.stack([total, total.new_tensor(values.numel())]))
        return total / count

    def agree(self, code: int) -> int:
        """Return the highest of the processes' codes."""
        if self.size == 1:
            return code
        codes = torch.tensor([code])
        with noticing_lost_processes():
            dist.all_reduce(codes, dist.ReduceOp.MAX)
        return int(codes)

    def lead(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the leader."""
        if self.size > 1:
            for tensor in tensors:
                with noticing_lost_processes():
                    dist.broadcast(tensor, 0)

    def led(self, value: T) -> T:
        """Return the leader's value. It must be picklable."""
        values = [value]
        if self.size > 1:
            with noticing_lost_processes():
                dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks. They must be picklable."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with noticing_lost_processes():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise an error of the block in all processes: that of the lowest rank, if several have one.

        The block must not communicate. Without an error this costs one small message.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        if self.agree(error is not None):
            errors = self.gather(error and portable(error))
            first = next(rank for rank, found in enumerate(errors) if found is not None)
            failed = error if first == self.rank else errors[first]
            assert failed is not None
            raise failed


def replicate(network: Module, world: World) -> DistributedDataParallel | None:
    """Return what computes the same as a network and sums its gradients over the processes; None for one process.

    The sums are computed while the backward pass goes on. The network itself stays as it is, and so do the names of its
    weights. All processes start with the weights of the leader.
    """
    if world.size == 1:
        return None
    with warnings.catch_warnings(), noticing_lost_processes():
        # PyTorch 2.14 has a new name for it, which 2.10 does not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        replica = DistributedDataParallel(
            network,
            broadcast_buffers=False,  # of a global BatchNorm they are equal; of a local one `lead` makes them so
            gradient_as_bucket_view=True,
            # For other people's networks. It also keeps the order of the gradients in the messages, in which more than
            # two are added: otherwise it would change after the first step, and a resumed run would differ.
            find_unused_parameters=True,
        )
    replica.register_comm_hook(None, _sum)
    return replica


def _sum(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Sum gradients, of which DistributedDataParallel by itself computes the mean."""
    summed: torch.futures.Future[Tensor] = (
        dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])
    )
    return summed


def portable(error: Exception, largest: int = 100_000) -> Exception:
    """Return the error, or one with the same text if it cannot be sent to another process in `largest` bytes."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
        if len(content) <= largest:
            return error
    except Exception:  # the user's code may define any error
        pass
    return RuntimeError(f"{type(error).__name__}: {error}"[: largest // 4])


ALONE = World()
"""One process."""


@contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Raise LostProcessError if a message fails because another process is gone; other errors stay as they are."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, LostProcessError) or not _is_lost_connection(error):
            raise
        raise LostProcessError(f"Another process of this training has ended: {error}") from error


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether a connection of gloo or nccl has failed. Gloo has no class of its own for it."""
    text = str(error)
    of_gloo = re.search(r"gloo/(transport|rendezvous)/|connectFullMesh", text)
    return isinstance(error, dist.DistError) or (
        of_gloo is not None and "enforce fail" not in text
    )  # sizes differ


def _split(batch: Any, parts: int) -> list[Any]:
    """Split a sequence as `torch.chunk` does: into at most `parts` parts, of which only the last may be shorter."""
    size = -(-len(batch) // parts)
    return [batch[start : start + size] for start in range(0, len(batch), size)]
