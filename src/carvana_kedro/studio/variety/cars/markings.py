"""Plates, stickers, badges and lettering on a body."""

import cv2
import numpy as np

from carvana_kedro.studio.bodies import Car, to_linear
from carvana_kedro.studio.canvas import CEILING, SCALE

from ..draws import chance, color
from ..lettering import letters

Array = np.ndarray
_FRONT = 2.3  # meters that the drawings of front and rear are wide


class _Sheet:
    """The drawings of a body: side, front and rear next to each other. Coordinates are meters from the left edge."""

    def __init__(self, panels: tuple[Array, Array]) -> None:
        self.color, self.rest = (panel.copy() for panel in panels)

    def fill(self, outlines: list[Array], ink: tuple[float, ...], glass: bool = False) -> None:
        """Fill outlines, `(n, 2)` with z up, with a display color. With `glass`, only glass is covered."""
        pixels = [((0, CEILING) + line * (1, -1)) * SCALE for line in outlines]
        corners = np.concatenate(pixels)
        low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
        high = np.ceil(corners.max(0)).astype(int) + 1
        part = slice(low[1], high[1]), slice(low[0], high[0])
        covered = np.zeros(self.color[part].shape[:2], np.uint8)
        if not covered.size:
            return
        cv2.fillPoly(covered, [np.round((line - low) * 16).astype(np.int32) for line in pixels], 255, shift=4)
        hit = covered > 0
        if glass:
            hit &= self.rest[part][..., 0] > 0
        self.color[part][hit] = (*(np.sqrt(to_linear(ink)) * 255).astype(np.uint8), 255)
        self.rest[part][hit] = 0


def mark(panels: tuple[Array, Array], car: Car, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the drawings of a body with other plates, and perhaps with stickers and lettering."""
    sheet, side = _Sheet(panels), car.length + 0.2
    tall = car.style.name in ("suv", "pickup", "minivan")
    style = int(rng.integers(6))
    for middle, level, share in (
        (side + _FRONT / 2, (0.285 if tall else 0.315) * car.height, 0.85),
        (side + 1.5 * _FRONT, (0.50 if tall else 0.56) * car.height, 0.9),
    ):
        if chance(rng, share):
            _mount_plate(sheet, middle, level, style, rng)
    if chance(rng, 0.3):  # a paper on a side window, and one on the windscreen
        for middle, level in (
            (side / 2 + rng.normal(0, 0.3), 0.76 * car.height),
            (side + 1.6, 0.75 * car.height),
        ):
            sheet.fill(
                [_box(middle, level, *rng.uniform(0.03, 0.13, 2))], color(rng, 180, 250, 0.05), glass=True
            )
    if chance(rng, 0.35):  # the name of the model
        _write(
            sheet,
            side / 2 + rng.uniform(-1, 1),
            rng.uniform(0.35, 0.5) * car.height,
            rng.uniform(0.03, 0.08),
            rng,
        )
    if chance(rng, 0.06):  # an advertisement
        _write(sheet, side / 2, rng.uniform(0.3, 0.45) * car.height, rng.uniform(0.15, 0.35), rng)
    if chance(rng, 0.25):
        _write(sheet, side + 1.5 * _FRONT, rng.uniform(0.36, 0.6) * car.height, rng.uniform(0.04, 0.09), rng)
    return sheet.color, sheet.rest


def _box(x: float, z: float, half_width: float, half_height: float) -> Array:
    signs = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)))
    return np.array((x, z)) + signs * (half_width, half_height)


def _mount_plate(sheet: _Sheet, x: float, z: float, style: int, rng: np.random.Generator) -> None:
    """Mount a plate in the style of a region, a dealer's card, or nothing but the recess."""
    long = chance(rng, 0.3)
    size = (0.26, 0.056) if long else (0.155, 0.078)
    ground = ((225, 228, 226), (235, 190, 30), (20, 22, 26), (70, 150, 215), (250, 250, 250), (40, 40, 42))[
        style
    ]
    sheet.fill([_box(x, z, size[0] + 0.012, size[1] + 0.012)], color(rng, 10, 160, 0.02))
    sheet.fill([_box(x, z, *size)], ground)
    ink = (15, 20, 60) if sum(ground) > 300 else (220, 220, 215)
    if style == 4:  # a card with a colored band
        sheet.fill([_box(x, z + 0.6 * size[1], size[0], 0.4 * size[1])], color(rng, 60, 190, 0.6))
    _write(sheet, x, z - 0.3 * size[1], size[1] * 0.75, rng, ink, 1.7 * size[0])


def _write(
    sheet: _Sheet,
    x: float,
    z: float,
    size: float,
    rng: np.random.Generator,
    ink: tuple[float, ...] | None = None,
    widest: float = 1.6,
) -> None:
    """Write a word whose capitals are `size` meters high, at most `widest` meters wide."""
    word = [line for glyph in letters(rng) for line in glyph]
    wide = np.ptp(np.concatenate(word)[:, 0]) * size
    squeeze = min(1.0, widest / wide)
    ink = ink or color(rng, 5, 250, 0.4 if chance(rng, 0.4) else 0.03)
    sheet.fill([(x, z) + line * (size * squeeze, size) for line in word], ink)
