"""Run-length encoding of masks in the format of Kaggle's Carvana challenge.

The text holds `start length` pairs, one per run of ones. Pixels are counted from 1, row by row. The text of an empty
mask is empty.
"""

import operator
import re

import numpy as np
from numpy.typing import NDArray

from carvana_kedro.stores.images.pixels import as_mask

_DIGITS = re.compile("[0-9 ]*")
_INTEGERS = re.compile("[-0-9 ]*")


def encode(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> str:
    """Encode a mask as `start length` pairs.

    Args:
        mask: (H, W) bool, or integers 0 and 1.

    Returns:
        The runs of ones in ascending order, separated by single spaces. Runs do not touch. "" for an empty mask.

    Raises:
        TypeError, ValueError: It is not a mask: see `as_mask`.

    >>> encode(np.array([[0, 1, 1], [1, 0, 1]], dtype=np.uint8))
    '2 3 6 1'
    """
    return format_runs(find_edges(mask))


def find_edges(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find the positions at which the value changes, reading the mask row by row.

    Args:
        mask: (H, W) bool, or integers 0 and 1.

    Returns:
        (2 R,) int64 ascending positions, counted from 0: for each run its first pixel, and the first pixel after it.

    Raises:
        TypeError, ValueError: It is not a mask: see `as_mask`.
    """
    pixels = as_mask(mask).ravel()
    return np.concatenate(
        [
            np.flatnonzero(pixels[:1]),  # the comparison of neighbors misses the edge before the first pixel
            np.flatnonzero(pixels[1:] != pixels[:-1]) + 1,
            np.flatnonzero(pixels[-1:]) + pixels.size,  # and the edge after the last one
        ]
    )


def format_runs(edges: NDArray[np.int64]) -> str:
    """Format the edges that `find_edges` returns as `start length` pairs."""
    runs = edges.reshape(-1, 2)
    pairs = np.stack([runs[:, 0] + 1, runs[:, 1] - runs[:, 0]], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def decode(rle: str, height: int, width: int) -> NDArray[np.uint8]:
    """Decode `start length` pairs into a mask.

    Args:
        rle: Text from `encode`, or a field of Kaggle's `train_masks.csv`.
        height: Rows of the mask.
        width: Columns of the mask.

    Returns:
        (height, width) uint8 in {0, 1}.

    Raises:
        TypeError, ValueError: The text is not a valid encoding of a mask of this size (see `check`).

    >>> decode("2 3 6 1", 2, 3)
    array([[0, 1, 1],
           [1, 0, 1]], dtype=uint8)
    """
    runs = check(rle, height, width)
    pixels = np.zeros(height * width, dtype=np.uint8)
    for start, length in runs.tolist():
        pixels[start - 1 : start - 1 + length] = 1
    return pixels.reshape(height, width)


def check(rle: str, height: int, width: int) -> NDArray[np.int64]:
    """Parse a run-length encoding and check that it describes a mask of the given size.

    Args:
        rle: The text to check.
        height: Rows of the mask.
        width: Columns of the mask.

    Returns:
        (R, 2) int64, one row per run: its first pixel, counted from 1, and its length.

    Raises:
        TypeError: `rle` is not a text, or a size is not an integer.
        ValueError: A size is negative, or the text holds something other than integers, an odd count of numbers, a
            start or length below 1, a run that ends outside the image, or runs that overlap or are not in order.

    >>> check("5 3", 2, 3)
    Traceback (most recent call last):
        ...
    ValueError: Run 1 ("5 3") ends at pixel 7, outside an image of 2 x 3 = 6 pixels.
    """
    if not isinstance(rle, str):
        raise TypeError(
            f"A run-length encoding must be a text, not {rle!r}. If pandas has read an empty field as NaN, read the "
            "file with keep_default_na=False."
        )
    if operator.index(height) < 0 or operator.index(width) < 0:
        raise ValueError(f"The size of a mask must not be negative, as in {height} x {width}.")
    size = height * width
    if _DIGITS.fullmatch(rle):
        numbers = np.fromstring(
            rle.strip(" "), np.int64, sep=" "
        )  # too large a number gives the largest integer
        if len(numbers) % 2 == 0 and _are_runs(numbers.reshape(-1, 2), size):
            return numbers.reshape(-1, 2)
    raise ValueError(_problem(rle, height, width))


def _are_runs(runs: NDArray[np.int64], size: int) -> bool:
    if not len(runs):
        return True
    if runs.min() < 1 or runs.max() > size:
        return False
    ends = runs.sum(1)  # the first pixel after each run
    return bool((runs[1:, 0] >= ends[:-1]).all() and ends[-1] <= size + 1)


def _problem(rle: str, height: int, width: int) -> str:
    """Return what is wrong with an invalid run-length encoding. Looking at each number takes several times as long."""
    try:
        # int() also accepts `1_0`, `+5` and digits of other scripts.
        if not _INTEGERS.fullmatch(rle):
            raise ValueError(f"{rle[:40]!r}")
        numbers = [int(number) for number in rle.split(" ") if number]
    except ValueError as error:
        return f"A run-length encoding holds integers only: {error}."
    if len(numbers) % 2:
        return f"A run-length encoding holds pairs, but this one has {len(numbers)} numbers."
    size = height * width
    end = 0
    for run, (start, length) in enumerate(zip(numbers[::2], numbers[1::2], strict=True), start=1):
        last = start + length - 1
        if start < 1 or length < 1:
            problem = "must have a start and a length of at least 1"
        elif start <= end:
            problem = f"starts before the previous run has ended, at pixel {end}"
        elif last > size:
            problem = f"ends at pixel {last}, outside an image of {height} x {width} = {size} pixels"
        else:
            end = last
            continue
        return f'Run {run} ("{start} {length}") {problem}.'
    raise AssertionError(f"{rle[:40]!r} is valid.")
