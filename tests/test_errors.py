"""Text from outside is shown in one line, without control characters."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError, shown, shown_lines


@given(st.text())
def test_a_shown_text_is_one_line_without_control_characters(text: str) -> None:
    result = shown(text)
    assert len(result.splitlines()) <= 1
    assert "\x1b" not in result
    assert result.encode().decode() == result
    assert shown(result) == result


def test_ordinary_names_are_shown_as_they_are() -> None:
    for name in ("car_01", "Zürich", "車\u3000一", "سيارة", "👩‍🔧", "a [red] <b>"):
        assert shown(name) == name


def test_direction_marks_and_line_separators_are_escaped() -> None:
    assert shown("\u202egpj.exe") == r"\u202egpj.exe"
    assert shown("a\u2028b\x85c\x9b31m") == r"a\u2028b\x85c\x9b31m"


def test_messages_keep_their_lines() -> None:
    error = UserError("two lines:\n  car\x1b[2J\rx")
    assert str(error) == "two lines:\n  car\\x1b[2J\\rx" == shown_lines(str(error))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
