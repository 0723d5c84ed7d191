"""The moving average of a network's weights."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module


class WeightAverage:
    """The exponential moving average of a network's weights (Polyak & Juditsky 1992).

    The n-th update, n from 0, computes `average = d * average + (1 - d) * network` with
    `d = min(decay, (1 + n) / (10 + n))`, as TensorFlow's ExponentialMovingAverage does. With a fixed decay, the random
    initial weights would dominate a short run. The first update copies the weights. Float buffers (BatchNorm's
    statistics) are averaged too; integer buffers are copied.

    Results and state are those of PyTorch's `AveragedModel`, which however waits for the GPU in every update.

    Attributes:
        module: The averaged network.
        updates: Number of updates so far.
    """

    def __init__(self, network: Module, decay: float) -> None:
        """Start with a copy of the network, on its device and in its memory format.

        Args:
            network: The network to average.
            decay: In [0, 1). The average covers about the last `1 / (1 - decay)` steps.
        """
        self.module = copy.deepcopy(network)
        self.updates = 0
        self._network = network
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights and buffers of the network."""
        (averaged, current), others = self._floats_and_others()
        if self.updates:
            weight = 1 - min(self._decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)
        if others[0]:
            torch._foreach_copy_(others[0], others[1])
        self.updates += 1

    def _floats_and_others(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Return the tensors of the average and those of the network, by kind."""
        # Looked up each time: a network may assign new buffers.
        averaged, current = (
            [*network.parameters(), *network.buffers()] for network in (self.module, self._network)
        )
        pairs = list(zip(averaged, current, strict=True))
        kinds = [
            [pair for pair in pairs if pair[0].is_floating_point() == floats] for floats in (True, False)
        ]
        return [([one for one, _ in kind], [other for _, other in kind]) for kind in kinds]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, in the form of PyTorch's `AveragedModel`."""
        weights = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {"n_averaged": torch.tensor(self.updates), **weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        weights = {
            name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"
        }
        self.module.load_state_dict(weights)
        self.updates = int(state["n_averaged"])
