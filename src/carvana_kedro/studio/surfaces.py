"""Surfaces as grids of points: the body, wheels, mirrors and seats."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from .bodies import Car

Array = np.ndarray
COLUMNS = 96
WHEEL_PROFILE = np.array([
    (0, -.02), (.20, -.02), (.21, -.025), (.55, -.005), (.64, .0), (.67, .008), (.69, .004), (.71, .006),
    (.80, .016), (.90, .010), (.955, -.012), (.99, -.045), (1, -.075), (1, -.19), (.97, -.22),
    (.7, -.235), (0, -.235),
])  # fmt: skip
"""Rim, sidewall and tread, `(17, 2)`: radius as a fraction of the wheel's, and y in meters."""


@dataclass(frozen=True)
class Surface:
    """Grids of points in car coordinates, stacked by rows.

    Attributes:
        points: `(R, C, 3)` float32, meters.
        normals: `(R, C, 3)` float32, unit length, outward.
        seams: First rows of further grids. No face connects them to the previous row.
    """

    points: Array
    normals: Array
    seams: tuple[int, ...] = ()

    @functools.cached_property
    def grids(self) -> tuple[Array, Array]:
        """`points` and `normals` with an empty fourth channel, with which OpenCV is more than twice as fast."""
        points, normals = (np.pad(grid, ((0, 0), (0, 0), (0, 1))) for grid in (self.points, self.normals))
        return points, normals

    def moved(self, offset: tuple[float, float, float], flip: bool = False) -> "Surface":
        """Return the surface moved by `offset` meters. With `flip`, it is first rotated by 180 degrees about z."""
        turn = np.array((-1, -1, 1) if flip else (1, 1, 1), np.float32)
        return Surface(self.points * turn + np.array(offset, np.float32), self.normals * turn, self.seams)


def stack(surfaces: list[Surface]) -> Surface:
    """Join surfaces with the same number of columns into one."""
    starts = np.cumsum([0] + [len(surface.points) for surface in surfaces])
    seams = [
        int(start) + seam for start, part in zip(starts, surfaces, strict=False) for seam in (0, *part.seams)
    ]
    return Surface(
        np.concatenate([surface.points for surface in surfaces]),
        np.concatenate([surface.normals for surface in surfaces]),
        tuple(seams[1:]),
    )


def wrap_body(car: Car, step: float = 0.022) -> Surface:
    """Wrap a grid around the solid of the car by casting rays outward from its axis.

    Rows go from the pole at the nose to the pole at the tail, columns once around, starting at the bottom.
    """
    reach = car.length / 2 - 0.6
    fan = np.linspace(0, np.pi / 2, 46)
    along = np.arange(-reach, reach, step)[::-1]
    origins = np.concatenate((np.full(45, reach), along, np.full(45, -reach)))
    tilt = np.concatenate((fan[:0:-1], np.zeros(len(along)), -fan[1:]))
    around = np.linspace(-np.pi, np.pi, 2 * 104 + 1)
    # More columns at roof edges and sills, where the curvature is largest.
    around = around + 0.14 * np.sin(4 * around)
    direction = np.stack(np.broadcast_arrays(
        np.sin(tilt)[:, None],
        np.cos(tilt)[:, None] * np.sin(around),
        np.cos(tilt)[:, None] * np.cos(around),
    ))  # fmt: skip
    axis = np.stack(np.broadcast_arrays(origins[:, None], 0.0, np.full_like(around, 0.42 * car.height)))
    # In blocks that stay in the processor's cache.
    blocks = [slice(row, row + 16) for row in range(0, len(origins), 16)]
    points = [_cast_rays(car, axis[:, rows], direction[:, rows]) for rows in blocks]
    gradients = np.concatenate([_gradient(car, block) for block in points], 1)
    soft = cv2.GaussianBlur(cv2.merge(list(gradients)), (0, 0), 0.8)
    grid = np.ascontiguousarray(np.moveaxis(np.concatenate(points, 1), 0, -1), np.float32)
    return Surface(grid, soft / np.linalg.norm(soft, axis=-1, keepdims=True))


