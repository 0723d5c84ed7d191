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
        color: `(3, h, w)` linear RGB where `cover` is above zero.
        cover: Fraction of the paint that `color` hides.
        glass: Transparent glass.
        hole: Openings in the body.
        metal: Mirror-like metal.
    """

    def __init__(self, left: float, width: float) -> None:
        """Create an empty panel of `width` meters."""
        self.left, shape = left, (round(CEILING * SCALE), round(width * SCALE))
        self.color = np.zeros((3, *shape), np.float32)
        self.cover, self.glass, self.hole, self.metal = (np.zeros(shape, np.float32) for _ in range(4))
        rows, columns = (np.arange(size, dtype=np.float32) for size in shape)
        self.across = self.left + (columns[None] + 0.5) / SCALE
        self.up = CEILING - (rows[:, None] + 0.5) / SCALE

    def polygon(self, corners: list[tuple[float, float]], rounding: float = 0.0) -> Array:
        """Return the coverage of a polygon with corners in meters, rounded by about `rounding` meters."""
        coverage = np.zeros(self.cover.shape, np.uint8)
        pixels = [((x - self.left) * SCALE - 0.5, (CEILING - z) * SCALE - 0.5) for x, z in corners]
        cv2.fillPoly(coverage, [np.round(np.array(pixels) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        return rounded(_fraction(coverage), rounding)

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
        return _fraction(coverage)

    def disc(self, x: float, z: float, radius: float) -> Array:
        """Return the coverage of a disc, meters."""
        coverage, reach = np.zeros(self.cover.shape, np.float32), radius + 1 / SCALE
        part = np.ix_(np.abs(self.up[:, 0] - z) < reach, np.abs(self.across[0] - x) < reach)
        distance = np.hypot(self.across[:, part[1][0]] - x, self.up[part[0][:, 0]] - z)
        coverage[part] = np.clip((radius - distance) * SCALE + 0.5, 0, 1)
        return coverage

    def paint(self, coverage: Array, color: Sequence[float], metal: float = 0.0) -> None:
        """Paint the covered area with an opaque color."""
        coverage = np.broadcast_to(coverage, self.cover.shape)
        part = extent(coverage)
        coverage = coverage[part]
        for plane, value in zip(self.color, color, strict=True):
            plane[part] += coverage * (np.float32(value) - plane[part])
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
    sigma, result = rounding * SCALE, np.zeros_like(coverage)
    part = extent(coverage, round(4 * sigma) + 2)
    if part[0].stop:
        soft = cv2.GaussianBlur(coverage[part], (0, 0), sigma)
        result[part] = np.clip((soft - 0.5) * rounding * SCALE * 2.2 + 0.5, 0, 1)
    return result


def grown(coverage: Array, by: float) -> Array:
    """Return the coverage grown by `by` meters on all sides."""
    size, result = 2 * round(by * SCALE) + 1, np.zeros_like(coverage)
    part = extent(coverage, size)
    if part[0].stop:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        result[part] = cv2.dilate(coverage[part], kernel)
    return result


def _fraction(coverage: Array) -> Array:
    """Convert coverage from uint8 to float32 in [0, 1]."""
    result, part = np.zeros(coverage.shape, np.float32), extent(coverage)
    result[part] = coverage[part].astype(np.float32) / 255
    return result
