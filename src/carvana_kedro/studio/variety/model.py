"""The parts of a varied car that all its views share."""

import functools
from dataclasses import dataclass, replace

import numpy as np

from carvana_kedro.studio.bodies import Car, design_car
from carvana_kedro.studio.model import Model, assemble
from carvana_kedro.studio.settings import StudioSettings
from carvana_kedro.studio.surfaces import Surface

from .cars.bodies import shape_car
from .cars.faces import redraw_face
from .cars.markings import add_markings
from .cars.parts import Part, attach_parts, vary_mirror
from .cars.sheet import Sheet
from .cars.wheels import design_wheel, draw_gaps, draw_tire, mount_insides, mount_wheels
from .draws import stream
from .paint import Finish, mix_paint

Array = np.ndarray
_SILVER = (0.42, 0.42, 0.42), 0.75  # color and metal of the rims of the sample


@dataclass(frozen=True)
class OpenWheels:
    """Wheels that can be seen through.

    Attributes:
        insides: What is behind the spokes on the left and right.
        solid: `(h, w)` uint8, the texture of the wheels that is 0 between the spokes.
    """

    insides: tuple[Surface, Surface]
    solid: Array


@dataclass(frozen=True)
class VariedModel:
    """A car ready to render, what is attached to it, its colors, and its open wheels. None: those of the sample."""

    model: Model
    parts: tuple[Part, ...]
    finish: Finish | None
    gaps: OpenWheels | None = None


@functools.lru_cache(maxsize=2)
def build_varied_model(settings: StudioSettings, number: int) -> VariedModel:
    """Build car `number` with the kinds of variety that the settings switch on. The last two cars are cached."""
    car = shape_car(settings, number) if "shape" in settings.kinds else design_car(settings, number)
    finish = mix_paint(stream(settings, "paint", number)) if "paint" in settings.kinds else None
    if finish:
        car = replace(car, paint=finish.paint, metallic=finish.metallic)
    model = assemble(settings, number, car)
    if "shape" in settings.kinds:
        return _equip(car, model, finish, settings, number)
    return VariedModel(model, (), finish)


def _equip(
    car: Car, plain: Model, finish: Finish | None, settings: StudioSettings, number: int
) -> VariedModel:
    """Give a car its own wheels, mirrors, face and markings, and what is attached to it."""
    rng = stream(settings, "shape", number, 1)
    wheel, sheet = design_wheel(car, rng), Sheet(plain.panels, car)
    redraw_face(sheet, car, rng)
    add_markings(sheet, car, rng)
    # Both mirrors are alike: the same numbers are drawn for each.
    left, right = (vary_mirror(car, side, stream(settings, "shape", number, 2)) for side in (1, -1))
    model = replace(
        plain,
        body=_closed(plain.body),
        wheels=(mount_wheels(car, wheel, 1), mount_wheels(car, wheel, -1)),
        mirrors=(left, right),
        panels=(sheet.color, sheet.rest),
        tires=draw_tire(wheel, *(finish.wheels if finish else _SILVER)),
    )
    parts = attach_parts(car, stream(settings, "shape", number, 3))
    left_inside, right_inside = (mount_insides(car, wheel, side) for side in (1, -1))
    gaps = OpenWheels((left_inside, right_inside), draw_gaps(wheel)) if left_inside and right_inside else None
    return VariedModel(model, parts, finish, gaps)


def _closed(body: Surface) -> Surface:
    """Repeat the last row, at the tail, if the number of rows is even.

    A body is drawn with faces of two grid steps. They would end a row before, and leave a hole there.
    """
    if len(body.points) % 2:
        return body
    points, normals = (np.concatenate((grid, grid[-1:])) for grid in (body.points, body.normals))
    return Surface(points, normals)
