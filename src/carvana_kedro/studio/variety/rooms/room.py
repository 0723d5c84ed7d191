"""Rooms: a wall of any color and shape, a floor, and what stands and hangs there."""

from dataclasses import dataclass

import cv2
import numpy as np

from carvana_kedro.studio.scene import Camera

from ..draws import chance, color
from .floors import decorate_floor
from .foreground import draw_foreground
from .stage import Stage, Wall
from .walls import decorate_wall

Array = np.ndarray
_COARSE = 16  # the size of a pixel of smooth gradients, in pixels
_TILE = 256  # texels of the floor's texture
_FREE = 3.8  # meters around the turntable without a wall: a corner of a long car gets as far as 3.4 m from its center


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
    stage, wall = Stage(camera, size), stand_wall(rng)
    paint, floor = _colors(rng)
    stage.image = _gradient(size, paint, rng, rng.uniform(0, 0.25))
    stain = _stain(stage, rng) if chance(rng, 0.6) else None
    ground = _gradient(size, floor, rng, rng.uniform(0, 0.35), stain)
    edge = np.clip(stage.project(wall.at(np.linspace(-14, 14, 141), 0.0)), -9e3, 9e3)
    below = np.concatenate((edge, ((9e3, 9e3), (-9e3, 9e3))))
    stage.cover(below, ground, soft=rng.uniform(0.004, 0.05) if chance(rng, 0.3) else 0.0)
    decorate_wall(stage, wall, paint, rng)
    decorate_floor(stage, wall, floor, rng)
    draw_foreground(stage, floor, rng)
    return Room(stage.image, *(float((np.mean(level) / 255) ** 2.2) for level in (paint, floor)))


def stand_wall(rng: np.random.Generator) -> Wall:
    """Return a straight wall, an arc around the car, or two walls that meet at a corner."""
    kind, far = rng.choice(3, p=(0.4, 0.42, 0.18)), rng.uniform(_FREE, 9)
    if kind == 1:
        radius = max(rng.uniform(4.5, 11), (far + _FREE) / 2)  # the far side of the arc is behind the camera
        angle = np.linspace(-2.2, 2.2, 89)
        return Wall(np.c_[radius * np.sin(angle), far - radius + radius * np.cos(angle)])
    turn = np.radians(rng.normal(0, 7))
    corner = rng.uniform(_FREE, 6.5) * rng.choice((-1, 1))
    if kind == 2:
        turn = np.copysign(turn, corner)  # so that the wall at the side comes no nearer than the corner
    along = np.array((np.cos(turn), np.sin(turn)))
    if kind == 0:
        return Wall(np.array(((-60.0,), (60.0,))) * along + (0, far))
    middle = corner * along + (0, far + 1)
    side = np.array((along[1], -along[0])) * 60
    ends = (middle - 60 * along, middle + side) if corner > 0 else (middle + side, middle + 60 * along)
    return Wall(np.array((ends[0], middle, ends[1])))


def _colors(rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the display colors of wall and floor."""
    kind = rng.choice(5, p=(0.54, 0.19, 0.10, 0.08, 0.09))
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


def _gradient(
    size: tuple[int, int], base: Array, rng: np.random.Generator, strength: float, stain: Array | None = None
) -> Array:
    """Return a surface of one color with soft light and shade on it, and stains, `(H, W, 3)` uint8."""
    y, x = np.mgrid[-1 : 1 : (size[0] // _COARSE + 2) * 1j, -1 : 1 : (size[1] // _COARSE + 2) * 1j]
    light = 1 + strength * (rng.normal(0, 0.6) * x + rng.normal(0, 0.6) * y)
    for _ in range(rng.integers(0, 4)):
        distance = ((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2) / rng.uniform(0.1, 1)
        light += strength * rng.uniform(-0.7, 1) * np.exp(-distance)
    clouds = cv2.resize(rng.normal(0, 1, (5, 6)), x.shape[::-1], interpolation=cv2.INTER_CUBIC)
    light += strength * rng.uniform(0, 0.25) * clouds
    tint = 1 + np.clip(light - 1, -0.3, 0.3)[..., None] * rng.normal(0, 0.06, 3)
    shaded = base * light[..., None] * tint
    if stain is not None:
        shaded = cv2.resize(shaded, stain.shape[::-1]) * stain[..., None]
    return cv2.resize(np.clip(shaded, 0, 255).astype(np.uint8), size[::-1], interpolation=cv2.INTER_LINEAR)


def _stain(stage: Stage, rng: np.random.Generator) -> Array:
    """Return a texture that lies on the floor, as a factor: clouds and streaks of any size, at a sixth of the size."""
    rows, columns = np.mgrid[0 : stage.size[0] : 6, 0 : stage.size[1] : 6].astype(np.float32)
    # The point of the floor behind each pixel. Above the horizon there is none.
    down = [
        by_x * columns + by_y * rows + start for by_x, by_y, start in stage.camera.to_ray.astype(np.float32)
    ]
    reach = np.float32(stage.camera.position[2]) / np.maximum(-down[2], np.float32(1e-3))
    x, y = reach * down[0], reach * down[1]
    texture = np.zeros((_TILE, _TILE), np.float32)
    for grain in rng.uniform(0.7, 12, 2):
        noise = cv2.copyMakeBorder(rng.normal(0, 1, texture.shape), 36, 36, 36, 36, cv2.BORDER_WRAP)
        layer = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), grain)[36:-36, 36:-36]
        texture += layer / layer.std()
    turn, streak = rng.uniform(0, np.pi), rng.uniform(0.2, 1)
    cos, sin = (np.float32(part) for part in rng.uniform(8, 40) * np.array((np.cos(turn), np.sin(turn))))
    places = np.mod(x * cos + y * sin, _TILE), np.mod((y * cos - x * sin) * np.float32(streak), _TILE)
    found = cv2.remap(texture, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    fade = np.clip(12 / np.maximum(reach, 1), 0, 1)
    return 1 + np.float32(abs(rng.normal(0, 0.02))) * found * fade
