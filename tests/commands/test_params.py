"""`--params`: text arrives as it is typed, the rest as YAML, and what can be read in two ways is refused."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.commands.params import params_option, parse_params, spell_params
from carvana_kedro.errors import UserError

CHANGED_BY_YAML = (
    "a#b", "a #b", "#ffffff", "01", "010", "1e5", "1_000", "0x1f", "no", "on", "Yes", "off", "true", "~", ".inf",
    "2017-01-01", "12:30:45", "1:30", "folder:", "a: b", "- a", "? a", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">",
    "=", "a=b", "[^_]+", "[a", "{a", "{a: b}", "]", "a,b", "(.+)_[0-9]{1,2}", "a, b", r"\d+", r"C:\new", "it's", 'a"b"',
)  # fmt: skip
TEXTS = (
    "data_root", "scratch_root", "source", "recipe", "checkpoint", "archives", "folder.images", "folder.masks",
    "folder.test", "folder.group", "folder.mask_suffix", "kaggle.competition", "kaggle.quality", "inference.background",
    "inference.engine", "submission.message", "data_ingestion.on_problem", "model_training.architecture",
    "model_training.architecture.type", "model_training.device", "recipes.mine.architecture",
)  # fmt: skip


def _at(params: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


def _refusal(text: str) -> str:
    with pytest.raises(UserError) as refused:
        parse_params(text)
    message = str(refused.value)
    assert "\n" not in message
    return message


def _advised(message: str) -> dict[str, Any]:
    """Return the parameters of the last option `--params` that a message shows, after a shell has read it."""
    words = shlex.split(message[message.rindex("--params ") :])
    return parse_params(words[1])


@pytest.mark.parametrize("value", CHANGED_BY_YAML)
@pytest.mark.parametrize("key", TEXTS)
def test_text_is_taken_as_it_is_typed(key: str, value: str) -> None:
    is_mapping = key in ("model_training.architecture", "recipes.mine.architecture") and value == "{a: b}"
    expected = {"a": "b"} if is_mapping else value
    assert _at(parse_params(f"{key}={value}"), key) == expected
    assert _at(parse_params(f"data_ingestion.seed=1,{key}={value},reporting.gallery_size=2"), key) == expected


@pytest.mark.parametrize(
    ("typed", "value"),
    [("true", True), ("False", False), ("'true'", "true"), ("~/w.pth", "~/w.pth"), ("no", "no"), ("1", "1")],
)
def test_a_switch_that_may_also_be_text_is_switched_by_true_and_false(typed: str, value: bool | str) -> None:
    params = parse_params(f"model_training.pretrained={typed}")
    assert params == {"model_training": {"pretrained": value}}
    assert parse_params(spell_params(params)) == params


@pytest.mark.parametrize(
    "value", [*CHANGED_BY_YAML, "a,b=c", "a,recipe=b", "'a'", "'", '"', "''", " a ", "a,", ",", ""]
)
@pytest.mark.parametrize("quoted", ["'{}'", '"{}"'])
def test_quotes_make_text_of_any_value(value: str, quoted: str) -> None:
    escaped = (
        value.replace("'", "''") if quoted[0] == "'" else value.replace("\\", "\\\\").replace('"', r"\"")
    )
    text = quoted.format(escaped)
    assert parse_params(f"folder.group={text},recipe=a") == {"folder": {"group": value}, "recipe": "a"}
    assert parse_params(f"recipe=a,folder.group= {text} ") == {"folder": {"group": value}, "recipe": "a"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_training.epochs=3", 3),
        ("model_training.optimizer.learning_rate=1e-3", 0.001),
        ("inference.flip=true", True),
        ("inference.flip=on", True),
        ("inference.masks=no", False),
        ("inference.masks=auto", "auto"),
        ("inference.threshold=0.4", 0.4),
        ("inference.threshold=auto", "auto"),
        ("model_training.callbacks=[a.b, c.d]", ["a.b", "c.d"]),
        ("model_training.callbacks=[{type: a.b, x: 'recipe=1,source=2'}]", [{"type": "a.b", "x": "recipe=1,source=2"}]),
        ("model_training.architecture={type: a.b, depth: 3}", {"type": "a.b", "depth": 3}),
        ("model_training.loss.gamma=1.5", 1.5),
        ("model_training.loss.mode=mean", "mean"),
        ("model_training.loss.mode='no'", "no"),
        ("folder={images: a, masks: b}", {"images": "a", "masks": "b"}),
        ("export.formats=[onnx,program]", ["onnx", "program"]),
        ("checkpoint=", None),
        ("folder.mask_suffix=", ""),
        ("recipes=null", None),
    ],
)  # fmt: skip
def test_other_values_are_yaml(text: str, expected: object) -> None:
    value = _at(parse_params(f"{text},submission.message=a"), text.partition("=")[0])
    assert (value, type(value)) == (expected, type(expected))


def test_spaces_around_keys_and_values_do_not_count() -> None:
    assert parse_params(" recipe = a b , source=c,\n data_root=d ") == {
        "recipe": "a b", "source": "c", "data_root": "d",
    }  # fmt: skip
    assert parse_params("") == parse_params("  ") == {}


def test_a_mapping_and_keys_below_it_are_merged() -> None:
    expected = {"model_training": {"architecture": {"type": "a.b", "depth": 3}}}
    for text in ("architecture={type: a.b},{}.depth=3", "architecture.depth=3,{}={{type: a.b}}"):
        text = text.replace("{}", "model_training.architecture").replace("{{", "{").replace("}}", "}")
        assert parse_params(f"model_training.{text}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recipe", "'recipe' is not KEY=VALUE"),
        ("=a", "'=a' is not KEY=VALUE"),
        (",recipe=a", "'' is not KEY=VALUE"),
        ("two words=a", "is not KEY=VALUE"),
        ("recipe=a,recipe=b", "recipe is given twice"),
        ("folder={images: a},folder.images=b", "folder.images is given twice"),
        ("folder=a,folder.images=b", "folder.images contradicts an earlier value of folder"),
        ("data_root=a,recipie=b", "'recipie=b': unknown parameter. Did you mean recipe?"),
        ("data_root=a,recipe", "recipe has no value: write recipe=VALUE"),
        ("checkpoint=null", "checkpoint=null is ambiguous: write checkpoint= for no value"),
        ("model_training.epochs=010", "would be read as 8. If that is meant, write model_training.epochs=8."),
        (
            "model_training.epochs=1:30",
            "would be read as 90. If that is meant, write model_training.epochs=90.",
        ),
        ("inference.batch_size=3 # images", "write inference.batch_size=3."),
        ("export.formats=[onnx", "export.formats=[onnx is not valid YAML."),
        ("checkpoint=${oc.env:HOME}", "have a meaning of their own"),
        ("checkpoint=???", "have a meaning of their own"),
    ],
)
def test_mistakes_are_told_in_one_line(text: str, expected: str) -> None:
    assert expected in _refusal(text)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("folder.images=a,b=c", "folder.images", "a,b=c"),
        ("folder.images=a,/b=c,recipe=d", "folder.images", "a,/b=c"),
        ("folder.images=a,recipe", "folder.images", "a,recipe"),
        ("folder.images=a,", "folder.images", "a,"),
        ("folder.images=a,,recipe=b", "folder.images", "a,"),
        ("folder.images='a", "folder.images", "'a"),
        ('folder.group="a', "folder.group", '"a'),
        ("folder.group='a'|'b'", "folder.group", "'a'|'b'"),
        ("folder.group='(.+)_[0-9]{1,2}", "folder.group", "'(.+)_[0-9]{1,2}"),
        ("checkpoint=null", "checkpoint", "null"),
        *(
            (f"model_training.loss.mode={value}", "model_training.loss.mode", value)
            for value in ("no", "On", "01", "010", "1_0", "1:30", "0x1f", "a #b", "#b", "a: b", "- a", "&a", "*a", "[a")
        ),
        ("data_root=null", "data_root", "null"),
    ],
)  # fmt: skip
def test_a_refusal_shows_the_spelling_that_works(text: str, key: str, value: str) -> None:
    assert _at(_advised(_refusal(text)), key) == value


_TEXT = st.text().filter(lambda text: "${" not in text and text != "???" and "\0" not in text)
_TRICKY = st.text("'\",=[]{}#:\\ a1-!&*.\n$`").filter(lambda text: "${" not in text)
_OPEN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TRICKY


@given(
    st.one_of(_TEXT, _TRICKY, st.sampled_from(CHANGED_BY_YAML)),
    _OPEN,
    st.sampled_from(["images", "masks", "test"]),
)
def test_a_printed_option_is_read_as_the_same_parameters(text: str, other: object, name: str) -> None:
    params: dict[str, Any] = {
        "folder": {"mask_suffix": text, name: text or None},
        "submission": {"message": text},
        "model_training": {
            "loss": {"type": "my.loss", "mode": text, "other": other},
            "callbacks": [text, {"x": text}],
        },
    }
    option, printed = shlex.split(params_option(params))
    assert option == "--params"
    assert parse_params(printed) == params


def test_plain_text_is_printed_without_quotes() -> None:
    params = {
        "data_root": "/tmp/my data",
        "inference": {"background": "#ffffff"},
        "folder": {"group": "(.+)_[0-9]"},
    }
    assert (
        spell_params(params) == "data_root=/tmp/my data,inference.background=#ffffff,folder.group=(.+)_[0-9]"
    )
    assert params_option({"folder": {"images": "a,b=c"}}) == """ --params "folder.images='a,b=c'\""""
    assert params_option({}) == ""
