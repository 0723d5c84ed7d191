"""Plates, stickers, badges and lettering on a body."""

import numpy as np

from carvana_kedro.studio.bodies import Car
from carvana_kedro.studio.variety.draws import chance, color
from carvana_kedro.studio.variety.lettering import letters

from .sheet import Drawing, Sheet, box

_PLATES = ((225, 228, 226), (235, 190, 30), (20, 22, 26), (70, 150, 215), (250, 250, 250), (40, 40, 42))


def add_markings(sheet: Sheet, car: Car, rng: np.random.Generator) -> None:
    """Mount other plates on a body, and perhaps stickers and lettering."""
    tall = car.style.is_tall
    style = int(rng.integers(6))
    for drawing, level, share in (
        (sheet.front, (0.285 if tall else 0.315) * car.height, 0.85),
        (sheet.rear, (0.50 if tall else 0.56) * car.height, 0.9),
    ):
        if chance(rng, share):
            _mount_plate(drawing, level, style, rng)
    if chance(rng, 0.3):  # a paper on a side window, and one on the windscreen
        for drawing, middle, level in ((sheet.side, rng.normal(0, 0.3), 0.76), (sheet.front, 0.45, 0.75)):
            paper = box(middle, level * car.height, *rng.uniform(0.03, 0.13, 2))
            drawing.fill([paper], color(rng, 180, 250, 0.05), on_glass=True)
    if chance(rng, 0.35):  # the name of the model
        place = rng.uniform(-1, 1), rng.uniform(0.35, 0.5) * car.height
        _write(sheet.side, *place, rng.uniform(0.03, 0.08), rng)
    if chance(rng, 0.06):  # an advertisement
        _write(sheet.side, 0, rng.uniform(0.3, 0.45) * car.height, rng.uniform(0.15, 0.35), rng)
    if chance(rng, 0.25):
        _write(sheet.rear, 0, rng.uniform(0.36, 0.6) * car.height, rng.uniform(0.04, 0.09), rng)


def _mount_plate(drawing: Drawing, z: float, style: int, rng: np.random.Generator) -> None:
    """Mount a plate in the style of a region, a dealer's card, or nothing but the recess."""
    long = chance(rng, 0.3)
    size = (0.26, 0.056) if long else (0.155, 0.078)
    ground = _PLATES[style]
    drawing.fill([box(0, z, size[0] + 0.012, size[1] + 0.012)], color(rng, 10, 160, 0.02))
    drawing.fill([box(0, z, *size)], ground)
    ink = (15, 20, 60) if sum(ground) > 300 else (220, 220, 215)
    if style == 4:  # a card with a colored band
        drawing.fill([box(0, z + 0.6 * size[1], size[0], 0.4 * size[1])], color(rng, 60, 190, 0.6))
    _write(drawing, 0, z - 0.3 * size[1], size[1] * 0.75, rng, ink, 1.7 * size[0])


def _write(
    drawing: Drawing,
    x: float,
    z: float,
    size: float,
    rng: np.random.Generator,
    ink: tuple[float, ...] | None = None,
    widest: float = 1.6,
) -> None:
    """Write a word that reads from left to right, with capitals `size` meters high, at most `widest` meters wide."""
    word = [line for glyph in letters(rng) for line in glyph]
    wide = np.ptp(np.concatenate(word)[:, 0]) * size
    squeeze = min(1.0, widest / wide)
    ink = ink or color(rng, 5, 250, 0.4 if chance(rng, 0.4) else 0.03)
    drawing.fill([(x, z) + line * (drawing.reading * size * squeeze, size) for line in word], ink)
