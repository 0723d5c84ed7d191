"""Training and prediction in the style of 2017: the baseline of benchmarks/training.py and benchmarks/prediction.py.

The code is simple, but not slow on purpose. A dataset decodes and resizes with Pillow and augments one sample after the
other on the CPU. Loader, memory layout and optimizer are torch's defaults, in float32, and loss and score are copied to
the CPU at every step. The network, its sizes, the loss and the ranges of the augmentation are those of this project.
"""

import gzip
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer
from torch.utils.data import Dataset

Size = tuple[int, int]
Pixels = NDArray[np.uint8]


class ImagesAndMasks(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, H, W) and masks (h, w), float32 in [0, 1], from a folder of jpgs and a folder of gifs."""

    def __init__(
        self, images: Path, masks: Path, image_ids: Sequence[str], image_size: Size, mask_size: Size
    ) -> None:
        self.images = images
        self.masks = masks
        self.image_ids = list(image_ids)
        self.image_size = image_size
        self.mask_size = mask_size

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Read, resize and augment an image and its mask."""
        image_id = self.image_ids[position]
        original = Image.open(self.images / f"{image_id}.jpg").convert("RGB")
        resized = original.resize(self.image_size[::-1], Image.Resampling.LANCZOS)
        mask_file = Image.open(self.masks / f"{image_id}_mask.gif")
        target = mask_file.resize(self.mask_size[::-1], Image.Resampling.NEAREST)
        image, mask = augment(np.asarray(resized), np.asarray(target))
        scaled = image.transpose(2, 0, 1).astype(np.float32) / 255
        return torch.from_numpy(scaled), torch.from_numpy(mask.astype(np.float32))


def augment(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Shift, scale, rotate and mirror an image and its mask, in the ranges of this project's augmentation."""
    right, down, scale = random.uniform(-1, 1) / 16, random.uniform(-1, 1) / 16, random.uniform(0.9, 1.1)
    angle = random.uniform(-45, 45) if random.random() < 0.5 else 0.0
    mirrored = random.random() < 0.5

    def change(resized: Pixels, interpolation: int) -> Pixels:
        height, width = resized.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        matrix[:, 2] += right * width, down * height
        resized = cv2.warpAffine(
            resized, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.uint8, copy=False)
        return np.ascontiguousarray(resized[:, ::-1]) if mirrored else resized

    return change(image, cv2.INTER_LINEAR), change(mask, cv2.INTER_NEAREST)


def train_one_epoch(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    *,
    autocast: bool = False,
) -> tuple[float, float]:
    """Train on every batch of the loader; return the mean loss and the mean Dice coefficient."""
    network.train()
    device = next(network.parameters()).device
    scores = [
        train_step(network, optimizer, images.to(device), targets.to(device), autocast=autocast)
        for images, targets in loader
    ]
    loss, dice = zip(*scores, strict=True)
    return math.fsum(loss) / len(loss), math.fsum(dice) / len(dice)


def train_step(
    network: nn.Module, optimizer: Optimizer, images: Tensor, targets: Tensor, *, autocast: bool = False
) -> tuple[float, float]:
    """Take one step and return its loss and Dice coefficient.

    Args:
        network: returns logits (N, H, W) or (N, 1, H, W).
        optimizer: optimizer of the network's weights.
        images: (N, 3, H, W) float32 in [0, 1].
        targets: (N, H, W) float32 in [0, 1].
        autocast: compute in bfloat16, as current reference loops do.
    """
    optimizer.zero_grad()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = network(images).squeeze(1)  # networks of other packages have a channel axis
    logits = logits.float()
    probabilities = logits.sigmoid()
    loss = binary_cross_entropy_with_logits(logits, targets) + 1 - soft_dice(probabilities, targets).mean()
    loss.backward()
    optimizer.step()
    return loss.item(), soft_dice((probabilities > 0.5).float(), targets).mean().item()


def soft_dice(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the Dice coefficient of each image, (N,), from (N, H, W) tensors."""
    overlap = (probabilities * targets).sum((1, 2))
    return (2 * overlap + 1) / (probabilities.sum((1, 2)) + targets.sum((1, 2)) + 1)


@torch.no_grad()
def predict(
    network: nn.Module, images: Path, image_ids: Sequence[str], input_size: Size, file: Path
) -> dict[str, NDArray[np.bool_]]:
    """Predict images one after the other in float32, write their run lengths to a gzip csv, and return the masks."""
    network.eval()
    masks = {}
    with gzip.open(file, "wt", compresslevel=9) as rows:
        rows.write("img,rle_mask\n")
        for image_id in image_ids:
            original = Image.open(images / f"{image_id}.jpg").convert("RGB")
            resized = original.resize(input_size[::-1], Image.Resampling.LANCZOS)
            scaled = np.asarray(resized).transpose(2, 0, 1).astype(np.float32) / 255
            logits = network(torch.from_numpy(scaled)[None].to(next(network.parameters()).device))
            probabilities = logits.sigmoid().cpu().numpy().squeeze()
            mask = cv2.resize(probabilities, original.size, interpolation=cv2.INTER_LINEAR) > 0.5
            masks[image_id] = mask
            rows.write(f"{image_id}.jpg,{run_lengths(mask)}\n")
    return masks


def run_lengths(mask: NDArray[np.bool_]) -> str:
    """Return the mask as `start length` pairs."""
    pixels = np.concatenate([[False], mask.ravel(), [False]])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges[1::2] -= edges[::2]
    return " ".join(str(number) for number in edges)
