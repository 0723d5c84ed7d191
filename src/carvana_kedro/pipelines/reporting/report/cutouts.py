"""Cut-outs for the page: small, and without the transparent margins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from carvana_kedro.results.embedding import embedded

_SHOWN = 3
_SIZE = (480, 320)  # width and height that a cut-out fits into, in pixels


@dataclass(frozen=True)
class Cutout:
    """A cut-out.

    Attributes:
        image: The id of its photograph.
        picture: webp in base64, with transparency.
    """

    image: str
    picture: str


def choose_cutouts(cutouts: Mapping[str, Callable[[], np.ndarray]]) -> list[Cutout]:
    """Return some cut-outs, evenly spaced in the order of their names.

    Args:
        cutouts: Functions that load a cut-out, (H, W, 4) uint8 RGBA, by its name.
    """
    names = sorted(cutouts)
    numbers = np.linspace(0, len(names) - 1, min(_SHOWN, len(names))).round().astype(int)
    return [Cutout(names[number], _small(cutouts[names[number]]())) for number in numbers]


def _small(cutout: np.ndarray) -> str:
    picture = Image.fromarray(cutout)
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail(_SIZE)
    return embedded(np.asarray(picture))
