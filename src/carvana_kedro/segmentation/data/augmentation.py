"""Random changes of shape and color, for a whole batch on its device, the same for an image and its mask."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

DRAWS = 11
"""Random numbers for each image. All are always drawn, so that switching one change off leaves the others."""


@dataclass(frozen=True)
class Augmentation:
    """How far images may be changed. Each change is drawn uniformly from its range; 0 switches it off.

    Attributes:
        shift: Greatest move along either axis, as a share of the image's height or width.
        scale: Greatest change of size: the factor lies in 1 ± scale.
        rotation: Greatest angle in degrees, either way.
        rotation_probability: Share of the images that are rotated.
        flip_probability: Share of the images that are mirrored, left to right.
        hue: Greatest turn of the colors about the gray axis, in degrees, either way.
        saturation: The distance of colors from gray is multiplied by 1 ± saturation.
        value: The image is multiplied by 1 ± value.
        brightness: The image is raised by ± brightness, where 1 is the whole range.
        contrast: The distance of pixels from the image's mean is multiplied by 1 ± contrast.
    """

    shift: float = 0.0625
    scale: float = 0.1
    rotation: float = 45.0
    rotation_probability: float = 0.5
    flip_probability: float = 0.5
    hue: float = 0.0
    saturation: float = 0.0
    value: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def draw(self, seed: int, epoch: int, indices: Iterable[int]) -> Tensor:
        """Draw the random numbers of some images: a pure function of seed, epoch and each image's index.

        Neither the batch that an image falls into nor the process that draws plays a part, so a resumed or a
        distributed training sees the very same images. The generator is Philox (Salmon et al. 2011), whose
        numbers are a function of a key and a counter.

        Args:
            seed: Of the training, 0 or more.
            epoch: 0 or more.
            indices: Positions of the N images in the data set.

        Returns:
            (N, 11) float32 in [0, 1).
        """
        generators = (np.random.Philox(key=seed, counter=[0, 0, index, epoch]) for index in indices)
        draws = [np.random.Generator(generator).random(DRAWS, dtype=np.float32) for generator in generators]
        return torch.from_numpy(np.reshape(draws, (-1, DRAWS)).astype(np.float32))

    def apply(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Change a batch: images and masks alike in shape, and then the images in color.

        What comes into view from beyond an image's border repeats the border.

        Args:
            images: (N, 3, h, w) float32 in [0, 1].
            masks: (N, h, w) float32 in [0, 1].
            draws: (N, 11) float32 of `draw`.

        Returns:
            Images and masks of the same shapes, types and ranges.
        """
        draws = draws.to(images.device)
        images, masks = self._warp(images, masks, draws[:, :6])
        return self._recolor(images, draws[:, 6:]), masks

    def _warp(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        turns = self.rotation * self.rotation_probability or self.flip_probability
        if not (self.shift or self.scale or turns):
            return images, masks
        flipped, rotated, angle, scale, right, down = draws[..., None, None].unbind(1)  # (N, 1, 1) each
        mirror = torch.where(flipped < self.flip_probability, -1.0, 1.0)
        radians = torch.deg2rad(_between(angle, self.rotation)) * (rotated < self.rotation_probability)
        factor = 1 + _between(scale, self.scale)
        cos, sin = radians.cos() / factor, radians.sin() / factor
        # Where each new pixel comes from, in pixels from the center: unlike grid_sample's own coordinates,
        # which run from -1 to 1 along either axis, these do not shear an image that is not square. Written
        # out, because affine_grid's matrix product runs in TF32 or bfloat16 where those are allowed, and is
        # then pixels off.
        height, width = masks.shape[1:]
        x = _centered(width, masks.device) - width * _between(right, self.shift)  # (N, 1, w)
        y = _centered(height, masks.device)[:, None] - height * _between(down, self.shift)  # (N, h, 1)
        source_x = mirror * (cos * x + sin * y)  # (N, h, w)
        source_y = cos * y - sin * x  # (N, h, w)
        # The border goes on, as a studio's wall and floor do: clamped by hand, since not every device knows
        # padding_mode="border".
        coordinates = [
            (source * (2 / length)).clamp_(1 / length - 1, 1 - 1 / length)
            for source, length in ((source_x, width), (source_y, height))
        ]
        grid = torch.stack(coordinates, dim=3)  # (N, h, w, 2)
        both = torch.cat([images, masks[:, None]], dim=1)  # (N, 4, h, w)
        warped = grid_sample(both, grid, mode="bilinear", align_corners=False)
        warped.clamp_(0, 1)  # the four weights add up to 1 only within rounding
        return warped[:, :3], warped[:, 3]

    def _recolor(self, images: Tensor, draws: Tensor) -> Tensor:
        """Linear changes of color, in the order of hue, saturation, contrast, value and brightness."""
        if not (self.hue or self.saturation or self.value or self.brightness or self.contrast):
            return images
        hue, saturation, value, brightness, contrast = draws[..., None, None, None].unbind(1)  # (N, 1, 1, 1)
        angle = torch.deg2rad(_between(hue, self.hue))
        gray = images.mean(1, keepdim=True)  # (N, 1, h, w)
        color = images - gray
        quarter_turn = (color.roll(1, dims=1) - color.roll(-1, dims=1)) / 3**0.5  # about the gray axis
        color = angle.cos() * color + angle.sin() * quarter_turn
        images = gray + (1 + _between(saturation, self.saturation)) * color
        mean = gray.mean((2, 3), keepdim=True)
        images = mean + (1 + _between(contrast, self.contrast)) * (images - mean)
        images = (1 + _between(value, self.value)) * images + _between(brightness, self.brightness)
        return images.clamp(0, 1)


def _between(draws: Tensor, greatest: float) -> Tensor:
    """From [0, 1) to [-greatest, greatest)."""
    return (2 * draws - 1) * greatest


def _centered(length: int, device: torch.device) -> Tensor:
    """Centers of the pixels of an axis, in pixels from its middle."""
    return torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2
