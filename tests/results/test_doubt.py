import re

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.results.doubt import doubtful_masks
from carvana_kedro.segmentation.prediction.doubt import DOUBTFUL


@given(st.lists(st.one_of(st.floats(0, 100), st.just(float("nan"))), max_size=12))
def test_the_worst_three_of_the_doubtful_masks_are_named(values: list[float]) -> None:
    table = pd.DataFrame(
        {"image": [f"i{number}" for number in range(len(values))], "doubt": pd.Series(values, dtype=float)}
    )
    text = doubtful_masks(table)
    above = [value for value in values if value > DOUBTFUL]
    assert bool(text) == bool(above)
    if text:
        assert text.startswith(f"{len(above)} of {len(values)} masks, most of all i")
        named = [values[int(number)] for number in re.findall(r"i(\d+) \(", text)]
        assert named == sorted(above, reverse=True)[:3]
