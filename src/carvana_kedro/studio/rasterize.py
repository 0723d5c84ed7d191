"""Rasterization: the part of a surface that each pixel shows, and the covered fraction of the pixel."""

from dataclasses import dataclass

import cv2
import numpy as np

from .surfaces import Surface

Array = np.ndarray
# Samples per side. An odd number has a sample at the center of the pixel, and coverage is never exactly one half.
_SAMPLES = 3
_SHIFT = 4  # fractional bits of polygon corners in OpenCV


@dataclass(frozen=True)
class Fragments:
    """The part of a surface that the pixels of a box show. Values are defined where coverage is positive.

    Attributes:
        box: Rows and columns of the image.
        coverage: `(h, w)` float32 in [0, 1], fraction of the pixel inside the outline.
        row: `(h, w)` float32, row in the surface's grid.
        column: `(h, w)` float32, column in the surface's grid.
        points: Three planes `(h, w)` float32: x, y and z in car coordinates, meters.
        normals: Three planes `(h, w)` float32, car coordinates.
    """

    box: tuple[slice, slice]
    coverage: Array
    row: Array
    column: Array
    points: tuple[Array, ...]
    normals: tuple[Array, ...]


def rasterize(
    surface: Surface,
    to_image: Array,
    size: tuple[int, int],
    *,
    stride: int = 1,
    rows: slice = slice(None),
    columns: slice = slice(None),
    back: bool = False,
) -> Fragments:
    """Draw the faces that point to the camera, or away from it if `back`, farthest first.

    Args:
        surface: Surface in car coordinates.
        to_image: `(3, 4)` float64, car coordinates to homogeneous pixels.
        size: Height and width of the image.
        stride: Number of grid steps per face.
        rows: Rows of the grid to draw. Only for surfaces without seams.
        columns: Columns of the grid to draw.
        back: Draw the inside of the far half instead.
    """
    first = rows.start or 0, columns.start or 0
    points = surface.points[rows, columns][::stride, ::stride].astype(np.float64)
    image = points @ to_image[:, :3].T + to_image[:, 3]
    depth, pixels = image[..., 2], image[..., :2] / image[..., 2:]
    box = _bounding_box(pixels, size)
    top, left = box[0].start, box[1].start
    height, width = box[0].stop - top, box[1].stop - left
    if height <= 0 or width <= 0:
        nothing = np.zeros((0, 0), np.float32)
        return Fragments(
            (slice(0, 0), slice(0, 0)), nothing, nothing, nothing, (nothing,) * 3, (nothing,) * 3
        )

    pixels = pixels - (left, top)
    a, b, c, d = pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, 1:], pixels[1:, :-1]
    across, down = (b + c - a - d) / 2, (c + d - a - b) / 2
    area = down[..., 0] * across[..., 1] - down[..., 1] * across[..., 0]
    wanted = (area > 1e-4) != back
    wanted[[seam // stride - 1 for seam in surface.seams]] = False
    face_row, face_column = np.nonzero(wanted & (np.abs(area) > 1e-4))
    order = np.argsort(-(depth[:-1, :-1] + depth[1:, 1:])[face_row, face_column], kind="stable")
    face = face_row[order], face_column[order]

    corners = np.stack((a[face], b[face], c[face], d[face]), 1) * _SAMPLES + _SAMPLES // 2
    corners = np.round(np.clip(corners, -20000, 20000) * 2**_SHIFT).astype(np.int32)
    seen = np.zeros((height * _SAMPLES, width * _SAMPLES), np.uint16)
    fill = cv2.fillConvexPoly
    for number, quad in enumerate(corners, 1):
        fill(seen, quad, number, 8, _SHIFT)

    coverage = cv2.resize(
        (seen > 0).view(np.uint8) * np.uint8(252), (width, height), interpolation=cv2.INTER_AREA
    )
    middle = slice(_SAMPLES // 2, None, _SAMPLES)
    nearest = cv2.dilate(seen, np.ones((_SAMPLES, _SAMPLES), np.uint8))[middle, middle]
    nearest = np.where(seen[middle, middle] > 0, seen[middle, middle], nearest)

    # On each face, grid coordinates are an affine function of pixels: down * s + across * t = pixel - center.
    center = (a + b + c + d)[face] / 4
    gradients = np.stack((across[face][:, ::-1], down[face][:, ::-1])) * np.array(((1, -1), (-1, 1)))[:, None]
    # For faces seen edge-on, pixels beside them would get grid coordinates far away.
    gradients = np.clip(gradients / area[face][:, None], -0.5, 0.5)
    where = nearest.astype(np.intp)
    y, x = np.ogrid[: np.float32(height), : np.float32(width)]
    place = []
    for (by_x, by_y), corner, begin in zip(np.moveaxis(gradients, -1, 1), face, first, strict=True):
        start = begin + stride * (corner + 0.5 - by_x * center[:, 0] - by_y * center[:, 1])
        terms = (
            np.append(0, term).astype(np.float32)[where] for term in (start, stride * by_x, stride * by_y)
        )
        origin, along_x, along_y = terms
        place.append(origin + along_x * x + along_y * y)
    row, column = place
    seen_points, seen_normals = (interpolate(grid, column, row) for grid in (surface.points, surface.normals))
    return Fragments(box, coverage.astype(np.float32) / 252, row, column, seen_points, seen_normals)


def interpolate(grid: Array, column: Array, row: Array) -> tuple[Array, ...]:
    """Interpolate `grid`, `(R, C, c)` with c up to four, at fractional positions. Return planes `(h, w)`.

    Outside the grid, the border is repeated.
    """
    channels = grid.shape[2]
    # OpenCV is more than twice as fast with four channels as with two or three.
    padded = np.pad(grid, ((0, 0), (0, 0), (0, 4 - channels)))
    found = cv2.remap(padded, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return tuple(cv2.split(found)[:channels])


def extent(coverage: Array) -> tuple[slice, slice]:
    """Return the rows and columns outside which `coverage` `(h, w)` is zero."""
    if not (rows := np.flatnonzero(coverage.any(1))).size:
        return slice(0, 0), slice(0, 0)
    columns = np.flatnonzero(coverage.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _bounding_box(pixels: Array, size: tuple[int, int]) -> tuple[slice, slice]:
    (left, top), (right, bottom) = np.floor(pixels.min((0, 1))) - 1, np.ceil(pixels.max((0, 1))) + 2
    return (
        slice(int(np.clip(top, 0, size[0])), int(np.clip(bottom, 0, size[0]))),
        slice(int(np.clip(left, 0, size[1])), int(np.clip(right, 0, size[1]))),
    )
