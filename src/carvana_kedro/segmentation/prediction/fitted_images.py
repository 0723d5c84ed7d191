"""Reads the images of a batch at the output size of a network."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.data.geometry import Geometry, Size
from carvana_kedro.segmentation.data.samples import ImageReader, errors_naming


class FittedBatch(NamedTuple):
    """The images of a batch.

    Attributes:
        ids: Their ids.
        fitted: (N, h, w, 3) uint8 at the output size.
        sizes: (H, W) of the original images.
        problems: Why an image could not be read; an empty text if it could.
    """

    ids: list[str]
    fitted: Tensor
    sizes: list[Size]
    problems: list[str]


class FittedImages:
    """Reads images, and fits them to the output size.

    Args:
        source: Reads the images.
        image_ids: Ids of the images.
        geometry: Fits them.
        allow_bad: Whether an image that cannot be read is replaced by a black one, instead of raising an error.
    """

    def __init__(
        self, source: ImageReader, image_ids: Sequence[str], geometry: Geometry, allow_bad: bool
    ) -> None:
        """Store the arguments; nothing is read."""
        self.source = source
        self.image_ids = np.array(image_ids, dtype=np.str_)
        self.geometry = geometry
        self.allow_bad = allow_bad

    @property
    def image_nbytes(self) -> int:
        """Size of one image of a batch in bytes."""
        height, width = self.geometry.output_size
        return height * width * 3

    def read(self, positions: Iterable[int]) -> FittedBatch:
        """Read the images at the given positions.

        Raises:
            UserError: An image cannot be read, and bad ones are not allowed.
        """
        batch = FittedBatch([], torch.empty(0), [], [])
        images = []
        for position in positions:
            image_id = str(self.image_ids[position])
            try:
                with errors_naming(image_id):
                    image = self.source.read_image(image_id, at_least=self.geometry.output_size)
                    fitted = self.geometry.fit_image(image)
                    size, problem = self.source.size(image_id), ""
            except UserError as error:
                if not self.allow_bad:
                    raise
                fitted = np.zeros((*self.geometry.output_size, 3), np.uint8)
                size, problem = self.geometry.output_size, str(error)
            images.append(fitted)
            batch.ids.append(image_id)
            batch.sizes.append(size)
            batch.problems.append(problem)
        return batch._replace(fitted=torch.from_numpy(np.stack(images)))
