"""Rooms: a wall of any color and shape, a floor, and what stands and hangs there."""

from dataclasses import dataclass

import cv2
import numpy as np

from ..scene import Camera
from .decoration import decorate_floor, decorate_wall
from .draws import chance, color
from .stage import Stage, Wall

Array = np.ndarray
_COARSE = 16  # the size of a pixel of smooth gradients, in pixels


@dataclass(frozen=True)
class Room:
    """An empty room as a camera sees it.

    Attributes:
        image: `(H, W, 3)` uint8 RGB.
        wall: Mean brightness of the wall, linear.
        floor: Mean brightness of the floor, linear.
    """

    image: Array
    wall: float
    floor: float


def build_room(camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> Room:
    """Return a random room. `size` is the height and width of the image."""
    stage, wall = Stage(camera, size), _stand_wall(rng)
    paint, floor = _colors(rng)
    stage.image = _gradient(size, paint, rng, rng.uniform(0, 0.25))
    ground = _gradient(size, floor, rng, rng.uniform(0, 0.35))
    if chance(rng, 0.6):
        _stain(ground, stage, rng)
    edge = np.clip(stage.project(wall.at(np.linspace(-14, 14, 141), np.float64(0))), -9e3, 9e3)
    _lay_floor(stage, ground, edge, soft=rng.uniform(0.004, 0.05) if chance(rng, 0.3) else 0.0)
    decorate_wall(stage, wall, paint, rng)
    decorate_floor(stage, wall, floor, rng)
    return Room(stage.image, *(float((np.mean(level) / 255) ** 2.2) for level in (paint, floor)))


def _stand_wall(rng: np.random.Generator) -> Wall:
    """Return a straight wall, an arc around the car, or two walls that meet at a corner."""
    kind, far = rng.choice(3, p=(0.4, 0.42, 0.18)), rng.uniform(3.2, 9)
    if kind == 1:
        radius = rng.uniform(4.5, 11)
        angle = np.linspace(-2.2, 2.2, 89)
        return Wall(np.c_[radius * np.sin(angle), far - radius + radius * np.cos(angle)])
    turn = np.radians(rng.normal(0, 7))
    along = np.array((np.cos(turn), np.sin(turn)))
    if kind == 0:
        return Wall(np.array(((-60.0,), (60.0,))) * along + (0, far))
    corner = rng.uniform(1.5, 5.5) * rng.choice((-1, 1))
    middle = corner * along + (0, far + 1)
    side = np.array((along[1], -along[0])) * 60
    ends = (middle - 60 * along, middle + side) if corner > 0 else (middle + side, middle + 60 * along)
    return Wall(np.array((ends[0], middle, ends[1])))


def _colors(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the display colors of wall and floor."""
    kind = rng.choice(5, p=(0.48, 0.2, 0.12, 0.12, 0.08))
    wall = (
        color(rng, 205, 252, 0.012),
        color(rng, 120, 220, 0.04),
        color(rng, 18, 90, 0.06),
        color(rng, 70, 210, 0.3),
        color(rng, 225, 255, 0.0),
    )[kind]
    floors = ((130, 232, 0.025), (55, 150, 0.04), (15, 60, 0.05), (70, 170, 0.2), (215, 250, 0.01))
    low, high, tint = floors[rng.choice(5, p=(0.5, 0.2, 0.1, 0.08, 0.12))]
    if chance(rng, 0.1):
        return np.array(wall), np.array(wall) * rng.uniform(0.9, 1)
    return np.array(wall), np.array(color(rng, low, high, tint))


def _gradient(size: tuple[int, int], base: Array, rng: np.random.Generator, strength: float) -> Array:
    """Return a surface of one color with soft light and shade on it, `(H, W, 3)` uint8."""
    y, x = np.mgrid[-1 : 1 : (size[0] // _COARSE + 2) * 1j, -1 : 1 : (size[1] // _COARSE + 2) * 1j]
    light = 1 + strength * (rng.normal(0, 0.6) * x + rng.normal(0, 0.6) * y)
    for _ in range(rng.integers(0, 4)):
        distance = ((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2) / rng.uniform(0.1, 1)
        light += strength * rng.uniform(-0.7, 1) * np.exp(-distance)
    clouds = cv2.resize(rng.normal(0, 1, (5, 6)), x.shape[::-1], interpolation=cv2.INTER_CUBIC)
    light += strength * rng.uniform(0, 0.25) * clouds
    tint = 1 + np.clip(light - 1, -0.3, 0.3)[..., None] * rng.normal(0, 0.06, 3)
    small = np.clip(base * light[..., None] * tint, 0, 255).astype(np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)


def _stain(ground: Array, stage: Stage, rng: np.random.Generator) -> None:
    """Give the floor a texture: clouds and streaks of any size that lie on it."""
    height, width = stage.size
    rows, columns = np.mgrid[0:height:4, 0:width:4].astype(np.float64)
    # The point of the floor behind each pixel. Above the horizon there is none.
    down = stage.camera.to_ray @ np.stack((columns.ravel(), rows.ravel(), np.ones(rows.size)))
    reach = stage.camera.position[2] / np.maximum(-down[2], 1e-3)
    x, y = (stage.camera.position[axis] + reach * down[axis] for axis in (0, 1))
    size = 256
    texture = np.zeros((size, size))
    for grain in rng.uniform(0.7, 12, 2):
        layer = cv2.GaussianBlur(np.tile(rng.normal(0, 1, (size, size)), (2, 2)), (0, 0), grain)[:size, :size]
        texture += layer / layer.std()
    scale, turn = rng.uniform(8, 40), rng.uniform(0, np.pi)
    u, v = scale * (x * np.cos(turn) + y * np.sin(turn)), scale * rng.uniform(0.2, 1) * (y * np.cos(turn) - x * np.sin(turn))
    places = (np.mod(axis, size).reshape(rows.shape).astype(np.float32) for axis in (u, v))
    found = cv2.remap(texture.astype(np.float32), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    fade = np.clip(12 / np.maximum(reach.reshape(rows.shape), 1), 0, 1).astype(np.float32)
    share = 1 + np.float32(abs(rng.normal(0, 0.02))) * found * fade
    full = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
    ground[:] = cv2.multiply(ground, cv2.merge((full, full, full)), dtype=cv2.CV_8U)


def _lay_floor(stage: Stage, ground: Array, edge: Array, soft: float) -> None:
    """Lay the floor below the line where it meets the wall. `soft`: the wall runs into the floor in a curve."""
    height, width = stage.size
    outline = np.concatenate((edge, ((9e3, 9e3), (-9e3, 9e3))))
    covered = np.zeros(stage.size, np.uint8)
    cv2.fillPoly(covered, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if soft:
        small = cv2.resize(covered, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        covered = cv2.resize(cv2.GaussianBlur(small, (0, 0), soft * height / 4), (width, height))
    share = covered.astype(np.float32) / np.float32(255)
    stage.image = cv2.blendLinear(ground, stage.image, share, 1 - share)
