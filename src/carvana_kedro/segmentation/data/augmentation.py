"""Random geometric and color augmentation of a batch of images and masks, on the device of the batch."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from carvana_kedro.segmentation.data.transfer import copy_async

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

        Areas outside the original image are filled by repeating its border pixels. What depends on an image but not on
        its pixels is computed on the device of `draws`. If these are on the CPU, a GPU has little more to do than the
        work on the pixels.

        Args:
            images: `(N, 3, h, w)` float32 in [0, 1].
            masks: `(N, h, w)` float32 in [0, 1].
            draws: `(N, 11)` float32 from `draw`, on the CPU or on the device of the images.

        Returns:
            The augmented images and masks, with unchanged shapes, dtypes and ranges. Their strides may be others.
        """
        if self.shift or self.scale or (self.rotation and self.rotation_probability) or self.flip_probability:
            images, masks = self._warp(images, masks, draws[:, :6])
        if self.hue or self.saturation or self.value or self.brightness or self.contrast:
            images = self._recolor(images, draws[:, 6:])
        return images, masks

    def _warp(self, images: Tensor, masks: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Flip, rotate, scale and shift images and masks."""
        # grid_sample accepts coordinates whose x and y lie in separate planes.
        grid = self._coordinates(draws, masks).permute(0, 2, 3, 1)
        stacked = torch.cat([images, masks[:, None]], dim=1)  # (N, 4, h, w)
        warped = grid_sample(stacked, grid, mode="bilinear", align_corners=False)
        warped.clamp_(0, 1)  # rounding: the four weights may add up to slightly more than 1
        return warped[:, :3], warped[:, 3]

    def _coordinates(self, draws: Tensor, masks: Tensor) -> Tensor:
        """Return the source of each output pixel in the coordinates of grid_sample: `(N, 2, h, w)`, x before y."""
        flip, rotate, angle, scale, right, down = draws[..., None].unbind(1)  # (N, 1) each
        mirror = torch.where(flip < self.flip_probability, -1.0, 1.0)
        radians = torch.deg2rad(_uniform(angle, self.rotation)) * (rotate < self.rotation_probability)
        factor = 1 + _uniform(scale, self.scale)
        cos, sin = radians.cos() / factor, radians.sin() / factor
        # In pixels from the center, because the coordinates of grid_sample run from -1 to 1 along both axes; rotating
        # in those would shear images that are not square. affine_grid is not used because its matrix product may run
        # in TF32 or bfloat16, which shifts the result by whole pixels. The source of a pixel is the sum of one vector
        # for its column and one for its row.
        height, width = masks.shape[1:]
        x = _centered(width, draws.device) - width * _uniform(right, self.shift)  # (N, w)
        y = _centered(height, draws.device) - height * _uniform(down, self.shift)  # (N, h)
        columns = torch.stack([mirror * cos * x, -sin * x], dim=1)  # (N, 2, w)
        rows = torch.stack([mirror * sin * y, cos * y], dim=1)  # (N, 2, h)
        vectors = copy_async(torch.cat([columns, rows], dim=2), masks.device)
        columns, rows = vectors.split([width, height], dim=2)
        coordinates = columns[:, :, None] + rows[..., None]
        # Repeating the border continues the studio's wall and floor. The coordinates are clamped here because
        # some devices do not support padding_mode="border".
        for source, length in zip(coordinates.unbind(1), (width, height), strict=True):
            source.mul_(2 / length).clamp_(1 / length - 1, 1 - 1 / length)
        return coordinates

    def _recolor(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change hue, saturation, contrast, value and brightness, in this order; every change is linear."""
        hue, saturation, value, brightness, contrast = draws.unbind(1)  # (N,) each
        angle = torch.deg2rad(_uniform(hue, self.hue))
        limits = (saturation, self.saturation), (contrast, self.contrast), (value, self.value)
        factors = [1 + _uniform(draw, limit) for draw, limit in limits]
        numbers = [angle.cos(), angle.sin(), *factors, _uniform(brightness, self.brightness)]
        on_device = copy_async(torch.stack(numbers), images.device)[..., None, None, None]
        cos, sin, saturation, contrast, value, brightness = on_device.unbind()  # (N, 1, 1, 1)
        gray = images.mean(1, keepdim=True)  # (N, 1, h, w)
        color = images - gray
        quarter_turn = (color.roll(1, dims=1) - color.roll(-1, dims=1)) / 3**0.5  # about the gray axis
        color = cos * color + sin * quarter_turn
        images = gray + saturation * color
        mean = gray.mean((2, 3), keepdim=True)
        images = mean + contrast * (images - mean)
        return (value * images + brightness).clamp_(0, 1)


def _uniform(draws: Tensor, limit: float) -> Tensor:
    """Map numbers from [0, 1) to [-limit, limit)."""
    return (2 * draws - 1) * limit


def _centered(length: int, device: torch.device) -> Tensor:
    """Return the positions of the pixel centers along an axis, in pixels from its middle."""
    return torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2
