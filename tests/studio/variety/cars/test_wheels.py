"""Open wheels show what is behind them."""

from dataclasses import replace

import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.render import set_up_shot
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety import VariedShot
from carvana_kedro.studio.variety.cars.bodies import shape_car
from carvana_kedro.studio.variety.cars.wheels import (
    INSIDE_STRIDE,
    Wheel,
    design_wheel,
    draw_gaps,
    mount_insides,
    on_brake,
)

SETTINGS = StudioSettings(width=768, height=512, training_cars=30, variety="shape")
SIDE, OBLIQUE = 5, 3  # views, of 16
SPOKES = Wheel(0.7, 1.0, 0.0, "spokes", 5, 0.8, 0.0, brake=0.3)


def shot_of(car: int, view: int = SIDE, *, gaps: bool = True) -> VariedShot:
    shot = set_up_shot(SETTINGS, car, view)
    assert isinstance(shot, VariedShot)
    if not gaps:
        shot.varied = replace(shot.varied, gaps=None)
    return shot


def open_cars() -> list[int]:
    return [car for car in range(8) if shot_of(car).varied.gaps][:3]


def on_wheels(shot: VariedShot) -> np.ndarray:
    """Return the pixels inside the rims that face the camera, `(H, W)` bool."""
    car, (y, x) = shot.model.car, np.indices(shot.size)
    side = np.sign(shot.eye[1]) * car.width / 2
    on_side = np.linalg.inv(shot.to_image[:, [0, 2, 3]] + np.outer(shot.to_image[:, 1], (0, 0, side)))
    place = np.stack((x, y, np.ones_like(x)), -1) @ on_side.T
    along, up = place[..., 0] / place[..., 2], place[..., 1] / place[..., 2]
    return (
        np.min([np.hypot(along - axle, up - car.wheel_radius) for axle in car.axles], 0)
        < 0.86 * car.wheel_radius
    )


def test_the_floor_between_the_spokes_is_seen_and_not_in_the_mask() -> None:
    for car in open_cars():
        shot, solid, bare = shot_of(car), shot_of(car, gaps=False), shot_of(car)
        bare._add_wheels = lambda *_: None  # type: ignore[method-assign]
        (_, open_cover), (_, solid_cover), (_, bare_cover) = shot.render(), solid.render(), bare.render()
        holes = (open_cover == 0) & (solid_cover == 1)
        assert holes.sum() > 40
        assert on_wheels(shot)[holes].all()
        assert (bare_cover[holes] == 0).all()
        # The floor there is the one that is seen without wheels.
        np.testing.assert_array_equal(shot.image[holes], bare.image[holes])
        assert (open_cover <= solid_cover).all()


def test_less_floor_is_seen_obliquely_through_a_wheel() -> None:
    for car in open_cars():
        shares = []
        for view in (SIDE, OBLIQUE):
            shot, solid = shot_of(car, view), shot_of(car, view, gaps=False)
            difference = solid.render()[1] - shot.render()[1]
            shares.append(difference.sum() / on_wheels(shot).sum())
        assert shares[1] < 0.7 * shares[0]


def test_the_floor_before_and_behind_a_tire_is_not_in_the_mask_below_the_well() -> None:
    """A point in the opening of the body, beside the tire and just above the sill, is free. One above the tire is not."""
    for car in range(6):
        shot = shot_of(car)
        body, side = shot.model.car, np.sign(shot.eye[1])
        _, coverage = shot.render()
        seen = []
        radius = 1.07 * body.wheel_radius
        for up in (body.clearance + 0.035, body.wheel_radius + 0.9 * radius):
            along = np.sqrt(radius**2 - (up - body.wheel_radius) ** 2)
            for axle, way in ((body.axles[0], -1), (body.axles[1], 1)):
                point = (axle + way * along, side * (body.width / 2 - 0.01), up, 1)
                x, y, w = shot.to_image @ point
                seen.append(coverage[round(y / w), round(x / w)])
        assert min(seen[:2]) < 0.5
        assert min(seen[2:]) == 1


def test_most_rims_are_open_and_steel_rims_and_covers_are_closed() -> None:
    car = shape_car(SETTINGS, 0)
    designs = [design_wheel(car, generator(SETTINGS, number)) for number in range(200)]
    assert 0.6 < np.mean([design.brake is not None for design in designs]) < 0.95
    assert all(design.brake is None for design in designs if design.pattern in ("holes", "disc"))
    assert all(design.brake < design.rim for design in designs if design.brake)


@pytest.mark.parametrize("pattern", ["spokes", "twin", "mesh"])
@pytest.mark.parametrize("width", [0.0, 1.1])
def test_a_rim_has_gaps_and_spokes_and_the_tire_has_none(pattern: str, width: float) -> None:
    solid = draw_gaps(replace(SPOKES, pattern=pattern, width=width)) / 255
    middle = solid[16 * 2 + 8 : 16 * 3]  # between hub and ring
    assert 0.05 < middle.mean() < 0.9
    assert middle.min() == 0
    assert (middle.max(1) == 1).all()
    assert (solid[16 * 5 :] == 1).all() and (solid[:8] == 1).all()


def test_the_inside_faces_the_axis_and_the_brake_faces_outward() -> None:
    car = shape_car(SETTINGS, 0)
    for side in (1, -1):
        inside = mount_insides(car, SPOKES, side)
        assert inside is not None
        brake, barrel = inside.points[INSIDE_STRIDE], inside.points[3 * INSIDE_STRIDE]
        assert on_brake(np.array(INSIDE_STRIDE)) and not on_brake(np.array(2 * INSIDE_STRIDE))
        away = barrel - (car.axles[0], 0, car.wheel_radius)
        away[:, 1] = 0
        assert ((away * inside.normals[3 * INSIDE_STRIDE]).sum(-1) < -0.1).all()
        assert (side * inside.normals[INSIDE_STRIDE, :, 1] > 0.9).all()
        assert np.ptp(brake[:, 0]) < np.ptp(barrel[:, 0])
