"""Random geometric and color augmentation of a batch of images and masks, on the device of the batch."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

DRAWS = 11
"""Random numbers per image. All of them are always drawn, so disabling one change does not alter the others."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes. Each change is drawn uniformly from its range; 0 disables it.

    Attributes:
        shift: Maximum translation along each axis, as a fraction of the image's height or width.
        scale: Maximum relative change of size: the factor is in [1 - scale, 1 + scale].
        rotation: Maximum angle in degrees, in either direction.
        rotation_probability: Probability that an image is rotated.
        flip_probability: Probability that an image is flipped horizontally.
        hue: Maximum rotation of the colors about the gray axis, in degrees, in either direction.
        saturation: Each color's distance from gray is multiplied by a factor in [1 - saturation, 1 + saturation].
        value: The image is multiplied by a factor in [1 - value, 1 + value].
        brightness: A number in [-brightness, brightness] is added to the image, whose range is [0, 1].
        contrast: Each pixel's distance from the image's mean is multiplied by a factor in
            [1 - contrast, 1 + contrast].
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
        """Draw the random numbers for N images.

        The numbers of an image depend only on the seed, the epoch and the index of the image. They do not depend on
        the batch or on the process, so a resumed or distributed run sees the same images. The generator is Philox
        (Salmon et al. 2011), whose numbers are a function of a key and a counter.

        Args:
            seed: Seed of the training run, at least 0.
            epoch: Epoch, at least 0.
            indices: Indices of the N images in the data set.

        Returns:
            `(N, 11)` float32 in [0, 1).
        """
        generators = (np.random.Philox(key=seed, counter=[0, 0, index, epoch]) for index in indices)
        draws = [np.random.Generator(generator).random(DRAWS, dtype=np.float32) for generator in generators]
        return torch.from_numpy(np.reshape(draws, (-1, DRAWS)).astype(np.float32))

    def apply(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch: warp images and masks in the same way, then change the colors of the images.

        Areas outside the original image are filled by repeating its border pixels.

        Args:
            images: `(N, 3, h, w)` float32 in [0, 1].
            masks: `(N, h, w)` float32 in [0, 1].
            draws: `(N, 11)` float32 from `draw`.

        Returns:
            The augmented images and masks, with unchanged shapes, dtypes and ranges.
        """
        draws = draws.to(images.device)
        images, masks = self._warp(images, masks, draws[:, :6])
        return self._recolor(images, draws[:, 6:]), masks

    def _warp(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Flip, rotate, scale and shift images and masks."""
        rotates = self.rotation and self.rotation_probability
        if not (self.shift or self.scale or rotates or self.flip_probability):
            return images, masks
        flip, rotate, angle, scale, right, down = draws[..., None, None].unbind(1)  # (N, 1, 1) each
        mirror = torch.where(flip < self.flip_probability, -1.0, 1.0)
        radians = torch.deg2rad(_uniform(angle, self.rotation)) * (rotate < self.rotation_probability)
        factor = 1 + _uniform(scale, self.scale)
        cos, sin = radians.cos() / factor, radians.sin() / factor
        # Compute the source of each output pixel in pixels from the center. The coordinates of grid_sample run
        # from -1 to 1 along both axes; rotating in those would shear images that are not square. affine_grid is not
        # used because its matrix product may run in TF32 or bfloat16, which shifts the result by whole pixels.
        height, width = masks.shape[1:]
        x = _centered(width, masks.device) - width * _uniform(right, self.shift)  # (N, 1, w)
        y = _centered(height, masks.device)[:, None] - height * _uniform(down, self.shift)  # (N, h, 1)
        source_x = mirror * (cos * x + sin * y)  # (N, h, w)
        source_y = cos * y - sin * x  # (N, h, w)
        # Repeating the border continues the studio's wall and floor. The coordinates are clamped here because
        # some devices do not support padding_mode="border".
        coordinates = [
            (source * (2 / length)).clamp_(1 / length - 1, 1 - 1 / length)
            for source, length in ((source_x, width), (source_y, height))
        ]
        grid = torch.stack(coordinates, dim=3)  # (N, h, w, 2)
        stacked = torch.cat([images, masks[:, None]], dim=1)  # (N, 4, h, w)
        warped = grid_sample(stacked, grid, mode="bilinear", align_corners=False)
        warped.clamp_(0, 1)  # rounding: the four weights may add up to slightly more than 1
        return warped[:, :3], warped[:, 3]

    def _recolor(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change hue, saturation, contrast, value and brightness, in this order; every change is linear."""
        if not (self.hue or self.saturation or self.value or self.brightness or self.contrast):
            return images
        hue, saturation, value, brightness, contrast = draws[..., None, None, None].unbind(1)  # (N, 1, 1, 1)
        angle = torch.deg2rad(_uniform(hue, self.hue))
        gray = images.mean(1, keepdim=True)  # (N, 1, h, w)
        color = images - gray
        quarter_turn = (color.roll(1, dims=1) - color.roll(-1, dims=1)) / 3**0.5  # about the gray axis
        color = angle.cos() * color + angle.sin() * quarter_turn
        images = gray + (1 + _uniform(saturation, self.saturation)) * color
        mean = gray.mean((2, 3), keepdim=True)
        images = mean + (1 + _uniform(contrast, self.contrast)) * (images - mean)
        images = (1 + _uniform(value, self.value)) * images + _uniform(brightness, self.brightness)
        return images.clamp(0, 1)


def _uniform(draws: Tensor, limit: float) -> Tensor:
    """Map numbers from [0, 1) to [-limit, limit)."""
    return (2 * draws - 1) * limit


def _centered(length: int, device: torch.device) -> Tensor:
    """Return the positions of the pixel centers along an axis, in pixels from its middle."""
    return torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2
