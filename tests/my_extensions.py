"""Networks, losses and an optimizer as a user may write them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.architectures.unet import WIDTHS, UNet


class TinyNet(SegmentationNetwork):
    """Two convolutions at half of the resolution, with dropout."""

    stride = 2

    def __init__(self, channels: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.dropout(torch.relu(self.norm(self.reduce(images))))
        logits = interpolate(self.head(features), images.shape[2:], mode="bilinear", align_corners=False)
        return logits[:, 0]


class Reordered(TinyNet):
    """BatchNorm follows the convolution among the children, but comes before it in `forward`."""

    def __init__(self) -> None:
        super().__init__(channels=3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.reduce(self.norm(images)))
        logits = interpolate(self.head(features), images.shape[2:], mode="bilinear", align_corners=False)
        return logits[:, 0]


class DerivedFromUNet(UNet):
    """Derived from a network whose BatchNorm may be fused; the layers that it adds must not be."""

    def __init__(self) -> None:
        super().__init__(WIDTHS["unet_small"], 1 / 8)
        self.gate = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.gate(self.norm(images)))


class OddMargin(TinyNet):
    def output_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        return input_size[0] - 1, input_size[1] - 1


class LossWithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (self.weight * (logits.sigmoid() - targets) ** 2).mean()


class TwoLogits(TinyNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, None].expand(-1, 2, -1, -1)


class FullyConnected(TinyNet):
    """Takes one size only, and does not say so in `output_size`."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(40, 40)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(super().forward(images))


class GlobalNorm(TinyNet):
    """BatchNorm of one value per channel and image."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.reduce(images).mean((2, 3), keepdim=True))
        return self.head(features)[:, 0].expand(-1, *images.shape[2:])


class Branching(TinyNet):
    """Computes one of two things, depending on the values of the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(1 - images if images.mean() > 0.5 else images)


class SingularValues(TinyNet):
    """Uses an operation that ONNX does not have."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + torch.linalg.svdvals(images)[:, :1, :1].mean((1, 2), keepdim=True)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """The focal loss of Lin et al. (2017), a mean over all pixels."""
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).mean()


class SquaredError(nn.Module):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.weight * (logits.sigmoid() - targets).square().mean()


def loss_by_image(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns one value per image: not a scalar."""
    return (logits.sigmoid() - targets).square().mean((1, 2))


class SignDescent(torch.optim.Optimizer):
    """Updates weights by the sign of the gradient."""

    def __init__(self, params: Any, lr: float, damping: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "damping": damping})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"] * group["damping"])


class NoOptimizer:
    """Not derived from `torch.optim.Optimizer`."""

    def __init__(self, params: Any, lr: float) -> None:
        self.lr = lr
