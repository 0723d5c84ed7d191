"""A flat drawing of one side of a car, in meters."""

from collections.abc import Sequence

import cv2
import numpy as np

from .rasterize import extent

Array = np.ndarray
SCALE = 250  # texels per meter
CEILING = 2.1  # meters
BLACK = (0.012, 0.012, 0.013)


class Panel:
    """The drawing of one side. All layers are `(h, w)` float32 in [0, 1], with z upwards from the last row.

    Attributes:
        left: Position of the first column in meters.
        color: `(h, w, 3)` linear RGB where `cover` is above zero.
        cover: Fraction of the paint that `color` hides.
        glass: Transparent glass.
        hole: Openings in the body.
        metal: Mirror-like metal.
    """

    def __init__(self, left: float, width: float) -> None:
        """Create an empty panel of `width` meters."""
        self.left, shape = left, (round(CEILING * SCALE), round(width * SCALE))
        self.color = np.zeros((*shape, 3), np.float32)
        self.cover, self.glass, self.hole, self.metal = (np.zeros(shape, np.float32) for _ in range(4))
        rows, columns = np.indices(shape, np.float32)
        self.across, self.up = self.left + (columns + 0.5) / SCALE, CEILING - (rows + 0.5) / SCALE

    def polygon(self, corners: list[tuple[float, float]], rounding: float = 0.0) -> Array:
        """Return the coverage of a polygon with corners in meters, rounded by about `rounding` meters."""
        coverage = np.zeros(self.cover.shape, np.uint8)
        pixels = [((x - self.left) * SCALE - 0.5, (CEILING - z) * SCALE - 0.5) for x, z in corners]
        cv2.fillPoly(coverage, [np.round(np.array(pixels) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return rounded(coverage.astype(np.float32) / 255, rounding)

    def line(self, points: list[tuple[float, float]], width: float = 0.006) -> Array:
        """Return the coverage of a polyline, meters."""
        coverage = np.zeros(self.cover.shape, np.uint8)
        pixels = [((x - self.left) * SCALE - 0.5, (CEILING - z) * SCALE - 0.5) for x, z in points]
        thickness = max(1, round(width * SCALE))
        cv2.polylines(
            coverage,
            [np.round(np.array(pixels) * 16).astype(np.int32)],
            False,
            255,
            thickness,
            cv2.LINE_AA,
            4,
        )
        return coverage.astype(np.float32) / 255

    def disc(self, x: float, z: float, radius: float) -> Array:
        """Return the coverage of a disc, meters."""
        return np.clip((radius - np.hypot(self.across - x, self.up - z)) * SCALE + 0.5, 0, 1)

    def paint(self, coverage: Array, color: Sequence[float], metal: float = 0.0) -> None:
        """Paint the covered area with an opaque color."""
        part = extent(coverage)
        coverage = coverage[part]
        self.color[part] += coverage[..., None] * (np.array(color, np.float32) - self.color[part])
        self.cover[part] = np.maximum(self.cover[part], coverage)
        self.metal[part] += coverage * (metal - self.metal[part])
        self.glass[part] *= 1 - coverage

    def glaze(self, coverage: Array, trim: Sequence[float], metal: float) -> None:
        """Draw a window pane with a dark band and a trim around it."""
        self.paint(grown(coverage, 0.016), trim, metal)
        self.paint(grown(coverage, 0.008), BLACK)
        self.glass = np.maximum(self.glass, coverage)


def rounded(coverage: Array, rounding: float) -> Array:
    """Return the coverage with its corners rounded by about `rounding` meters."""
    if rounding <= 0:
        return coverage
    soft = cv2.GaussianBlur(coverage, (0, 0), rounding * SCALE)
    return np.clip((soft - 0.5) * rounding * SCALE * 2.2 + 0.5, 0, 1)


def grown(coverage: Array, by: float) -> Array:
    """Return the coverage grown by `by` meters on all sides."""
    size = 2 * round(by * SCALE) + 1
    return cv2.dilate(coverage, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
