"""The parts of a varied car that all its views share."""

import functools
from dataclasses import dataclass, replace

from carvana_kedro.studio.bodies import design_car
from carvana_kedro.studio.lighting import floor_shadow
from carvana_kedro.studio.model import Model
from carvana_kedro.studio.panels import draw_panels, draw_wheel
from carvana_kedro.studio.scene import set_up_camera
from carvana_kedro.studio.settings import StudioSettings, generator
from carvana_kedro.studio.surfaces import mirror, seats, wheels, wrap_body

from .cars.bodies import shape_car
from .cars.faces import redraw_face
from .cars.markings import mark
from .cars.parts import Part, attach_parts, vary_mirror
from .cars.sheet import Sheet
from .cars.wheels import design_wheel, draw_tire, mount_wheels
from .draws import stream
from .paint import Finish, mix_paint


@dataclass(frozen=True)
class VariedModel:
    """A car ready to render, what is attached to it, and its colors. None: those of the sample."""

    model: Model
    parts: tuple[Part, ...]
    finish: Finish | None


@functools.lru_cache(maxsize=2)
def build_varied_model(settings: StudioSettings, number: int) -> VariedModel:
    """Build car `number` with the kinds of variety that the settings switch on. The last two cars are cached."""
    shaped, rng = "shape" in settings.kinds, stream(settings, "shape", number, 1)
    car = shape_car(settings, number) if shaped else design_car(settings, number)
    finish = mix_paint(stream(settings, "paint", number)) if "paint" in settings.kinds else None
    if finish:
        car = replace(car, paint=finish.paint, metallic=finish.metallic)
    panels, tires = draw_panels(car, generator(settings, number, 0, 3)), draw_wheel(car)
    mounted, mirrors = (wheels(car, 1), wheels(car, -1)), (mirror(car, 1), mirror(car, -1))
    parts: tuple[Part, ...] = ()
    if shaped:
        design = design_wheel(car, rng)
        mounted = mount_wheels(car, design, 1), mount_wheels(car, design, -1)
        # Both mirrors are alike: the same numbers are drawn for each.
        left, right = (vary_mirror(car, side, stream(settings, "shape", number, 2)) for side in (1, -1))
        mirrors, sheet = (left, right), Sheet(panels, car)
        redraw_face(sheet, car, stream(settings, "shape", number, 3))
        mark(sheet, car, rng)
        panels, parts = (sheet.color, sheet.rest), attach_parts(car, rng)
        rim = finish.wheels if finish else ((0.42, 0.42, 0.42), 0.75)
        tires = draw_tire(design, *rim)
    model = Model(
        car=car,
        camera=set_up_camera(settings, number),
        body=wrap_body(car),
        wheels=mounted,
        mirrors=mirrors,
        seats=seats(car),
        panels=panels,
        tires=tires,
        shadow=floor_shadow(car),
    )
    return VariedModel(model, parts, finish)
