"""The speed that a device allows: what a network must compute and move, at the rates that the device reaches."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import Task
from benchmarks.measuring import race
from carvana_kedro.segmentation.hardware import Hardware, measured_peak

# How often each value that BatchNorm and ReLU compute is read or written if the two are one kernel. Forward: read for
# the statistics, read, write. Backward: gradient and input are read for the sums, read again, and the gradient is
# written. For prediction BatchNorm is folded into the convolution, and ReLU reads and writes.
TRAINING_PASSES = 8
PREDICTION_PASSES = 2


@dataclass(frozen=True)
class Work:
    """What a network does for one image.

    Attributes:
        training_flop: Floating-point operations of the convolutions, forward and backward; two per multiply-add.
        prediction_flop: The same, forward.
        values: Values that go through BatchNorm and ReLU.
    """

    training_flop: float
    prediction_flop: float
    values: float

    @classmethod
    def of(cls, task: Task) -> Self:
        """Count on PyTorch's meta device, which computes nothing."""
        values = 0

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            nonlocal values
            values += output.numel()

        with torch.device("meta"):
            network, images = task.network().train(), torch.empty(2, 3, *task.input_size)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(count)
        with FlopCounterMode(display=False) as counter:
            logits = network(images)
            forward = counter.get_total_flops()
            logits.sum().backward()
        return cls(counter.get_total_flops() / 2, forward / 2, values / 2)


@dataclass(frozen=True)
class Ceilings:
    """The rates that a device reaches.

    Attributes:
        hardware: The device, and how it is used.
        peak: Floating-point operations per second of a large matrix product.
        bandwidth: Bytes per second, read and written, of a large copy on the device.
    """

    hardware: Hardware
    peak: float
    bandwidth: float

    @classmethod
    def measure(cls, hardware: Hardware) -> Self:
        """Measure both rates."""
        return cls(hardware, measured_peak(hardware), measured_bandwidth(hardware.device))

    def training_speed(self, work: Work) -> float:
        """Return the images per second of training that the rates allow, without optimizer and loss."""
        return self._speed(work.training_flop, TRAINING_PASSES * work.values)

    def prediction_speed(self, work: Work) -> float:
        """Return the images per second of the network alone, in prediction, that the rates allow."""
        return self._speed(work.prediction_flop, PREDICTION_PASSES * work.values)

    def _speed(self, flop: float, values: float) -> float:
        nbytes = values * self.hardware.precision.itemsize
        return 1 / (flop / self.peak + nbytes / self.bandwidth)


def measured_bandwidth(device: torch.device) -> float:
    """Return the bytes per second, read and written, of a large copy on the device."""
    source = torch.ones(2**31 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = race({"copy": lambda: target.copy_(source)}, rounds=10)["copy"]
    return 2 * source.nbytes / timing.best
