"""Decoding of masks: images of two values, of which one is the object."""

from pathlib import Path
from typing import NamedTuple, NoReturn

import cv2
import numpy as np

from carvana_kedro.stores.images.decoding import UnusableImageError, header_of, open_image, rotate
from carvana_kedro.stores.images.mask_pixels import MaskPixels, read_pixels
from carvana_kedro.stores.images.mask_values import MaskValues, Value

_MAX_EDGE_SHARE = 0.05
_LOSS = 8
"""Levels of 255 by which lossy compression may change a value."""
_LEAST_CONTRAST = 64
"""Levels of 255 between two values that may have a soft edge. Label maps number their labels from 1."""


class _Census(NamedTuple):
    """The values that occur, sorted, and the number of pixels with each."""

    codes: np.ndarray
    counts: np.ndarray


def read_mask(path: Path, meaning: MaskValues | None = None) -> np.ndarray:
    """Return the upright mask, (H, W) uint8 with values 0 and 1.

    The values are judged as they are stored. Without `meaning`, black or a transparent pixel is not the object, and the
    only other value is. A few values between the two are taken as a soft edge, and rounded to the nearer one.

    Raises:
        UnusableImageError: the file cannot be decoded, or its values have no clear meaning.
    """
    meaning = meaning or MaskValues()
    with open_image(path) as image:
        pixels, alpha = read_pixels(path, image, meaning)
        orientation = header_of(image).orientation
        mask = _judge(pixels, alpha, meaning, keeps_hidden=image.mode == "P")
        return rotate(mask.astype(np.uint8), orientation)


def _judge(
    pixels: MaskPixels, alpha: np.ndarray | None, meaning: MaskValues, keeps_hidden: bool
) -> np.ndarray:
    """Return the mask, (H, W) bool.

    Args:
        pixels: all values.
        alpha: (H, W), 0 where the image is transparent, or None.
        meaning: what the values mean.
        keeps_hidden: whether the colors of transparent pixels count.
    """
    if meaning.objects:
        if pixels.lossy:
            raise UnusableImageError(
                "is compressed with loss, which changes values, so folder.mask_values would miss pixels: save it as "
                "png, or remove folder.mask_values if the masks have two values"
            )
        codes = [code for value in meaning.objects for code in pixels.codes_of(value)]
        mask = np.isin(pixels.codes, codes)
        return mask if alpha is None else mask & (alpha > 0)
    if meaning.background is not None:
        return _judge_values(pixels, meaning.background) & (True if alpha is None else alpha > 0)
    if alpha is None or (alpha == alpha.flat[0]).all():
        if alpha is not None and not alpha.flat[0]:
            if len(_count(pixels.codes).codes) > 1:
                raise UnusableImageError(
                    "is not a mask: it is transparent everywhere, but has several colors"
                )
            return np.zeros(alpha.shape, bool)
        return _judge_values(pixels)
    mask = _judge_values(MaskPixels(alpha, white=np.iinfo(alpha.dtype).max, source="its alpha channel"))
    seen = _count(pixels.codes if keeps_hidden else pixels.codes[alpha > 0]).codes
    if len(seen) == 2 and seen[0] == 0 and not np.array_equal(pixels.codes != 0, mask):
        raise UnusableImageError(
            "is not a mask: its colors and its alpha channel are two different masks. Remove one of them"
        )
    return mask


def _judge_values(pixels: MaskPixels, background: Value | None = None) -> np.ndarray:
    """Return where the value is not the background, (H, W) bool. None: the background is black."""
    census = _count(pixels.codes)
    empty = [0] if background is None else pixels.codes_of(background)
    if len(census.codes) == 1:
        return np.full(pixels.codes.shape, _is_object(pixels, census.codes[0], empty, background is None))
    pair = census.codes if len(census.codes) == 2 else _soft_pair(pixels, census, empty)
    if pair is None:
        _refuse_labels(pixels, census)
    if not set(pair.tolist()) & set(empty):
        _refuse_pair(pixels, pair, background)
    outside, inside = pair if pair[0] in empty else pair[::-1]
    if len(census.codes) == 2:
        return np.asarray(pixels.codes == inside)
    vectors = pixels.vectors(census.codes)
    from_outside, from_inside = (
        np.linalg.norm(vectors - pixels.vectors(np.array([end])), axis=1) for end in (outside, inside)
    )
    return np.isin(pixels.codes, census.codes[from_inside <= from_outside])


def _count(codes: np.ndarray) -> _Census:
    if codes.dtype in (np.uint8, np.uint16):
        size = 1 << 8 * codes.itemsize
        # It takes a fifth of the time of np.bincount, which first makes integers of 8 bytes.
        counts = cv2.calcHist([np.ascontiguousarray(codes)], [0], None, [size], [0, size]).ravel()
        present = np.flatnonzero(counts)
        return _Census(present, counts[present].astype(int))
    first = codes.flat[0]
    others = codes[codes != first]
    if others.size and not (others == others[0]).all():
        return _Census(*np.unique(codes, return_counts=True))
    found = {first: codes.size - others.size} | ({others[0]: others.size} if others.size else {})
    return _Census(np.array(sorted(found)), np.array([found[code] for code in sorted(found)]))


