"""The drawings of a body, to draw over."""

from collections.abc import Sequence

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car, to_linear
from carvana_kedro.studio.canvas import CEILING, SCALE

Array = np.ndarray
_WIDE = 2.3  # meters of the drawing of the front, and of the rear
_ROUND = np.linspace(0, 2 * np.pi, 41)[:-1]


class Sheet:
    """Side, front and rear next to each other. Coordinates are meters from the left edge, and z upward.

    Attributes:
        side: The middle of the side.
        front: The middle of the front.
        rear: The middle of the rear.
        nose: The front end of the side.
        tail: The rear end of the side.
    """

    def __init__(self, panels: tuple[Array, Array], car: Car) -> None:
        """Copy the drawings that `panels.draw_panels` returns."""
        self.color, self.rest = (panel.copy() for panel in panels)
        end = car.length + 0.2
        self.side, self.front, self.rear = end / 2, end + _WIDE / 2, end + 1.5 * _WIDE
        self.nose, self.tail = car.length + 0.1, 0.1

    def fill(
        self, outlines: list[Array], ink: Sequence[float] | None, metal: float = 0.0, on_glass: bool = False
    ) -> None:
        """Fill outlines, each `(n, 2)`.

        Args:
            outlines: Polygons. Holes are outlines too.
            ink: Display color. None: the paint of the body, on which nothing is drawn.
            metal: Fraction of the light that is mirrored.
            on_glass: Fill only glass. Else it stays as it is.
        """
        pixels = [((0, CEILING) + line * (1, -1)) * SCALE for line in outlines]
        corners = np.concatenate(pixels)
        low, high = (
            np.maximum(np.floor(corners.min(0)), 0).astype(int),
            np.ceil(corners.max(0)).astype(int) + 1,
        )
        part = slice(low[1], high[1]), slice(low[0], high[0])
        covered = np.zeros(self.color[part].shape[:2], np.uint8)
        if not covered.size:
            return
        cv2.fillPoly(covered, [np.round((line - low) * 16).astype(np.int32) for line in pixels], 255, shift=4)
        hit = (covered > 0) & ((self.rest[part][..., 0] > 0) == on_glass)
        self.color[part][hit] = 0 if ink is None else (*(np.sqrt(to_linear(ink)) * 255).astype(np.uint8), 255)
        hole = self.rest[part][hit, 1]
        self.rest[part][hit] = (0, 0, round(255 * metal), 0)
        self.rest[part][hit, 1] = hole


def box(x: float, z: float, half_width: float, half_height: float) -> Array:
    """Return the outline of a rectangle around a point."""
    signs = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)))
    return np.array((x, z)) + signs * (half_width, half_height)


def disc(x: float, z: float, radius: float) -> Array:
    """Return the outline of a disc."""
    return np.stack((x + radius * np.cos(_ROUND), z + radius * np.sin(_ROUND)), 1)
