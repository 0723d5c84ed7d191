import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.stores import tables
from carvana_kedro.stores.tables import read_masks


@given(st.text(alphabet='ab,"\n\r \x0b\u2028', max_size=20))
def test_lines_have_the_fields_that_the_csv_module_finds(text: str) -> None:
    assert list(tables._fields(io.StringIO(text, newline=""))) == list(
        csv.reader(io.StringIO(text, newline=""))
    )


def test_quoted_rows_are_read() -> None:
    text = 'img,rle_mask\r\na.jpg,1 2\r\n"b.jpg","3\n4"\r\nc.jpg,\r\n'
    assert list(read_masks(io.StringIO(text, newline=""), Path("t.csv"))) == [
        ("a", "1 2"),
        ("b", "3\n4"),
        ("c", ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should have the columns img,rle_mask, not ''"),
        ("\n", "should have the columns"),
        ("img,mask\n", "not 'img,mask'"),
        ("img,rle_mask\na.jpg\n", "line 2: 1 fields instead of 2"),
        ("img,rle_mask\na.jpg,\n\n", "line 3: 0 fields instead of 2"),
        ("img,rle_mask\na.png,\n", "line 2: 'a.png' is not the name of a jpg"),
        ("img,rle_mask\na.jpg,\na.jpg,\n", "line 3: 'a.jpg' appears twice"),
    ],
)
def test_errors_name_the_file_and_the_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"t\.csv.*{message}"):
        list(read_masks(io.StringIO(text, newline=""), Path("t.csv")))