def _cast_rays(car: Car, axis: Array, direction: Array) -> Array:
    """Return the points where rays leave the body, all `(3, h, w)` float64."""
    near, far = np.zeros(direction.shape[1:]), np.full(direction.shape[1:], 2.2)
    for _ in range(18):
        middle = (near + far) / 2
        inside = car.solid(*(axis + direction * middle)) < 0
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return axis + direction * ((near + far) / 2)


def _gradient(car: Car, points: Array, step: float = 4e-3) -> Array:
    """Return the change of the body's field along each axis at `points`, `(3, h, w)` float32."""
    gradient = np.empty(points.shape, np.float32)
    for axis in range(3):
        offset = np.zeros((3, 1, 1))
        offset[axis] = step
        gradient[axis] = car.solid(*(points + offset)) - car.solid(*(points - offset))
    return gradient


def turn(profile: Array) -> Surface:
    """Rotate a profile of `(radius, y)` points, `(R, 2)`, about the y axis. The outside faces +y."""
    angle = np.linspace(0, 2 * np.pi, COLUMNS + 1)
    radius, height = profile[:, :1], profile[:, 1:]
    points = np.stack(np.broadcast_arrays(radius * np.cos(angle), height, radius * np.sin(angle)), -1)
    slope = np.gradient(profile, axis=0)
    slope /= np.linalg.norm(slope, axis=1, keepdims=True) + 1e-9
    normals = np.stack(np.broadcast_arrays(
        -slope[:, 1:] * np.cos(angle), slope[:, :1], -slope[:, 1:] * np.sin(angle)), -1)  # fmt: skip
    return Surface(points.astype(np.float32), normals.astype(np.float32))


def wheels(car: Car, side: int) -> Surface:
    """Return the two wheels on the left (+1) or right (-1): rim, sidewall and tread."""
    radius = car.wheel_radius
    wheel = turn(WHEEL_PROFILE * (radius, 1))
    place = side * (car.width / 2 - 0.012)
    return stack([wheel.moved((axle, place, radius - 0.006), flip=side < 0) for axle in car.axles])


def ellipsoid(size: tuple[float, float, float], power: float = 0.6, rows: int = 13) -> Surface:
    """Return a rounded box with half sizes `size`. A smaller `power` gives sharper edges."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    longitude = np.linspace(0, 2 * np.pi, COLUMNS + 1)

    def bent(value: Array) -> Array:
        return np.sign(value) * np.abs(value) ** power

    unit = np.stack(np.broadcast_arrays(
        bent(np.cos(latitude)) * bent(np.cos(longitude)),
        bent(np.cos(latitude)) * bent(np.sin(longitude)),
        bent(np.sin(latitude)) * np.ones_like(longitude)), -1)  # fmt: skip
    normals = np.sign(unit) * np.abs(unit) ** (2 / power - 1) / np.array(size)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    return Surface((unit * size).astype(np.float32), normals.astype(np.float32))


def mirror(car: Car, side: int) -> Surface:
    """Return the outside mirror on the left (+1) or right (-1)."""
    x = car.x(windscreen_foot(car)) - 0.42
    z = float(car.belt(x)) + 0.075
    y = side * (float(car.half_width(x, z)) + 0.11)
    return ellipsoid((0.075, 0.115, 0.075), 0.75).moved((x, y, z))


def windscreen_foot(car: Car) -> float:
    """Return the front end of the windscreen as a fraction of the length."""
    return car.style.roofline[4][0]


def seats(car: Car) -> Surface:
    """Return the interior that is visible through the windows: seats with headrests, dashboard and steering wheel."""
    foot, end = car.x(windscreen_foot(car)), car.x(car.style.windows_end)
    top = car.height - 0.30
    parts = [ellipsoid((0.22, 0.42 * car.width, 0.1), 0.5).moved((foot - 0.28, 0, 0.62 * car.height))]
    parts.append(ellipsoid((0.03, 0.19, 0.16), 0.9).moved((foot - 0.62, 0.36, 0.66 * car.height)))
    for x in (foot - 1.25, foot - 2.1):
        if x > end - 0.25:
            for y in (-0.37, 0.37):
                parts.append(ellipsoid((0.09, 0.25, 0.34), 0.5).moved((x, y, top - 0.34)))
                parts.append(ellipsoid((0.06, 0.13, 0.09), 0.6).moved((x - 0.05, y, top + 0.08)))
    return stack(parts)
