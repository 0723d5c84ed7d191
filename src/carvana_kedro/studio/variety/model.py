"""The parts of a varied car that all its views share."""

import functools
from dataclasses import dataclass, replace

import numpy as np

from carvana_kedro.studio.bodies import design_car
from carvana_kedro.studio.lighting import floor_shadow
from carvana_kedro.studio.model import Model
from carvana_kedro.studio.panels import draw_panels, draw_wheel
from carvana_kedro.studio.scene import set_up_camera
from carvana_kedro.studio.settings import StudioSettings, generator
from carvana_kedro.studio.surfaces import Surface, mirror, seats, wheels, wrap_body

from .cars.bodies import ShapedCar, shape_car
from .cars.faces import redraw_face
from .cars.markings import mark
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
    model = Model(
        car=car,
        camera=set_up_camera(settings, number),
        body=wrap_body(car),
        wheels=(wheels(car, 1), wheels(car, -1)),
        mirrors=(mirror(car, 1), mirror(car, -1)),
        seats=seats(car),
        panels=draw_panels(car, generator(settings, number, 0, 3)),
        tires=draw_wheel(car),
        shadow=floor_shadow(car),
    )
    if isinstance(car, ShapedCar):
        return _equip(car, model, finish, settings, number)
    return VariedModel(model, (), finish)


def _equip(
    car: ShapedCar, plain: Model, finish: Finish | None, settings: StudioSettings, number: int
) -> VariedModel:
    """Give a car its own wheels, mirrors, face and markings, and what is attached to it."""
    rng = stream(settings, "shape", number, 1)
    wheel, sheet = design_wheel(car, rng), Sheet(plain.panels, car)
    redraw_face(sheet, car, rng)
    mark(sheet, car, rng)
    # Both mirrors are alike: the same numbers are drawn for each.
    left, right = (vary_mirror(car, side, stream(settings, "shape", number, 2)) for side in (1, -1))
    model = replace(
        plain,
        wheels=(mount_wheels(car, wheel, 1), mount_wheels(car, wheel, -1)),
        mirrors=(left, right),
        panels=(sheet.color, sheet.rest),
        tires=draw_tire(wheel, *(finish.wheels if finish else _SILVER)),
    )
    parts = attach_parts(car, stream(settings, "shape", number, 3))
    left_inside, right_inside = (mount_insides(car, wheel, side) for side in (1, -1))
    gaps = OpenWheels((left_inside, right_inside), draw_gaps(wheel)) if left_inside and right_inside else None
    return VariedModel(model, parts, finish, gaps)
