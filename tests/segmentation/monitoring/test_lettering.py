import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.segmentation.monitoring.lettering import shortened, text_width, write


@given(st.text("abc_019 ", min_size=1, max_size=80), st.integers(60, 400))
def test_shortened_text_fits_and_keeps_its_ends(text: str, width: int) -> None:
    short = shortened(text, width)
    assert text_width(short) <= width
    assert short == text or (short[0] == text[0] and "..." in short)
    assert short == text or text_width(text) > width


def test_text_is_aligned_at_its_position() -> None:
    columns = []
    for align in (0, 0.5, 1):
        image = np.full((40, 400, 3), 255, np.uint8)
        write(image, "Dice 0.9876", 200, 25, align=align)
        columns.append(np.argwhere((image < 128).any(axis=(0, 2)))[:, 0])
    left, center, right = columns
    assert left.min() >= 199
    assert abs(center.mean() - 200) < 15
    assert right.max() <= 201
