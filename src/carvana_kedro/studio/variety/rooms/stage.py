"""Drawing on the walls and the floor of a room, as a camera sees them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from carvana_kedro.studio.scene import Camera

Array = np.ndarray
Region = tuple[slice, slice]
"""Rows and columns of an image."""
_NEAR = 0.25  # meters before the camera, where everything ends
_BITS = 4  # fractional bits of corners in OpenCV


@dataclass(frozen=True)
class Wall:
    """A wall that stands on a line on the floor: straight, bent to a corner, or an arc.

    Attributes:
        line: `(N, 2)` float64, points on the floor, from left to right, meters.
    """

    line: Array

    @functools.cached_property
    def places(self) -> Array:
        """Distances of the points of the line along the wall from its middle, `(N,)` meters."""
        steps = np.hypot(*np.diff(self.line, axis=0).T)
        return np.concatenate(((0.0,), np.cumsum(steps))) - steps.sum() / 2

    def at(self, across: Array | float, up: Array | float) -> Array:
        """Return world points `(..., 3)`.

        Args:
            across: Distance along the wall from its middle, meters.
            up: Height above the floor, meters.
        """
        x, y = (np.interp(across, self.places, side) for side in self.line.T)
        return np.stack(np.broadcast_arrays(x, y, up), -1)


class Stage:
    """An image of a room that grows from back to front."""

    def __init__(self, camera: Camera, size: tuple[int, int]) -> None:
        """Start with a black image of `size`, height and width."""
        self.camera, self.size = camera, size
        self.image = np.zeros((*size, 3), np.uint8)

    def project(self, points: Array) -> Array:
        """Return the pixels `(M, 2)` of a polygon with world points `(N, 3)`, cut where it passes the camera."""
        _, depth = self.camera.project(points)
        if (depth < _NEAR).any():
            points = _cut(points, depth)
        return self.camera.project(points)[0]

    def ground(self, place: Array) -> Array:
        """Return the point of the floor at a place in the image, fractions of its width and height, `(3,)`."""
        ray = self.camera.to_ray @ np.r_[place * self.size[::-1], 1.0]
        # Where the image shows no floor: far away.
        return self.camera.position - ray * (self.camera.position[2] / min(ray[2], -1e-3))

    def mask(self, outlines: Sequence[Array]) -> tuple[Region, Array]:
        """Return the part of the image that holds these outlines of world points, and how far they cover its pixels."""
        corners = [pixels for outline in outlines if len(pixels := self.project(outline)) > 2]
        height, width = self.size
        if not corners:
            return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.uint8)
        low = np.floor(np.min([part.min(0) for part in corners], 0)).clip(0, (width, height)).astype(int)
        high = (
            np.ceil(np.max([part.max(0) for part in corners], 0) + 1).clip(low, (width, height)).astype(int)
        )
        covered = np.zeros((high - low)[::-1], np.uint8)
        if covered.size:
            cv2.fillPoly(covered, [_fixed(part - low) for part in corners], 255, cv2.LINE_AA, _BITS)
        return (slice(low[1], high[1]), slice(low[0], high[0])), covered

    def fill(
        self,
        outlines: Sequence[Array],
        color: Sequence[float] | Array,
        opacity: float = 1.0,
        soft: float = 0.0,
    ) -> None:
        """Fill what these outlines of world points enclose. Holes are outlines too.

        Args:
            outlines: Polygons, each `(N, 3)`.
            color: Display values, 0 to 255.
            opacity: Fraction of what is behind that the color hides.
            soft: Blur of the edge, as a fraction of the height of the image.
        """
        if opacity == 1 and not soft:
            shapes = [_fixed(pixels) for outline in outlines if len(pixels := self.project(outline)) > 2]
            cv2.fillPoly(self.image, shapes, np.clip(np.asarray(color), 0, 255).tolist(), cv2.LINE_AA, _BITS)
            return
        part, covered = self.mask(outlines)
        if not covered.size:
            return
        ink = np.clip(color, 0, 255).astype(np.uint8)
        if soft:
            self._blend_softly(*self._softened(part, covered, soft * self.size[0]), ink, opacity)
        else:
            self._blend(part, covered, ink, opacity)

    def _blend(self, part: Region, covered: Array, color: Array, opacity: float) -> None:
        """Blend one color over part of the image: by a table where all of a pixel is covered, else one by one."""
        under, full = self.image[part], (covered == 255).view(np.uint8)
        steps = np.arange(256)[:, None] * (1 - opacity) + color * opacity
        cv2.copyTo(cv2.LUT(under, steps.astype(np.uint8)[None]), full, under)
        over = np.empty((1, 1, 3), np.uint8)
        over[:] = color
        self._lay_edge(part, covered, opacity, over)

    def _lay_edge(self, part: Region, covered: Array, opacity: float, over: Array) -> None:
        """Blend a texture, or a color `(1, 1, 3)`, over the pixels that are covered in part."""
        # Unsigned: zero less one is 255, so that one comparison finds the pixels between 0 and 255.
        edge = np.flatnonzero((covered - np.uint8(1)) < 254)
        under, index = self.image[part], np.divmod(edge, covered.shape[1])
        if not edge.size:
            return
        found, share = under[index][None], covered[index].astype(np.float32)[None] * np.float32(opacity / 255)
        above = over[index][None] if len(over) > 1 else np.broadcast_to(over, found.shape).copy()
        under[index] = cv2.blendLinear(above, found, share, 1 - share)[0]

    def _blend_softly(self, part: Region, covered: Array, color: Array, opacity: float) -> None:
        """Blend one color over part of the image whose pixels are mostly covered in part, in bands of rows."""
        for row in range(0, len(covered), 32):  # they stay in the processor's cache
            share = covered[row : row + 32].astype(np.float32) * np.float32(opacity / 255)
            under = self.image[part][row : row + 32]
            over = np.empty(under.shape, np.uint8)
            over[:] = color
            under[:] = cv2.blendLinear(over, np.ascontiguousarray(under), share, 1 - share)

    def cover(self, outline: Array, texture: Array, soft: float) -> None:
        """Lay an image of the same size over this one inside an outline of pixels `(N, 2)`. Its edge may be soft."""
        covered, whole = np.zeros(self.size, np.uint8), (slice(0, self.size[0]), slice(0, self.size[1]))
        cv2.fillPoly(covered, [_fixed(outline)], 255, cv2.LINE_AA, _BITS)
        if soft:
            _, covered = self._softened(whole, covered, soft * self.size[0])
        cv2.copyTo(texture, (covered == 255).view(np.uint8), self.image)
        self._lay_edge(whole, covered, 1.0, texture)

    def _softened(self, part: Region, covered: Array, sigma: float) -> tuple[Region, Array]:
        """Blur at a quarter of the size, with space around for the blur."""
        margin = int(2.5 * sigma) + 1
        rows, columns = (
            slice(max(side.start - margin, 0), min(side.stop + margin, end))
            for side, end in zip(part, self.size, strict=True)
        )
        wide = rows, columns
        space = np.zeros([side.stop - side.start for side in wide], np.uint8)
        space[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, wide, strict=True))] = (
            covered
        )
        small = cv2.resize(space, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(small, (0, 0), max(sigma / 4, 0.3))
        return wide, np.asarray(cv2.resize(blurred, space.shape[::-1]))


def _fixed(pixels: Array) -> Array:
    """Convert corners to OpenCV's integers."""
    return np.round(pixels.clip(-9e3, 9e3) * 2**_BITS).astype(np.int32)


def _cut(points: Array, depth: Array) -> Array:
    """Cut a polygon at the plane `_NEAR` meters before the camera."""
    kept = []
    for a, b, p, q in zip(points, np.roll(points, -1, 0), depth, np.roll(depth, -1), strict=True):
        if p >= _NEAR:
            kept.append(a)
        if (p >= _NEAR) != (q >= _NEAR):
            kept.append(a + (b - a) * (_NEAR - p) / (q - p))
    return np.array(kept).reshape(-1, 3)
