from itertools import pairwise

import numpy as np
import pytest

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.scene import set_up_camera
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.lettering import _outlines, letters
from carvana_kedro.studio.variety.rooms.room import build_room, stand_wall
from carvana_kedro.studio.variety.rooms.stage import Stage, Wall
from carvana_kedro.studio.variety.rooms.walls import _rectangle

SETTINGS = StudioSettings(width=240, height=160)
CAMERA = set_up_camera(SETTINGS, 0)
SIZE = (160, 240)


def test_rooms_differ_and_tell_their_brightness() -> None:
    rooms = [build_room(CAMERA, SIZE, generator(SETTINGS, number)) for number in range(20)]
    means = [room.image.reshape(-1, 3).mean(0) for room in rooms]
    assert np.std(means, 0).min() > 20
    upper = [float((room.image[:30].mean() / 255) ** 2.2) for room in rooms]
    assert np.corrcoef(upper, [room.wall for room in rooms])[0, 1] > 0.8


def test_cars_have_space_before_and_beside_walls() -> None:
    """A corner of the longest car is up to 3.4 m from the center of the turntable."""
    for number in range(300):
        line = stand_wall(generator(SETTINGS, number)).line
        share = np.linspace(0, 1, 500)[:, None]
        steps = [start + share * (end - start) for start, end in pairwise(line)]
        assert np.hypot(*np.concatenate(steps).T).min() > 3.5


@pytest.mark.parametrize("opacity", [1.0, 0.5])
def test_a_square_on_the_floor_is_where_the_camera_sees_it(opacity: float) -> None:
    stage = Stage(CAMERA, SIZE)
    corners = np.array(((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)), float)
    stage.fill([corners], (200, 100, 50), opacity)
    row, column = np.round(CAMERA.project(np.zeros(3))[0][::-1]).astype(int)
    np.testing.assert_allclose(stage.image[row, column], np.array((200, 100, 50)) * opacity, atol=1)
    pixels = CAMERA.project(corners)[0]
    x, y = pixels.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    edge = np.hypot(*(pixels - np.roll(pixels, 1, 0)).T).sum()
    # OpenCV's smooth edges are half a pixel outside.
    assert area <= (stage.image[..., 0] > 100 * opacity).sum() <= area + edge


def test_holes_stay_open() -> None:
    stage = Stage(CAMERA, SIZE)
    outer = np.array(((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)), float)
    stage.fill([outer, outer * 0.6], (255, 255, 255))
    row, column = np.round(CAMERA.project(np.zeros(3))[0][::-1]).astype(int)
    assert stage.image[row, column].max() == 0
    assert stage.image.max() == 255


def test_what_is_behind_the_camera_is_cut() -> None:
    stage = Stage(CAMERA, SIZE)
    behind = np.array(((-1, -20, 0), (1, -20, 0), (1, -12, 0)), float)
    stage.fill([behind], (255, 255, 255))
    assert stage.image.max() == 0
    through = np.array(((-0.5, -40, 0), (0.5, -40, 0), (0.5, 0, 0), (-0.5, 0, 0)), float)
    stage.fill([through], (255, 255, 255))
    middle = round(CAMERA.project(np.array((0, -2.0, 0)))[0][0])
    assert stage.image[-1, middle].min() == 255
    assert stage.image[0].max() == 0


def test_a_wall_is_as_long_as_its_line() -> None:
    angle = np.linspace(-1, 1, 201)
    wall = Wall(np.c_[5 * np.sin(angle), 5 * np.cos(angle)])
    expected = (0, 5, 1), (5 * np.sin(1), 5 * np.cos(1), 1)
    np.testing.assert_allclose(wall.at(np.array((0.0, 5.0)), 1.0), expected, atol=1e-2)


def test_a_band_follows_the_wall_around_a_corner() -> None:
    wall = Wall(np.array(((-5.0, 0.0), (1.3, 6.0), (7.0, -2.0))))
    outline = _rectangle(wall, -12, 12, 0.0, 0.2)
    for corner in wall.line:
        for up in (0.0, 0.2):
            assert np.abs(outline - (*corner, up)).sum(-1).min() < 1e-9


@pytest.mark.parametrize("font", [-1, 0, 2, 3, 4, 5, 6, 7])
def test_fonts_have_letters_of_about_one_height(font: int) -> None:
    outlines, width = _outlines("H", font, 4)
    points = np.concatenate(outlines)
    assert 0.7 < np.ptp(points[:, 1]) < 1.6
    assert 0.3 < width < 1.6
    assert len(_outlines("O", font, 4)[0]) >= 2  # the hole is an outline too


def test_words_are_centered_and_read_from_left_to_right() -> None:
    for number in range(30):
        middles = [
            np.concatenate(glyph)[:, 0].mean() for glyph in letters(generator(SETTINGS, number)) if glyph
        ]
        assert middles == sorted(middles)
        assert abs(middles[0] + middles[-1]) < 2.5
