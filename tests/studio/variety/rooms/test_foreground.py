from dataclasses import replace

import numpy as np

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.scene import set_up_camera
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.camera import vary_camera
from carvana_kedro.studio.variety.rooms.foreground import draw_foreground
from carvana_kedro.studio.variety.rooms.stage import Stage

SETTINGS = StudioSettings(width=240, height=160)
SIZE = (160, 240)
PAINT = np.array((200.0, 198.0, 190.0))


def foreground(number: int) -> np.ndarray:
    stage = Stage(vary_camera(SETTINGS, generator(SETTINGS, number, 1)), SIZE)
    stage.image[:] = PAINT
    draw_foreground(stage, PAINT, generator(SETTINGS, number))
    return np.abs(stage.image.astype(int) - PAINT.astype(int)).max(-1) > 12


def test_most_rooms_have_something_at_the_bottom_and_the_wall_is_left_alone() -> None:
    changed = [foreground(number) for number in range(60)]
    bottom = np.array([image[-24:].mean() for image in changed])
    assert 0.3 < (bottom > 0.1).mean() < 0.9
    assert np.mean([image[:50].mean() for image in changed]) < 0.01


def test_edges_lie_at_many_heights_and_are_not_all_straight() -> None:
    rows = []
    for number in range(60):
        changed = foreground(number)
        if changed[-1].mean() > 0.95:
            rows.append([np.flatnonzero(changed[:, column])[0] for column in (40, 120, 200)])
    left, middle, right = np.array(rows).T
    assert len(rows) > 10
    assert np.ptp(middle) > 20
    assert (np.abs(middle - (left + right) / 2) > 3).sum() > 3


def test_the_ground_at_a_place_of_the_image_is_seen_there() -> None:
    stage = Stage(set_up_camera(SETTINGS, 0), SIZE)
    for place in ((0.5, 0.9), (0.1, 0.75), (1.0, 1.0)):
        point = stage.ground(np.array(place))
        assert abs(point[2]) < 1e-9
        np.testing.assert_allclose(stage.camera.project(point)[0], np.array(place) * (240, 160), atol=1e-6)


def test_a_camera_that_looks_up_still_gets_a_foreground() -> None:
    camera = set_up_camera(SETTINGS, 0)
    flipped = replace(camera, to_ray=camera.to_ray * np.array((1, 1, -1))[:, None])
    assert np.isfinite(Stage(flipped, SIZE).ground(np.array((0.5, 1.0)))).all()
