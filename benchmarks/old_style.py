"""A training loop as it was commonly written, by which benchmarks/training.py measures ours.

Everything is done the plain way, and none of it badly: a data set that decodes and resizes with Pillow and augments one
sample after the other on the CPU, torch's default loader, memory layout and optimizer, float32, and numbers that are
asked for at every step. The network, its sizes, the loss and the ranges of the augmentation are ours.
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


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, H, W) and masks (h, w), float32 in [0, 1], from a folder of jpgs and one of gifs."""

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
        """Read an image and its mask."""
        image_id = self.image_ids[position]
        photograph = Image.open(self.images / f"{image_id}.jpg").convert("RGB")
        picture = photograph.resize(self.image_size[::-1], Image.Resampling.LANCZOS)
        outline = Image.open(self.masks / f"{image_id}_mask.gif")
        small = outline.resize(self.mask_size[::-1], Image.Resampling.NEAREST)
        image, mask = augment(np.asarray(picture), np.asarray(small))
        scaled = image.transpose(2, 0, 1).astype(np.float32) / 255
        return torch.from_numpy(scaled), torch.from_numpy(mask.astype(np.float32))


def augment(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Shift, scale, rotate and mirror an image and its mask, by up to as much as ours does."""
    right, down, scale = random.uniform(-1, 1) / 16, random.uniform(-1, 1) / 16, random.uniform(0.9, 1.1)
    angle = random.uniform(-45, 45) if random.random() < 0.5 else 0.0
    mirrored = random.random() < 0.5

    def change(picture: Pixels, interpolation: int) -> Pixels:
        height, width = picture.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        matrix[:, 2] += right * width, down * height
        picture = cv2.warpAffine(
            picture, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.uint8, copy=False)
        return np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture

    return change(image, cv2.INTER_LINEAR), change(mask, cv2.INTER_NEAREST)


def train_one_epoch(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    *,
    autocast: bool = False,
) -> tuple[float, float]:
    """Train on every batch of the loader; return the means of loss and Dice coefficient."""
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
    """Take a step; return its loss and Dice coefficient. `autocast`: in bfloat16, as reference loops have it now."""
    optimizer.zero_grad()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = network(images).squeeze(1)  # other people's networks have a channel there
    logits = logits.float()
    probabilities = logits.sigmoid()
    loss = binary_cross_entropy_with_logits(logits, targets) + 1 - soft_dice(probabilities, targets).mean()
    loss.backward()
    optimizer.step()
    return loss.item(), soft_dice((probabilities > 0.5).float(), targets).mean().item()


def soft_dice(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Dice coefficient of each image."""
    overlap = (probabilities * targets).sum((1, 2))
    return (2 * overlap + 1) / (probabilities.sum((1, 2)) + targets.sum((1, 2)) + 1)


@torch.no_grad()
def predict(
    network: nn.Module, images: Path, image_ids: Sequence[str], input_size: Size, file: Path
) -> dict[str, NDArray[np.bool_]]:
    """Predict photographs one after the other, in float32, into a gzip csv; return the masks."""
    network.eval()
    masks = {}
    with gzip.open(file, "wt", compresslevel=9) as rows:
        rows.write("img,rle_mask\n")
        for image_id in image_ids:
            photograph = Image.open(images / f"{image_id}.jpg").convert("RGB")
            picture = photograph.resize(input_size[::-1], Image.Resampling.LANCZOS)
            scaled = np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / 255
            logits = network(torch.from_numpy(scaled)[None].to(next(network.parameters()).device))
            probabilities = logits.sigmoid().cpu().numpy().squeeze()
            mask = cv2.resize(probabilities, photograph.size, interpolation=cv2.INTER_LINEAR) > 0.5
            masks[image_id] = mask
            rows.write(f"{image_id}.jpg,{run_lengths(mask)}\n")
    return masks


def run_lengths(mask: NDArray[np.bool_]) -> str:
    """Write a mask down as `start length` pairs."""
    pixels = np.concatenate([[False], mask.ravel(), [False]])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges[1::2] -= edges[::2]
    return " ".join(str(number) for number in edges)
