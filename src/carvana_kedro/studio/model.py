"""The parts of a car that all its views share."""

import functools
from dataclasses import dataclass

import numpy as np

from .bodies import Car, design_car
from .lighting import floor_shadow
from .panels import draw_panels, draw_wheel
from .scene import Camera, set_up_camera
from .settings import StudioSettings, generator
from .surfaces import Surface, mirror, seats, wheels, wrap_body

Array = np.ndarray


@dataclass(frozen=True)
class Model:
    """A car ready to render. Pairs are left and right, surfaces are in car coordinates."""

    car: Car
    camera: Camera
    body: Surface
    wheels: tuple[Surface, Surface]
    mirrors: tuple[Surface, Surface]
    seats: Surface
    panels: tuple[Array, Array]
    tires: tuple[Array, Array]
    shadow: Array


@functools.lru_cache(maxsize=2)
def build_model(settings: StudioSettings, number: int) -> Model:
    """Build car `number`. The last two cars are cached."""
    return assemble(settings, number, design_car(settings, number))


def assemble(settings: StudioSettings, number: int, car: Car) -> Model:
    """Build the parts of a car that has this number, and the look of this number's panels and camera."""
    return Model(
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
