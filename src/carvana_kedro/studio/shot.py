"""One photograph: the car is shaded and laid over the empty studio."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import CEILING, SCALE
from .lighting import SHADOW_SCALE, display, look_up, studio_light
from .model import Model
from .rasterize import Fragments, rasterize
from .scene import fall_off, render_background
from .settings import StudioSettings, generator
from .surfaces import Surface, windscreen_foot

Array = np.ndarray


@dataclass(frozen=True)
class Body:
    """Shaded pixels of the body, rows `(1, n)`: `index` is `(n,)`, and `pixels` `(1, n, 3)` uint8.

    `coverage` is without the openings of the wheels, and `well` their part of the pixel.
    """

    index: Array
    pixels: Array
    glass: Array
    well: Array
    coverage: Array


@dataclass(frozen=True)
class Look:
    """Constants of a view that are the same for all views of the sample.

    Attributes:
        sheen: Fraction of the light that the floor mirrors.
        fading: Fading of this reflection with height, per meter.
        dark_glass: Fraction of the light that dark glass lets through.
        clear_glass: Fraction of the light that other glass lets through.
        glass: Color of all glass, RGB in [0, 1].
        cabin: Display value of the cabin's walls, and what it gains where they face up.
        seats: The same of the seats.
        coat: Strength of the clear coat of the paint: 1 is glossy, 0 matt.
    """

    sheen: float = 0.24
    fading: float = 1.1
    dark_glass: float = 0.30
    clear_glass: float = 0.80
    glass: tuple[float, float, float] = (0.93, 0.98, 0.95)
    cabin: tuple[int, int] = (26, 34)
    seats: tuple[int, int] = (20, 30)
    coat: float = 1.0


class Shot:
    """Renders one view: projects the geometry, shades it, and composes it over the studio from back to front."""

    def __init__(
        self, settings: StudioSettings, model: Model, car: int, view: int, *, turn: float = 0.0
    ) -> None:
        """Place the car. `turn` is how much farther than to its stop the turntable turns, degrees."""
        self.settings, self.model, self.light, self.look = settings, model, studio_light(), Look()
        self.number, self.random = car, generator(settings, car, view)
        self.day = generator(settings, car, 0, 4)
        offset = self.day.uniform((-0.22, -0.12), (0.22, 0.12))
        yaw = np.radians(-90 + 360 * (view - 1) / settings.views + self.day.normal(0, 2) + turn)
        cos, sin = np.cos(yaw), np.sin(yaw)
        self.rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        place = self.rotation @ (*offset, 0)
        self.to_image = model.camera.matrix @ np.r_[np.c_[self.rotation, place], [[0, 0, 0, 1]]]
        self.eye = self.rotation.T @ (model.camera.position - place)
        self.size = settings.height, settings.width
        self.coverage = np.zeros(settings.height * settings.width, np.float32)
        # Each term of a ray depends on one axis.
        x, y = np.arange(settings.width), np.arange(settings.height)
        self.rays = [
            ((by_x * x).astype(np.float32), (by_y * y + start).astype(np.float32))
            for by_x, by_y, start in model.camera.to_ray
        ]

    def render(self) -> tuple[Array, Array]:
        """Return the image, `(H, W, 3)` uint8, and the fraction of each pixel that the car covers, `(H, W)` float32."""
        self.image = self._empty_room()
        self._compose()
        return self._expose(), self.coverage.reshape(self.size)

    def _empty_room(self) -> Array:
        return render_background(self.settings, self.number).copy()

    def _compose(self) -> None:
        """Lay the shadow and the car over the empty room."""
        model = self.model
        # NumPy copies items of three bytes faster than rows of a matrix.
        self.pixels = self.image.view("V3").reshape(-1)
        self._reflect_in_floor()
        self._cast_shadow()
        body = [self._shade_body(seen) for seen in rasterize(model.body, self.to_image, self.size, stride=2)]
        self._look_through(body)
        # What the body hides is not drawn.
        visible = np.ones(self.size, bool)
        for part in body:
            visible.reshape(-1)[part.index] = part.coverage[0] < 1
        near, far = (0, 1) if self.eye[1] > 0 else (1, 0)
        beside = abs(self.eye[1]) > model.car.width / 2
        for side in (far, near) if not beside else (far,):
            self._add_mirror(model.mirrors[side], visible)
        self._add_wheels(model.wheels[far], visible)
        for part in body:
            well = np.flatnonzero(part.well)
            self._lay(part.index[well], np.full((1, well.size, 3), 6, np.uint8), part.well[:, well])
        self._add_wheels(model.wheels[near], visible)
        for part in body:
            self._lay(part.index, part.pixels, part.coverage)
        if beside:
            self._add_mirror(model.mirrors[near])

    def _cast_shadow(self) -> None:
        shadow = self._shadow()
        height, width = shadow.shape
        texels = np.array(
            [[SHADOW_SCALE, 0, width / 2 - 0.5], [0, SHADOW_SCALE, height / 2 - 0.5], [0, 0, 1]]
        )
        to_image = self.to_image[:, [0, 1, 3]] @ np.linalg.inv(texels)
        corners = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)]) @ to_image.T
        corners = _ahead(corners)
        pixels = corners[:, :2] / corners[:, 2:]
        left, top = np.clip(np.floor(pixels.min(0)).astype(int), 0, self.size[::-1])
        right, bottom = np.clip(np.ceil(pixels.max(0)).astype(int), 0, self.size[::-1])
        moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ to_image
        kept = cv2.warpPerspective(shadow, moved, (right - left, bottom - top), borderValue=1.0)
        part = self.image[top:bottom, left:right]
        part[:] = cv2.multiply(part, cv2.merge((kept, kept, kept)), dtype=cv2.CV_8U)

    def _shadow(self) -> Array:
        return self.model.shadow

    def _reflect_in_floor(self) -> None:
        """Add the reflection of the car in the semi-gloss floor. It is blurred, so a quarter of the size is enough."""
        to_image = np.diag((0.25, 0.25, 1)) @ self.to_image @ np.diag((1, 1, -1, 1))
        size = self.size[0] // 4, self.size[1] // 4
        seen = rasterize(self.model.body, to_image, size, stride=4, back=True)
        if not seen.index.size:
            return
        # Padding in which the blur fades out, up to the border of the image.
        rows, columns = (
            slice(max(side.start - 24, 0), min(side.stop + 24, end))
            for side, end in zip(seen.box, size, strict=True)
        )
        layer = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 4), np.float32)
        for part in seen:
            albedo, _, glass, *_ = self._appearance(part)
            pixels = display(0.30 * (1 - glass), 0.0, albedo)
            share = self.look.sheen * part.coverage * cv2.exp(part.points[2] * np.float32(-self.look.fading))
            layer[part.y - rows.start, part.x - columns.start] = np.dstack((pixels * share[..., None], share))
        soft = cv2.resize(cv2.GaussianBlur(layer, (0, 0), self.size[0] / 300), None, fx=4, fy=4)
        top, left = 4 * rows.start, 4 * columns.start
        under = self.image[top : top + soft.shape[0], left : left + soft.shape[1]]
        for row in range(0, len(soft), 32):  # in bands that stay in the processor's cache
            *colors, hiding = cv2.split(soft[row : row + 32])
            band, kept = under[row : row + 32], cv2.merge((1 - hiding,) * 3)
            band[:] = cv2.add(cv2.merge(colors), kept * band, dtype=cv2.CV_8U)

    def _add_mirror(self, surface: Surface, visible: Array | None = None) -> None:
        for seen in rasterize(surface, self.to_image, self.size, wanted=visible):
            matt, gloss = self._light(seen, self.model.car.metallic, coat=self.look.coat)
            self._lay(seen.index, display(matt, gloss, tuple(self.model.car.paint)), seen.coverage)

    def _add_wheels(self, surface: Surface, visible: Array) -> None:
        color, rest = self.model.tires
        for seen in self._see_wheels(surface, visible):
            place = seen.column * 16, np.mod(seen.row, 17) * 16
            albedo = _linear(cv2.remap(color, *place, cv2.INTER_LINEAR))
            metal = cv2.remap(rest, *place, cv2.INTER_LINEAR).astype(np.float32) / 255
            matt, gloss = self._light(seen, 0.0, metal, coat=0.25)
            self._lay(seen.index, display(matt, gloss, albedo), seen.coverage)

    def _see_wheels(self, surface: Surface, visible: Array) -> Iterable[Fragments]:
        return rasterize(surface, self.to_image, self.size, wanted=visible)

    def _shade_body(self, seen: Fragments) -> Body:
        albedo, cover, glass, hole, metal = self._appearance(seen)
        flakes, coat = self.model.car.metallic * (1 - cover), 1 - 0.6 * cover * (1 - glass)
        coat = coat * (1 + (self.look.coat - 1) * (1 - cover) * (1 - glass))
        matt, gloss = self._light(seen, flakes, metal, coat)
        pixels = display(matt * (1 - glass), gloss, albedo)
        return Body(seen.index, pixels, glass, seen.coverage * hole, seen.coverage * (1 - hole))

    def _appearance(self, seen: Fragments) -> tuple[tuple[Array, ...], Array, Array, Array, Array]:
        """Return the material of the visible body, rows `(1, n)` float32.

        Returns:
            Linear RGB as three rows, and the fractions of covered paint, glass, hole and metal in [0, 1].
        """
        (x, y, z), (n_x, n_y, n_z), car = seen.points, seen.normals, self.model.car
        side, begin = np.abs(n_y) > np.abs(n_x), np.float32(car.length + 0.2)
        # Side, front and rear are next to each other in one drawing.
        across = y + np.where(n_x > 0, begin + np.float32(1.15), begin + np.float32(3.45))
        across = np.where(side, x + np.float32(car.length / 2 + 0.1), across)
        u, v = across * SCALE - 0.5, (CEILING - z) * SCALE - 0.5
        color, rest = (cv2.remap(panel, u, v, cv2.INTER_LINEAR) for panel in self.model.panels)
        *drawn, cover = (plane.astype(np.float32) / 255 for plane in cv2.split(color))
        glass, hole, metal, _ = (plane.astype(np.float32) / 255 for plane in cv2.split(rest))
        if car.style.name == "pickup":
            # A soft black cover over the bed.
            cover[(x < car.x(0.61)) & (n_z > 0.8)] = 1
        paint = zip(car.paint, drawn, strict=True)
        albedo = tuple(own + cover * (layer * layer - own) for own, layer in paint)
        return albedo, cover, glass, hole, metal

    def _look_through(self, parts: list[Body]) -> None:
        """Add the view through the glass: cabin, seats, and the studio behind the far windows."""
        body, seats = self.model.body, self.model.seats
        columns, middle = body.points.shape[1], body.points[:, body.points.shape[1] // 2, 0]
        cabin = slice(int(np.argmax(middle < self.model.car.x(windscreen_foot(self.model.car)))), None)
        upper = slice(columns // 5, columns - columns // 5)
        look = self.look
        tint = np.float32(look.dark_glass if self.model.car.dark_glass else look.clear_glass)
        glazed = np.zeros(self.size, bool)
        # Light from the cabin, and the fraction of the light from behind. Only their values in the glass are used.
        view, clear = (np.zeros(self.size, np.float32) for _ in range(2))
        for part in parts:
            glazed.put(part.index, part.glass > 0)
        far = rasterize(
            body, self.to_image, self.size, stride=4, rows=cabin, columns=upper, back=True, wanted=glazed
        )
        view.put(np.flatnonzero(glazed), look.cabin[0])
        # Where no far surface is in sight, the light is that of the grid's first point.
        view[far.box] += look.cabin[1] * body.normals[0, 0, 2].clip(0, 1)
        for seen in far:
            clear.put(seen.index, self._appearance(seen)[2] * seen.coverage)
            view.put(seen.index, look.cabin[0] + look.cabin[1] * seen.normals[2].clip(0, 1))
        for seen in rasterize(seats, self.to_image, self.size, stride=2, wanted=glazed):
            clear.put(seen.index, clear.take(seen.index) * (1 - seen.coverage))
            under = view.take(seen.index)
            view.put(
                seen.index,
                under + seen.coverage * (look.seats[0] + look.seats[1] * seen.normals[2].clip(0, 1) - under),
            )
        for part in parts:
            if not (inside := np.flatnonzero(part.glass)).size:
                continue
            index, glass = part.index[inside], part.glass[:, inside]
            light, passed = view.take(index)[None] * (1 - clear.take(index)), clear.take(index) * tint
            colors = zip(look.glass, cv2.split(self._colors(index)), strict=True)
            through = cv2.merge(
                [glass * ((light + passed * plane) * (tint * color)) for color, plane in colors]
            )
            part.pixels[:, inside] = cv2.add(part.pixels[:, inside], through, dtype=cv2.CV_8U)

    def _light(
        self, seen: Fragments, flakes: Array | float, metal: Array | float = 0.0, coat: Array | float = 1.0
    ) -> tuple[Array, Array]:
        """Compute the light from the visible surface: matt base, metallic flakes, mirror-like metal and clear coat.

        Returns:
            The light that the color of the surface multiplies, and the light that it does not, `(1, n)` float32 linear.
        """
        (cos, sin), (c_x, c_y, n_z) = self.rotation[:2, 0].astype(np.float32), seen.normals
        n_x, n_y, height = cos * c_x - sin * c_y, sin * c_x + cos * c_y, seen.points[2]
        d_x, d_y, d_z = self._rays(seen)
        facing = np.clip(-(d_x * n_x + d_y * n_y + d_z * n_z), 0, 1)
        mirrored = [d + 2 * facing * n for d, n in ((d_x, n_x), (d_y, n_y), (d_z, n_z))]
        # A mirrored ray that hits the floor near the car hits its shadow.
        down = np.maximum(-mirrored[2], 0)
        kept = 1 - 0.85 * cv2.exp(height / (-0.55 * np.maximum(down, 0.02))) * (down > 0)
        shaded = 1 - np.clip(0.45 - 0.55 * n_z, 0, 0.9) * cv2.exp(height * np.float32(-1 / 0.30))
        kept = kept * fall_off(self.settings).take(seen.index)
        seen_there = look_up(self.light.mirrored, mirrored)
        sharp, glossy = (cv2.extractChannel(seen_there, channel) * kept for channel in (0, 1))
        base = look_up(self.light.diffuse, (n_x, n_y, n_z)) * shaded
        matt = base * (1 - 0.7 * flakes) * (1 - metal) + sharp * metal + glossy * (0.85 * flakes)
        rim = (1 - facing) ** 2
        return matt, sharp * ((0.05 + 0.8 * rim * rim * (1 - facing)) * coat * shaded)

    def _rays(self, seen: Fragments) -> tuple[Array, Array, Array]:
        """Return the viewing direction of each pixel as a unit vector in world coordinates."""
        ray = [along.take(seen.x) + down.take(seen.y) for along, down in self.rays]
        scale = 1 / np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
        return ray[0] * scale, ray[1] * scale, ray[2] * scale

    def _lay(self, index: Array, pixels: Array, coverage: Array) -> None:
        """Compose shaded pixels over the image."""
        edge = np.flatnonzero(coverage < 1)
        at, over = index[edge], coverage[:, edge]
        if edge.size:
            pixels[:, edge] = cv2.blendLinear(pixels[:, edge], self._colors(at), over, 1 - over)
        self.pixels.put(index, pixels.view("V3"))
        covered = 1 - (1 - self.coverage[at]) * (1 - over[0])
        self.coverage[index] = 1
        self.coverage[at] = covered

    def _colors(self, index: Array) -> Array:
        """Return pixels of the image, `(1, n, 3)` uint8."""
        return self.pixels.take(index).view(np.uint8).reshape(1, -1, 3)

    def _expose(self) -> Array:
        """Apply exposure, white balance and sensor noise."""
        return cv2.add(cv2.LUT(self.image, self._tones()), self._grain())

    def _tones(self) -> Array:
        """Return display values after exposure and white balance, less `NOISE_ZERO`, `(1, 256, 3)` uint8."""
        gain = self.day.uniform(0.90, 1.16) * self.random.uniform(0.985, 1.015)
        balance = gain * (1 + self.day.normal(0, 0.008, 3) + self.random.normal(0, 0.002, 3))
        return np.clip(np.arange(256)[:, None] * balance + 0.5 - NOISE_ZERO, 0, 255).astype(np.uint8)[None]

    def _grain(self) -> Array:
        """Return the noise of the sensor, `(H, W, 3)` uint8 around `NOISE_ZERO`."""
        noise, slack = _noise(self.size)
        top, left = self.random.integers(slack, size=2)
        return noise[top : top + self.size[0], left : left + self.size[1]]


NOISE_ZERO = 5


def _ahead(corners: Array, near: float = 0.25) -> Array:
    """Cut a polygon of homogeneous pixels `(N, 3)` at a plane `near` meters before the camera."""
    kept = []
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        if start[2] >= near:
            kept.append(start)
        if (start[2] >= near) != (end[2] >= near):
            kept.append(start + (end - start) * (near - start[2]) / (end[2] - start[2]))
    return np.array(kept)


@functools.lru_cache(maxsize=1)
def _noise(size: tuple[int, int]) -> tuple[Array, int]:
    """Return uint8 noise around `NOISE_ZERO`, larger than the image, and the number of extra rows and columns."""
    slack = 64
    random = np.random.default_rng(99)
    noise = random.normal(NOISE_ZERO + 0.5, 1.3, (size[0] + slack, size[1] + slack, 3))
    return np.clip(noise, 0, 2 * NOISE_ZERO).astype(np.uint8), slack


def _linear(stored: Array) -> tuple[Array, ...]:
    """Decode panel colors `(h, w, c)` uint8 into linear planes."""
    planes = [plane.astype(np.float32) / 255 for plane in cv2.split(stored)]
    return tuple(plane * plane for plane in planes)
