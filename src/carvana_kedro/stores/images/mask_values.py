"""What the values of masks mean, as the parameters say it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import ImageColor

from carvana_kedro.errors import UserError

Value = int | tuple[int, int, int]
"""A gray value or palette index, or an (R, G, B) color of 8 bits."""

_LARGEST = 65_535
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


@dataclass(frozen=True)
class MaskValues:
    """The values of the background or of the object in all masks of a folder.

    Attributes:
        background: the value that is not the object. None: black.
        objects: the values that are the object. Empty: all but the background, of which there may be only one.
    """

    background: Value | None = None
    objects: tuple[Value, ...] = ()


def parse_values(background: object = None, objects: object = None) -> MaskValues:
    """Return the meaning of values from the parameters `folder.mask_background` and `folder.mask_values`.

    A value is a gray value or palette index such as 7, or a color: `#800000`, `800000` or `maroon`. For `objects`,
    ranges such as `1-20` are allowed.

    Args:
        background: one value, or None.
        objects: one value, a list of values, a text with values between spaces, or None.

    Raises:
        UserError: a value is none of these, or both parameters are set.

    >>> parse_values(objects="7 10-12 #800000")
    MaskValues(background=None, objects=(7, 10, 11, 12, (128, 0, 0)))
    """
    if background is not None and objects is not None:
        raise UserError("folder.mask_background and folder.mask_values are both set. Set only one of them.")
    if background is not None:
        (value, *others) = _parse(str(background), "folder.mask_background")
        if others:
            raise UserError(f"folder.mask_background = {background!r} is a range. Set one value.")
        return MaskValues(background=value)
    if objects is None:
        return MaskValues()
    words = [
        word for item in (objects if isinstance(objects, Iterable) and not isinstance(objects, str) else [objects])
        for word in re.split(r"[\s,]+(?![^(]*\))", str(item).strip(" ,")) if word
    ]  # fmt: skip
    parsed = [value for word in words for value in _parse(word, "folder.mask_values")]
    if not parsed:
        raise UserError("folder.mask_values is empty. Set the values of the object, or null.")
    return MaskValues(objects=tuple(dict.fromkeys(parsed)))


def _parse(text: str, parameter: str) -> Iterator[Value]:
    limits = _RANGE.fullmatch(text)
    if limits and int(limits[1]) <= int(limits[2]) <= _LARGEST:
        yield from range(int(limits[1]), int(limits[2]) + 1)
    elif text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= _LARGEST:
        yield int(text)
    else:
        yield _parse_color(text, parameter)


def _parse_color(text: str, parameter: str) -> tuple[int, int, int]:
    try:
        red, green, blue, *alpha = ImageColor.getrgb(
            f"#{text}" if re.fullmatch("[0-9a-fA-F]{6}", text) else text
        )
        if alpha:
            raise ValueError("it has an alpha channel")
    except ValueError as error:
        raise UserError(
            f"{parameter} = {text!r} is neither a value from 0 to {_LARGEST} nor a color such as '#800000' or maroon."
        ) from error
    return red, green, blue
