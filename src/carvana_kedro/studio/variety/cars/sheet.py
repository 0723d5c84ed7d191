"""The drawings of a body, to draw over."""

from collections.abc import Sequence

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car, to_linear
from carvana_kedro.studio.canvas import CEILING, SCALE

Array = np.ndarray
_WIDE = 2.3  # meters of the drawing of the front, and of the rear
_ROUND = np.linspace(0, 2 * np.pi, 41)[:-1]


class Drawing:
    """One side of a body. Coordinates are meters from its middle, along the axis of the car, and z upward."""

    def __init__(self, color: Array, rest: Array, middle: float, reading: int = 1) -> None:
        """Draw on two arrays as `panels.draw_panels` returns them, with the middle at `middle` meters.

        `reading` is -1 if the viewer sees the drawing mirrored. Lettering is then mirrored in it.
        """
        self.color, self.rest, self.middle, self.reading = color, rest, middle, reading

    def fill(
        self, outlines: list[Array], ink: Sequence[float] | None, metal: float = 0.0, on_glass: bool = False
    ) -> None:
        """Fill outlines, each `(n, 2)`, up to the borders of the drawing.

        Args:
            outlines: Polygons. Holes are outlines too.
            ink: Display color. None: the paint of the body, on which nothing is drawn.
            metal: Fraction of the light that is mirrored.
            on_glass: Fill only glass. Else it stays as it is.
        """
        pixels = [((self.middle, CEILING) + line * (1, -1)) * SCALE for line in outlines]
        corners = np.concatenate(pixels)
        low, high = (
            np.maximum(np.floor(corners.min(0)), 0).astype(int),
            np.maximum(np.ceil(corners.max(0)) + 1, 0).astype(int),
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


class Sheet:
    """Side, front and rear next to each other in two arrays, each with a drawing of its own.

    Attributes:
        color: Color and cover, `(h, w, 4)` uint8.
        rest: Glass, hole, metal and an empty channel, `(h, w, 4)` uint8.
        side: The drawing of both sides, along x. Lettering is right on the right side, and mirrored on the left.
        front: The drawing of the front, along y.
        rear: The drawing of the rear, along y. Who looks at it sees y from right to left.
        nose: The front end of the side.
        tail: The rear end of the side.
    """

    def __init__(self, panels: tuple[Array, Array], car: Car) -> None:
        """Copy the drawings that `panels.draw_panels` returns."""
        self.color, self.rest = (panel.copy() for panel in panels)
        end = car.length + 0.2
        middles = end / 2, end + _WIDE / 2, end + 1.5 * _WIDE
        borders = [0, *(round(place * SCALE) for place in (end, end + _WIDE)), self.color.shape[1]]
        self.side, self.front, self.rear = (
            Drawing(self.color[:, left:right], self.rest[:, left:right], middle - left / SCALE, reading)
            for left, right, middle, reading in zip(borders, borders[1:], middles, (1, 1, -1), strict=False)
        )
        self.nose, self.tail = car.length / 2, -car.length / 2


def box(x: float, z: float, half_width: float, half_height: float) -> Array:
    """Return the outline of a rectangle around a point."""
    signs = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)))
    return np.array((x, z)) + signs * (half_width, half_height)


def disc(x: float, z: float, radius: float) -> Array:
    """Return the outline of a disc."""
    return np.stack((x + radius * np.cos(_ROUND), z + radius * np.sin(_ROUND)), 1)
