import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from carvana_kedro.stores import run_lengths

masks = npst.arrays(
    st.sampled_from([np.bool_, np.uint8]),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    elements=st.integers(0, 1),
)


def encode_pixel_by_pixel(mask):
    pixels = [0, *mask.ravel().tolist(), 0]
    starts = [i for i in range(1, len(pixels)) if pixels[i] and not pixels[i - 1]]
    lengths = [next(i for i in range(start, len(pixels)) if not pixels[i]) - start for start in starts]
    return " ".join(f"{start} {length}" for start, length in zip(starts, lengths, strict=True))


@given(masks)
def test_encode_equals_a_loop_over_pixels(mask):
    assert run_lengths.encode(mask) == encode_pixel_by_pixel(mask)


@given(masks)
def test_decode_undoes_encode(mask):
    decoded = run_lengths.decode(run_lengths.encode(mask), *mask.shape)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[0, 0], [0, 0]], ""),
        ([[1, 1], [1, 1]], "1 4"),
        ([[1, 1], [0, 0]], "1 2"),
        ([[0, 0], [1, 1]], "3 2"),
        ([[1, 0], [0, 1]], "1 1 4 1"),
        ([[0, 1], [1, 0]], "2 2"),  # a run continues in the next row
        ([[1]], "1 1"),
        ([[0]], ""),
    ],
)
def test_encode_handles_runs_at_corners_and_line_ends(mask, expected):
    assert run_lengths.encode(np.array(mask, dtype=np.uint8)) == expected


def test_encode_reads_rows_in_any_memory_layout():
    mask = np.array([[0, 1, 1], [0, 1, 0]], dtype=np.uint8)
    assert run_lengths.encode(np.asfortranarray(mask)) == run_lengths.encode(mask) == "2 2 5 1"


def test_a_mask_without_pixels_is_empty():
    assert run_lengths.encode(np.zeros((0, 5), dtype=bool)) == ""
    assert run_lengths.decode("", 0, 5).shape == (0, 5)


@pytest.mark.parametrize(
    "mask", [np.zeros(4, dtype=bool), np.zeros((2, 2)), np.zeros((2, 2, 1), dtype=np.uint8)]
)
def test_encode_rejects_arrays_that_are_not_masks(mask):
    with pytest.raises(ValueError, match="A mask must be"):
        run_lengths.encode(mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "has 1 numbers"),
        ("1 x", "integers only"),
        ("1.5 2", "integers only"),
        ("0 1", "at least 1"),
        ("-3 2", "at least 1"),
        ("1 0", "at least 1"),
        ("1 3 3 1", "has ended, at pixel 3"),
        ("5 1 1 1", "has ended, at pixel 5"),
        ("7 1", "outside an image of 2 x 3 = 6 pixels"),
        ("6 2", "ends at pixel 7"),
        ("1 99999999999999999999", "outside an image"),
    ],
)
def test_decode_rejects_invalid_encodings(text, message):
    with pytest.raises(ValueError, match=message):
        run_lengths.decode(text, 2, 3)


def test_check_accepts_adjacent_runs():
    np.testing.assert_array_equal(run_lengths.check("1 2 3 1 6 1", 2, 3), [[1, 2], [3, 1], [6, 1]])
    assert run_lengths.check("", 2, 3).shape == (0, 2)


def _pixels_of_valid_runs(text, size):
    """Return the pixels of each run, or None if a run is not valid, one number at a time."""
    if set(text) - set("0123456789 "):
        return None
    numbers = [int(number) for number in text.split()]
    pixels = [
        range(start, start + length) for start, length in zip(numbers[::2], numbers[1::2], strict=False)
    ]
    covered = [pixel for run in pixels for pixel in run[: size + 2]]
    valid = len(numbers) % 2 == 0 and all(pixels) and covered == sorted(set(covered))
    return pixels if valid and set(covered) <= set(range(1, size + 1)) else None


_NUMBERS = st.one_of(
    st.integers(0, 12), st.sampled_from(["007", "", " ", "-1", "1-2", "x", str(2**63), str(2**64)])
)


@given(st.lists(_NUMBERS, max_size=6))
def test_check_agrees_with_a_check_of_one_number_at_a_time(numbers):
    text = " ".join(map(str, numbers))
    expected = _pixels_of_valid_runs(text, 12)
    if expected is None:
        with pytest.raises(ValueError, match=r"^(A run-length encoding holds|Run \d)"):
            run_lengths.check(text, 3, 4)
    else:
        runs = run_lengths.check(text, 3, 4)
        assert runs.dtype == np.int64
        assert runs.tolist() == [[run.start, len(run)] for run in expected]


def test_torch_is_not_imported():
    """Ingestion imports these modules, and torch takes seconds to import."""
    code = "import sys, carvana_kedro.{0}; sys.exit('torch' in sys.modules)"
    for module in ("stores.run_lengths", "segmentation.metrics.mask_scores"):
        subprocess.run([sys.executable, "-c", code.format(module)], check=True)


@pytest.mark.parametrize("text", [float("nan"), None, b"1 2", 5])
def test_decode_accepts_text_only(text):
    with pytest.raises(TypeError, match=r"must be a text.*keep_default_na=False"):
        run_lengths.decode(text, 2, 3)


@pytest.mark.parametrize(
    ("size", "error"), [((-2, 3), ValueError), ((-2, -3), ValueError), ((2.0, 3), TypeError)]
)
def test_decode_accepts_sizes_of_whole_pixels_only(size, error):
    with pytest.raises(error):
        run_lengths.decode("1 2", *size)
