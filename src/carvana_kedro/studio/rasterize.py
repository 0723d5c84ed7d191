"""Rasterization: the part of a surface that each pixel shows, and the covered fraction of the pixel."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from .surfaces import Surface

Array = np.ndarray
Box = tuple[slice, slice]
# Samples per side. An odd number has a sample at the center of the pixel, and coverage is never exactly one half.
_SAMPLES = 3
_SHIFT = 4  # fractional bits of polygon corners in OpenCV
_STEP = _SAMPLES << _SHIFT  # the size of a pixel in these bits
_CHUNK = 16384  # pixels that are shaded at once: their values stay in the processor's cache


@dataclass(frozen=True)
class Fragments:
    """The part of a surface that some pixels show. All values are rows `(1, n)`, which OpenCV's functions take.

    Attributes:
        index: `(n,)` int64, numbers of the pixels, row by row.
        y: Rows of the pixels in the image.
        x: Columns of the pixels in the image.
        coverage: float32 in (0, 1], fraction of the pixel inside the outline.
        row: float32, row in the surface's grid.
        column: float32, column in the surface's grid.
        points: Three rows float32: x, y and z in car coordinates, meters.
        normals: Three rows float32, car coordinates.
    """

    index: Array
    y: Array
    x: Array
    coverage: Array
    row: Array
    column: Array
    points: tuple[Array, ...]
    normals: tuple[Array, ...]

    def take(self, chosen: Array) -> "Fragments":
        """Return the fragments at these places of the rows."""
        row = {name: getattr(self, name)[:, chosen] for name in ("y", "x", "coverage", "row", "column")}
        points, normals = (tuple(axis[:, chosen] for axis in axes) for axes in (self.points, self.normals))
        return Fragments(index=self.index[chosen], points=points, normals=normals, **row)


@dataclass(frozen=True)
class Visible:
    """The pixels that show a surface, and the faces that they show. Iterate over it for the fragments.

    Attributes:
        surface: The surface.
        box: Rows and columns of the image that hold the surface.
        width: Width of the image.
        window: Rows and columns of the box that were drawn.
        index: `(N,)` int64, numbers of the visible pixels in the window, row by row.
        coverage: `(h, w)` uint8, number of covered samples of the pixels in the window.
        face: `(h, w)` uint16, number of the face, from 1.
        place: `(2, 3, F + 1)` float32, grid row and column on each face: the value at the corner of the box, and the
            change per pixel to the right and down.
    """

    surface: Surface
    box: Box
    width: int
    window: Box
    index: Array
    coverage: Array
    face: Array
    place: Array

    def __iter__(self) -> Iterator[Fragments]:
        """Yield the fragments in chunks."""
        (top, left), width = (side.start for side in self.window), self.window[1].stop - self.window[1].start
        for start in range(0, len(self.index), _CHUNK):
            index = self.index[None, start : start + _CHUNK]
            y = index // width
            x = index - y * width
            y, x = y + top, x + left
            face = self.face.take(index).astype(np.intp)
            right, down = x.astype(np.float32), y.astype(np.float32)
            row, column = (
                begin.take(face) + by_x.take(face) * right + by_y.take(face) * down
                for begin, by_x, by_y in self.place
            )
            y, x = y + self.box[0].start, x + self.box[1].start
            yield Fragments(
                (y * self.width + x)[0],
                y,
                x,
                self.coverage.take(index).astype(np.float32) / _SAMPLES**2,
                row,
                column,
                *(interpolate(grid, column, row) for grid in self.surface.grids),
            )


def rasterize(
    surface: Surface,
    to_image: Array,
    size: tuple[int, int],
    *,
    stride: int = 1,
    rows: slice = slice(None),
    columns: slice = slice(None),
    back: bool = False,
    wanted: Array | None = None,
) -> Visible:
    """Draw the faces that point to the camera, or away from it if `back`, farthest first.

    Args:
        surface: Surface in car coordinates.
        to_image: `(3, 4)` float64, car coordinates to homogeneous pixels.
        size: Height and width of the image.
        stride: Number of grid steps per face.
        rows: Rows of the grid to draw. Only for surfaces without seams.
        columns: Columns of the grid to draw.
        back: Draw the inside of the far half instead.
        wanted: `(H, W)` bool, the pixels to draw. None: all.
    """
    first = rows.start or 0, columns.start or 0
    points = surface.points[rows, columns][::stride, ::stride].astype(np.float64)
    image = points @ to_image[:, :3].T + to_image[:, 3]
    depth, pixels = image[..., 2], image[..., :2] / image[..., 2:]
    box = _bounding_box(pixels, size)

    pixels = pixels - (box[1].start, box[0].start)
    a, b, c, d = pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, 1:], pixels[1:, :-1]
    across, down = (b + c - a - d) / 2, (c + d - a - b) / 2
    area = down[..., 0] * across[..., 1] - down[..., 1] * across[..., 0]
    drawn = (area > 1e-4) != back
    # Right for seams at multiples of the stride. With the seats of `surfaces.seats`, 13 rows drawn with a stride of 2, it
    # leaves out one face too early. The next `STUDIO_VERSION` may repair it: their images change.
    drawn[[seam // stride - 1 for seam in surface.seams]] = False
    face = np.nonzero(drawn & (np.abs(area) > 1e-4))
    corners = np.stack((a[face], b[face], c[face], d[face]), 1) * _SAMPLES + _SAMPLES // 2
    corners = np.round(np.clip(corners, -20000, 20000) * 2**_SHIFT).astype(np.int32)
    reach = _reach(corners, box)
    needed = np.flatnonzero(_needed(reach, None if wanted is None else wanted[box]))
    order = needed[np.argsort(-(depth[:-1, :-1] + depth[1:, 1:])[face][needed], kind="stable")]
    face = face[0][order], face[1][order]
    left, top = (int(low.min(initial=1 << 15)) for low in reach[:2, order])
    right, bottom = (int(high.max(initial=0)) for high in reach[2:, order])
    window = slice(top, max(top, bottom)), slice(left, max(left, right))
    seen = _paint(corners[order] - np.array((left, top), np.int32) * _STEP, window)
    covered, nearest = _sample(seen)
    shown = covered > 0 if wanted is None else (covered > 0) & wanted[box][window]

    # On each face, grid coordinates are an affine function of pixels: down * s + across * t = pixel - center.
    center = (a + b + c + d)[face] / 4
    gradients = np.stack((across[face][:, ::-1], down[face][:, ::-1])) * np.array(((1, -1), (-1, 1)))[:, None]
    # For faces seen edge-on, pixels beside them would get grid coordinates far away.
    gradients = np.clip(gradients / area[face][:, None], -0.5, 0.5)
    place = np.zeros((2, 3, len(order) + 1), np.float32)
    for terms, gradient, corner, begin in zip(place, gradients, face, first, strict=True):
        by_x, by_y = gradient.T
        start = begin + stride * (corner + 0.5 - by_x * center[:, 0] - by_y * center[:, 1])
        terms[:, 1:] = start, stride * by_x, stride * by_y
    return Visible(surface, box, size[1], window, np.flatnonzero(shown), covered, nearest, place)


def _reach(corners: Array, box: Box) -> Array:
    """Return the parts of the box that faces may touch, `(4, F)`: left, top, right and bottom."""
    size = box[1].stop - box[1].start, box[0].stop - box[0].start
    quads = tuple(np.moveaxis(corners, 1, 0))  # a reduction over so short an axis is slow
    low = functools.reduce(np.minimum, quads) // _STEP - 1
    high = functools.reduce(np.maximum, quads) // _STEP + 2
    return np.clip(np.concatenate((low, high), 1), 0, size + size).T


def _needed(reach: Array, wanted: Array | None) -> Array:
    """Tell which faces may touch the box, or its `wanted` pixels: `(F,)` bool."""
    left, top, right, bottom = reach
    needed = (left < right) & (top < bottom)
    if wanted is not None and wanted.size:
        count = cv2.integral(wanted.view(np.uint8))
        needed &= count[bottom, right] - count[top, right] - count[bottom, left] + count[top, left] > 0
    return needed


def _paint(quads: Array, window: Box) -> Array:
    """Paint quads one over the other. Return their numbers from 1 at the samples, `(h * 3, w * 3)` uint16."""
    height, width = (side.stop - side.start for side in window)
    seen, fill = np.zeros((height * _SAMPLES, width * _SAMPLES), np.uint16), cv2.fillConvexPoly
    for number, quad in enumerate(quads, 1):
        fill(seen, quad, number, 8, _SHIFT)
    return seen


def _sample(seen: Array) -> tuple[Array, Array]:
    """Return the number of covered samples of each pixel, and the face in its center or else the nearest one."""
    filled, middle = (seen > 0).view(np.uint8), _SAMPLES // 2
    rows = functools.reduce(np.add, (filled[start::_SAMPLES] for start in range(_SAMPLES)))
    covered = functools.reduce(np.add, (rows[:, start::_SAMPLES] for start in range(_SAMPLES)))
    face = seen[middle::_SAMPLES, middle::_SAMPLES].copy()
    height, width = face.shape
    row, column = np.divmod(np.flatnonzero((face == 0) & (covered > 0)), max(width, 1))
    face[row, column] = seen.reshape(height, _SAMPLES, width, _SAMPLES)[row, :, column].max((1, 2))
    return covered, face


def interpolate(grid: Array, column: Array, row: Array) -> tuple[Array, ...]:
    """Interpolate `grid`, `(R, C, 4)`, at fractional positions. Return the first three planes.

    Outside the grid, the border is repeated.
    """
    found = cv2.remap(grid, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return tuple(cv2.split(found)[:3])


def extent(coverage: Array, margin: int = 0) -> Box:
    """Return the rows and columns outside which `coverage` `(h, w)` is zero, and up to `margin` more on all sides."""
    left, top, width, height = cv2.boundingRect((coverage != 0).view(np.uint8))
    if not width:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(top - margin, 0), min(top + height + margin, coverage.shape[0])),
        slice(max(left - margin, 0), min(left + width + margin, coverage.shape[1])),
    )


def _bounding_box(pixels: Array, size: tuple[int, int]) -> Box:
    columns, rows = (
        slice(*np.clip((np.floor(axis.min()) - 1, np.ceil(axis.max()) + 2), 0, end).astype(int).tolist())
        for axis, end in zip(np.moveaxis(pixels, -1, 0), reversed(size), strict=True)
    )
    return rows, columns
