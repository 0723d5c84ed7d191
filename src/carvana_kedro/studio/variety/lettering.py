"""Lettering in many fonts, weights and widths, as outlines."""

import string

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .draws import chance

Array = np.ndarray
_EM = 128  # height of a capital while it is drawn, pixels
_PAD = 48


def letters(rng: np.random.Generator) -> list[list[Array]]:
    """Return the letters of a random word. The height of a capital is 1, and the word is centered at x = 0.

    Returns:
        For each letter its outlines, `(n, 2)` float64, x to the right and y up. Holes are outlines too.
    """
    word = _word(rng)
    thin, bold = sorted(rng.integers(2, 26, 2).tolist())
    weights = np.linspace(thin if chance(rng, 0.3) else bold, bold, len(word))
    font = int(rng.choice((-1, -1, 0, 2, 3, 4, 6, 7, 5)))
    wide, slant, spacing = rng.uniform(0.7, 1.7), rng.normal(0, 0.1), rng.uniform(0.02, 0.45)
    glyphs, at = [], 0.0
    for letter, weight in zip(word, weights.astype(int), strict=True):
        outlines, width = _outlines(letter, font, int(weight))
        glyphs.append([np.c_[at + wide * (line[:, 0] + slant * line[:, 1]), line[:, 1]] for line in outlines])
        at += wide * (width + spacing)
    return [[line - (at / 2, 0) for line in glyph] for glyph in glyphs]


def _word(rng: np.random.Generator) -> str:
    alphabet = string.ascii_uppercase if chance(rng, 0.7) else string.ascii_lowercase
    if chance(rng, 0.15):
        alphabet = string.digits
    if chance(rng, 0.2):
        alphabet = "COGDQSUB"  # large round letters resemble wheels
    return "".join(rng.choice(list(alphabet), rng.integers(2, 12)))


def _outlines(letter: str, font: int, weight: int) -> tuple[list[Array], float]:
    """Return the outlines of a letter and its width. `font` is one of OpenCV's, or Pillow's if it is negative."""
    if font < 0:
        drawn, width = _draw_typeface(letter, weight // 3)
    else:
        scale = cv2.getFontScaleFromHeight(font, _EM, 1)
        (width, _), _ = cv2.getTextSize(letter, font, scale, 1)
        drawn = np.zeros((_EM + 4 * _PAD, width + 2 * _PAD), np.uint8)
        cv2.putText(drawn, letter, (_PAD, _EM + 2 * _PAD), font, scale, 255, weight, cv2.LINE_AA)
    lines, _ = cv2.findContours((drawn > 127).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    smooth = [cv2.approxPolyDP(line, 0.7, True)[:, 0].astype(np.float64) for line in lines if len(line) > 8]
    return [np.c_[line[:, 0] - _PAD, _EM + 2 * _PAD - line[:, 1]] / _EM for line in smooth], width / _EM


def _draw_typeface(letter: str, stroke: int) -> tuple[Array, int]:
    font = ImageFont.load_default(_EM * 1.38)
    width = round(font.getlength(letter))
    picture = Image.new("L", (width + 2 * _PAD, _EM + 4 * _PAD))
    ImageDraw.Draw(picture).text(
        (_PAD, _EM + 2 * _PAD), letter, fill=255, font=font, anchor="ls", stroke_width=stroke
    )
    return np.asarray(picture), width
