import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.stores.images.mask_values import MaskValues, parse_values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (0, 0),
        ("255", 255),
        (65535, 65535),
        ("white", (255, 255, 255)),
        ("#FFffff", (255, 255, 255)),
        ("ffffff", (255, 255, 255)),
        (800000, (128, 0, 0)),  # what YAML makes of 800000
        ("#f00", (255, 0, 0)),
        ("rgb(1,2,3)", (1, 2, 3)),
    ],
)
def test_a_value_is_a_number_or_a_color(text: str | int, value: object) -> None:
    assert parse_values(background=text) == MaskValues(background=value)  # type: ignore[arg-type]
    assert parse_values(objects=text) == MaskValues(objects=(value,))  # type: ignore[arg-type]


def test_values_are_a_list_or_a_text_with_spaces_or_commas() -> None:
    expected = MaskValues(objects=(7, 10, 11, 12, (128, 0, 0)))
    assert (
        parse_values(objects="7 10-12 #800000 7") == parse_values(objects=[7, "10-12", "maroon"]) == expected
    )
    assert (
        parse_values(objects="7,10-12, #800000,")
        == parse_values(objects="7 10-12 rgb(128, 0, 0)")
        == expected
    )
    assert parse_values() == MaskValues()


@pytest.mark.parametrize("text", ["car", "-1", "65536", "5-1", "1.5", "#80", "²", "#80000080", "True"])
def test_other_texts_are_errors_that_name_the_parameter(text: str) -> None:
    for parameter in ("background", "objects"):
        with pytest.raises(UserError, match=r"folder\.mask_(background|values) = '.+' is neither a value"):
            parse_values(**{parameter: text})


def test_both_parameters_together_and_empty_ones_are_errors() -> None:
    with pytest.raises(UserError, match="Set only one of them"):
        parse_values(background="white", objects=1)
    with pytest.raises(UserError, match="is a range"):
        parse_values(background="1-2")
    for nothing in ([], " "):
        with pytest.raises(UserError, match=r"folder\.mask_values is empty"):
            parse_values(objects=nothing)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_every_color_can_be_written_in_hexadecimal(red: int, green: int, blue: int) -> None:
    assert parse_values(background=f"#{red:02x}{green:02x}{blue:02x}").background == (red, green, blue)