def _is_object(pixels: MaskPixels, code: float, empty: list[int], is_default: bool) -> bool:
    """Return whether a mask of one value is full, and not empty."""
    if code in empty:
        return False
    is_white = code == pixels.white if pixels.bits else code in (1, 255, 65535)
    if is_default and not is_white:
        raise UnusableImageError(
            f"is not clear: all pixels are {pixels.name(code)}, which may be the object or the background. If it is "
            f"the object, save it as white, or set folder.mask_values={_quote(pixels, code)}"
        )
    return True


def _soft_pair(pixels: MaskPixels, census: _Census, empty: list[int]) -> np.ndarray | None:
    """Return the two values of a mask with soft edges, or None if it is not such a mask.

    The values of an edge are few, lie between the two, and change from pixel to pixel. The values of a label map are
    constant in areas, are small numbers, or differ in another direction.
    """
    pair = _ends(pixels, census)
    if pixels.palette or pair is None:
        return None
    vectors = pixels.vectors(census.codes)
    first, second = pixels.vectors(pair)
    contrast = np.linalg.norm(second - first)
    is_black_and_white = not pixels.bits and set(pair.tolist()) == {0, pixels.white}
    if np.abs(second - first).max() < _LEAST_CONTRAST or (
        pixels.white > 255 and not is_black_and_white and not pixels.bits
    ):
        return None
    from_ends = np.stack([np.linalg.norm(vectors - end, axis=1) for end in (first, second)])
    edge = ~np.isin(census.codes, pair)
    if pixels.lossy:
        edge &= from_ends.min(axis=0) > _LOSS
    if census.counts[edge].sum() > _MAX_EDGE_SHARE * pixels.codes.size:
        return None
    place = (vectors - first) @ (second - first) / contrast**2
    off_line = np.linalg.norm(vectors - first - np.clip(place, 0, 1)[:, None] * (second - first), axis=1)
    if not pixels.lossy and (off_line[edge] > 2 + contrast / 16).any():
        return None
    from_empty = place if pair[0] in empty else 1 - place
    if edge.any() and set(pair.tolist()) & set(empty) and from_empty[edge].max() < 0.25:
        return None
    middle = edge & (from_ends.min(axis=0) > contrast / 8)
    side = 5 if is_black_and_white or pixels.lossy else 3
    return None if _has_flat_square(pixels, census.codes[middle], side) else pair


def _ends(pixels: MaskPixels, census: _Census) -> np.ndarray | None:
    """Return the two codes that an edge could lie between."""
    codes, counts = census
    if not pixels.bits and codes[0] == 0 and codes[-1] == pixels.white:
        return codes[[0, -1]]
    most = int(counts.argmax())
    vectors = pixels.vectors(codes)
    far = np.linalg.norm(vectors - vectors[most], axis=1)
    if pixels.lossy:
        far = np.where(far > _LOSS, counts, 0)
    other = int(far.argmax())
    return codes[[most, other]] if other != most else None


def _has_flat_square(pixels: MaskPixels, chosen: np.ndarray, side: int) -> bool:
    """Return whether any of the chosen codes fills a square of `side` x `side` pixels."""
    rows, columns = np.nonzero(np.isin(pixels.codes[: 1 - side, : 1 - side], chosen))
    corner = pixels.vectors(pixels.codes[rows, columns])
    flat = np.ones(len(rows), bool)
    for row in range(side):
        for column in range(side):
            change = np.abs(pixels.vectors(pixels.codes[rows + row, columns + column]) - corner).max(axis=1)
            flat &= change <= (_LOSS if pixels.lossy else 0)
    return bool(flat.any())


def _refuse_pair(pixels: MaskPixels, pair: np.ndarray, background: Value | None) -> NoReturn:
    first, second = (pixels.name(code) for code in pair)
    if background is not None:
        raise UnusableImageError(
            f"is not a mask: {pixels.source} has the values {first} and {second}, and none of them is "
            "folder.mask_background"
        )
    if pixels.source != "it":
        raise UnusableImageError(
            f"is not a mask: {pixels.source} has the values {first} and {second}, and no pixel is transparent"
        )
    raise UnusableImageError(
        f"has the two values {first} and {second}, and none of them is black. Say which is the background: "
        f"folder.mask_background={_quote(pixels, pair[0])} or {_quote(pixels, pair[1])}"
    )


def _refuse_labels(pixels: MaskPixels, census: _Census) -> NoReturn:
    order = np.argsort(-census.counts, kind="stable")[:6]
    values = ", ".join(
        f"{pixels.name(census.codes[i])} ({census.counts[i] / pixels.codes.size:.2%})" for i in order
    )
    more = ", ..." if len(census.codes) > len(order) else ""
    advice = "" if pixels.source != "it" else (
        ". If this is a label map, set the values of the object, for example "
        f"folder.mask_values={_quote(pixels, census.codes[order[1]])}"
    )  # fmt: skip
    raise UnusableImageError(
        f"is not a mask: {pixels.source} has {len(census.codes)} values, {values}{more}{advice}"
    )


def _quote(pixels: MaskPixels, code: float) -> str:
    """Return a code as it is written in --params, and in YAML, where a bare # starts a comment."""
    if pixels.palette:
        return str(int(code))
    return f"'{pixels.name(code)}'" if pixels.bits == 8 else pixels.name(code)
