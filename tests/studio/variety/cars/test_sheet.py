import cv2
import numpy as np

from carvana_kedro.studio import StudioSettings
from carvana_kedro.studio.canvas import CEILING, SCALE
from carvana_kedro.studio.panels import draw_panels
from carvana_kedro.studio.settings import generator
from carvana_kedro.studio.variety.cars.bodies import shape_car
from carvana_kedro.studio.variety.cars.faces import _draw_headlamps, _draw_tail_lamps, redraw_face
from carvana_kedro.studio.variety.cars.markings import _write, add_markings
from carvana_kedro.studio.variety.cars.sheet import Sheet, box

SETTINGS = StudioSettings()


def test_faces_and_markings_keep_the_openings_of_the_wheels() -> None:
    """Openings decide the mask: drawing on a body must not change them."""
    for number in range(6):
        car = shape_car(SETTINGS, number)
        panels = draw_panels(car, generator(SETTINGS, number))
        sheet = Sheet(panels, car)
        redraw_face(sheet, car, generator(SETTINGS, number, 1))
        add_markings(sheet, car, generator(SETTINGS, number, 2))
        np.testing.assert_array_equal(sheet.rest[..., 1], panels[1][..., 1])
        assert (sheet.color != panels[0]).any()


def test_left_and_right_lamps_are_alike() -> None:
    car = shape_car(SETTINGS, 1)
    blank = np.zeros((525, round(250 * (car.length + 0.2)) + 2 * 575, 4), np.uint8)
    for number in range(30):
        sheet = Sheet((blank, blank), car)
        _draw_headlamps(sheet, car, 0.8, generator(SETTINGS, number))
        _draw_tail_lamps(sheet, car, False, generator(SETTINGS, number))
        for drawing in (sheet.front, sheet.rear):
            # The middle is half a texel beside the middle of the columns.
            inked = cv2.erode(drawing.color[..., 3], np.ones((3, 3), np.uint8)) > 0
            mirrored = cv2.dilate(drawing.color[:, ::-1, 3].copy(), np.ones((3, 3), np.uint8)) > 0
            assert not (inked & ~mirrored).any()


def test_paint_is_laid_around_glass_and_paper_on_it() -> None:
    car = shape_car(SETTINGS, 1)
    panels = draw_panels(car, generator(SETTINGS, 1))
    glass = panels[1][..., 0] > 0
    all_over = [box(0.0, 1.0, 3.0, 1.0)]
    around, on = Sheet(panels, car), Sheet(panels, car)
    around.side.fill(all_over, (255, 0, 0))
    on.side.fill(all_over, (255, 0, 0), on_glass=True)
    assert (around.color[glass] == panels[0][glass]).all()
    assert (on.color[~glass] == panels[0][~glass]).all()
    assert (on.rest[..., 0] > 0).sum() < glass.sum()


def test_lettering_on_the_rear_is_mirrored_in_its_drawing() -> None:
    car = shape_car(SETTINGS, 1)
    blank = np.zeros((525, round(250 * (car.length + 0.2)) + 2 * 575, 4), np.uint8)
    sheet = Sheet((blank, blank), car)
    for drawing in (sheet.front, sheet.rear):
        _write(drawing, 0.0, 1.0, 0.2, generator(SETTINGS, 3), (255, 255, 255))
    front, rear = (drawing.color[..., 3] > 0 for drawing in (sheet.front, sheet.rear))
    assert (front != rear).sum() > 0.3 * front.sum()
    # The edges are up to a texel apart.
    assert (front != rear[:, ::-1]).sum() < 0.2 * front.sum()


def test_what_is_drawn_on_one_side_ends_at_its_border() -> None:
    car = shape_car(SETTINGS, 1)
    blank = np.zeros((525, round(250 * (car.length + 0.2)) + 2 * 575, 4), np.uint8)
    for name, start, end in (("side", 0, -1150), ("front", -1150, -575), ("rear", -575, None)):
        sheet = Sheet((blank, blank), car)
        drawing = getattr(sheet, name)
        for place in (-9.0, 0.0, 9.0):
            drawing.fill([box(place, 1.0, 4.0, 0.5)], (255, 0, 0))
        changed = sheet.color[..., 3].any(0)
        assert changed[start:end].all()
        changed[start:end] = False
        assert not changed.any()


def test_the_rear_door_of_a_crew_cab_ends_upright() -> None:
    for number in range(40):
        car = shape_car(SETTINGS, number)
        if car.style.name != "pickup" or len(car.style.pillars) < 2:
            continue
        end = max(car.x(car.style.pillars[1]), car.axles[1] + 0.55 * car.wheel_radius)
        column = round((end + car.length / 2 + 0.1) * SCALE)
        rows = slice(*(round((CEILING - z) * SCALE) for z in (float(car.belt(end)), car.clearance + 0.3)))
        color, _ = draw_panels(car, generator(SETTINGS, number))
        near = color[rows, column - 2 : column + 3, 3].max(1)
        assert (near > 128).mean() > 0.95
