"""One photograph with variety."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np

from carvana_kedro.studio.lighting import display
from carvana_kedro.studio.rasterize import Fragments, rasterize
from carvana_kedro.studio.scene import render_studio
from carvana_kedro.studio.settings import StudioSettings
from carvana_kedro.studio.shot import NOISE_ZERO, Body, Look, Shot
from carvana_kedro.studio.surfaces import Surface

from .camera import distort, vary_camera
from .cars.parts import STRIDE, Part
from .cars.wheels import INSIDE_STRIDE, on_brake
from .draws import chance, stream
from .light import vary_light
from .model import VariedModel
from .paint import second_tone
from .rooms.room import build_room
from .sensor import develop

Array = np.ndarray
_WELL = 0.30  # meters from the side of the body to the inner wall of a wheel well
_UNDER = 0.06  # meters from the sill up to the lower edge of this wall
_BRAKE, _BARREL = 0.07, 0.02  # linear gray


class VariedShot(Shot):
    """A shot with the kinds of variety that the settings switch on. The others are those of the sample."""

    def __init__(self, settings: StudioSettings, varied: VariedModel, car: int, view: int) -> None:
        """Draw camera, room and light of this view."""
        kinds, model, turn = settings.kinds, varied.model, 0.0
        self.lens = stream(settings, "camera", car, view) if "camera" in kinds else None
        if self.lens is not None:
            model = dataclasses.replace(model, camera=vary_camera(settings, self.lens))
            turn = self.lens.uniform(-180, 180) / settings.views
        super().__init__(settings, model, car, view, turn=turn)
        self.varied = varied
        self.room = self.lighting = None
        if "walls" in kinds:
            self.room = build_room(model.camera, self.size, stream(settings, "walls", car, view))
        if "light" in kinds:
            levels = (self.room.wall, self.room.floor) if self.room else (0.5, 0.26)
            self.lighting = vary_light(stream(settings, "light", car, view), *levels)
            self.light = self.lighting.light
        self.look = self._choose_look()
        if varied.parts:
            self.depth = np.full(self.coverage.size, np.inf, np.float32)

    def _choose_look(self) -> Look:
        look, finish = Look(), self.varied.finish
        if finish:
            cabin, seats = finish.cabin
            look = dataclasses.replace(
                look,
                dark_glass=finish.dark_glass,
                clear_glass=finish.clear_glass,
                glass=finish.glass,
                cabin=cabin,
                seats=seats,
                coat=finish.coat,
            )
        if self.lighting:
            look = dataclasses.replace(look, sheen=self.lighting.sheen, fading=self.lighting.fading)
        return look

    def _empty_room(self) -> Array:
        if self.room:
            return self.room.image.copy()
        return render_studio(self.settings, self.model.camera) if self.lens else super()._empty_room()

    def _reflect_in_floor(self) -> None:
        if self.look.sheen:
            super()._reflect_in_floor()

    def _shadow(self) -> Array:
        if self.lighting is None:
            return self.model.shadow
        return self.lighting.shadow.below(self.model.car)

    def _compose(self) -> None:
        super()._compose()
        for part in self.varied.parts:
            self._add_part(part)

    def _add_part(self, part: Part) -> None:
        """Add a part of the car where nothing nearer is."""
        for seen in rasterize(part.surface, self.to_image, self.size, stride=STRIDE):
            ahead = np.flatnonzero(self._distance(seen) < self.depth.take(seen.index) + 0.02)
            coat = self.look.coat if part.painted else 1.0
            matt, gloss = self._light(seen, part.metallic, part.metal, coat)
            pixels = display(matt, gloss, part.color)[:, ahead]
            self._lay(seen.index[ahead], np.ascontiguousarray(pixels), seen.coverage[:, ahead])

    def _shade_body(self, seen: Fragments) -> Body:
        body = super()._shade_body(seen)
        at = np.flatnonzero(body.well)
        if at.size and "shape" in self.settings.kinds:
            body.well[:, at[self._passes_under(seen.take(at))]] = 0
        return body

    def _passes_under(self, seen: Fragments) -> Array:
        """Return where the view through an opening of the body leads under the car, `(n,)` bool."""
        car, (x, y, z) = self.model.car, seen.points
        farther = _WELL / np.maximum(np.abs(self.eye[1] - y), 1e-3)
        inner_x, inner_z = x + farther * (x - self.eye[0]), z + farther * (z - self.eye[2])
        off_axle = np.minimum(*(np.abs(inner_x - axle) for axle in car.axles))
        return ((inner_z < car.clearance + _UNDER) & (off_axle < 1.1 * car.wheel_radius))[0]

    def _add_wheels(self, surface: Surface, visible: Array) -> None:
        gaps = self.varied.gaps
        side = 0 if surface is self.model.wheels[0] else 1
        if gaps and (self.eye[1] > 0) == (side == 0):
            for seen in rasterize(
                gaps.insides[side], self.to_image, self.size, stride=INSIDE_STRIDE, wanted=visible
            ):
                gray = np.where(on_brake(seen.row), np.float32(_BRAKE), np.float32(_BARREL))
                matt, gloss = self._light(seen, 0.0, 0.1, coat=0.0)
                self._lay(seen.index, display(matt, gloss, (gray, gray, gray)), seen.coverage)
        super()._add_wheels(surface, visible)

    def _see_wheels(self, surface: Surface, visible: Array) -> Iterable[Fragments]:
        """Yield the fragments of wheels without the gaps between their spokes."""
        for seen in super()._see_wheels(surface, visible):
            if self.varied.gaps is None:
                yield seen
                continue
            place = seen.column * 16, np.mod(seen.row, 17) * 16
            solid = cv2.remap(self.varied.gaps.solid, *place, cv2.INTER_LINEAR).astype(np.float32) / 255
            kept = seen.take(np.flatnonzero(solid))
            yield dataclasses.replace(kept, coverage=kept.coverage * solid[:, solid[0] > 0])

    def _appearance(self, seen: Fragments) -> tuple[tuple[Array, ...], Array, Array, Array, Array]:
        albedo, cover, glass, hole, metal = super()._appearance(seen)
        finish = self.varied.finish
        if finish and (second := second_tone(finish, self.model.car, seen.points, seen.normals)) is not None:
            share = second * (1 - cover)
            albedo = tuple(
                own + share * (other - first)
                for own, other, first in zip(albedo, finish.second, finish.paint, strict=True)
            )
        return albedo, cover, glass, hole, metal

    def _light(
        self, seen: Fragments, flakes: Array | float, metal: Array | float = 0.0, coat: Array | float = 1.0
    ) -> tuple[Array, Array]:
        if self.varied.parts:
            # What is behind a pixel that is covered in part is seen in it.
            whole = np.flatnonzero(seen.coverage == 1)
            index = seen.index[whole]
            self.depth[index] = np.minimum(self.depth[index], self._distance(seen)[whole])
        return super()._light(seen, flakes, metal, coat)

    def _tones(self) -> Array:
        if self.lighting is None:
            return super()._tones()
        return np.maximum(self.lighting.tones, NOISE_ZERO)[None] - np.uint8(NOISE_ZERO)

    def _grain(self) -> Array:
        return super()._grain() if self.lens is None else np.full_like(self.image, NOISE_ZERO)

    def render(self) -> tuple[Array, Array]:
        """Return the image and the coverage, as `Shot.render` does. The lens bends both in the same way."""
        image, coverage = super().render()
        if self.lens is not None:
            if chance(self.lens, 0.6):
                image, coverage = distort(float(self.lens.normal(0, 0.025)), [image, coverage])
            image = develop(image, self.lens)
        return image, coverage

    def _distance(self, seen: Fragments) -> Array:
        """Return the distance of the fragments from the camera, `(n,)` float32 meters."""
        x, y, z = (axis - np.float32(place) for axis, place in zip(seen.points, self.eye, strict=True))
        return np.sqrt(x * x + y * y + z * z)[0]
