"""The option `--params`: text as it is typed, everything else as YAML.

Kedro reads every value as YAML, which changes text: `#` starts a comment, `01` is a number, `no` is false. Here the
models of the parameters decide: a parameter that is declared as text receives what was typed. `'...'` and `"..."`
quote any text. A comma starts a new parameter if `KEY=` follows it, and is part of the value otherwise.
"""

import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from carvana_kedro.errors import UserError, suggestion
from carvana_kedro.parameters import Globals, Parameters
from carvana_kedro.segmentation.training.recipe import flatten

_QUOTED = r"'(?:''|[^'])*'|\"(?:\\.|[^\"\\])*\""
_PIECE = re.compile(rf"[^,=]*=\s*(?:{_QUOTED})\s*(?=,|\Z)|[^,]*", re.DOTALL)
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?\.(inf|nan)", re.IGNORECASE)
_NULL = ("null", "Null", "NULL")
_NOT_YAML = (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError)


def parse_params(text: str) -> dict[str, Any]:
    """Return the value of `--params` as nested parameters.

    Args:
        text: `KEY=VALUE,KEY=VALUE`, where dots in a key separate the levels.

    Raises:
        UserError: an item is not `KEY=VALUE`, a key is given twice, or a value can be read in two ways; the message
            shows the spelling that works.

    >>> parse_params("folder.images=#1/01,folder.group=(.+)_[0-9]{1,2},model_training.epochs=3")
    {'folder': {'images': '#1/01', 'group': '(.+)_[0-9]{1,2}'}, 'model_training': {'epochs': 3}}
    """
    params: dict[str, Any] = {}
    for key, raw in _items(text):
        _put(params, key, key.split("."), _value(key, raw))
    return params


def spell_params(values: Mapping[str, Any]) -> str:
    """Return nested parameters as text from which `parse_params` makes the same.

    >>> spell_params({"inference": {"background": "#ffffff", "flip": True}, "folder": {"images": "a,b=c"}})
    "inference.background=#ffffff,inference.flip=true,folder.images='a,b=c'"
    """
    return ",".join(f"{key}={_spelled(key, value)}" for key, value in flatten(values).items())


def params_option(values: Mapping[str, Any]) -> str:
    """Return parameters as the option ` --params` of a shell command, or an empty text without parameters."""
    return f" --params {_in_shell(spell_params(values))}" if values else ""


def run_options(run_params: Mapping[str, Any]) -> str:
    """Return the `--env` and `--params` of a run as they are typed, from Kedro's record of the run."""
    environment = f" --env {shlex.quote(run_params['env'])}" if run_params.get("env") else ""
    return environment + params_option(run_params.get("runtime_params") or {})


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Yield each key with its value as it was typed."""
    key, raw = "", ""
    for piece in _pieces(text) if text.strip() else ():
        head, equals, tail = piece.partition("=")
        head = head.strip()
        if key and _continues(key, raw, piece, head if equals else None):
            raw += f",{piece}"
            continue
        if key:
            yield key, _complete(key, raw)
        if not equals or not _KEY.fullmatch(head):
            raise UserError(f"--params: {piece.strip()!r} is not KEY=VALUE, such as model_training.epochs=3.")
        key, raw = head, tail
    if key:
        yield key, _complete(key, raw)


def _pieces(text: str) -> Iterator[str]:
    """Yield the text between commas that are not in a quoted value."""
    end = -1
    while end < len(text):
        found = _PIECE.match(text, end + 1)
        assert found  # the last alternative matches the empty text
        yield found[0]
        end = found.end()


def _continues(key: str, raw: str, piece: str, head: str | None) -> bool:
    """Tell whether a piece after a comma belongs to the value before it.

    Args:
        key: the parameter before the comma.
        raw: its value so far.
        piece: the text up to the next comma.
        head: what is before the `=` of the piece; None without one.

    Raises:
        UserError: the piece can be read in two ways.
    """
    if raw.lstrip()[:1] in ("[", "{") and not _is_text(key) and not _is_yaml(raw):
        return True  # within a list or mapping
    root = (piece.strip() if head is None else head).partition(".")[0]
    if root in Parameters.model_fields and (head is None or _KEY.fullmatch(head)):
        if head is not None:
            return False
        if _declared(piece.strip()) is not None:
            raise UserError(
                f"--params: {piece.strip()} has no value: write {piece.strip()}=VALUE. {_quote_advice(key, raw, piece)}"
            )
    if head is None:
        return True
    raise UserError(
        f"--params: {piece.strip()!r}: unknown parameter. {suggestion(root, Parameters.model_fields)}"
        f"Available: {', '.join(sorted(Parameters.model_fields))}. {_quote_advice(key, raw, piece)}"
    )


def _quote_advice(key: str, raw: str, piece: str) -> str:
    value = f"{raw.strip()},{piece.rstrip()}"
    return f"If it is part of the value of {key}, put that value in quotes: {_command(key, _quoted(value))}"


def _complete(key: str, raw: str) -> str:
    """Return a value without the spaces around it.

    Raises:
        UserError: it ends with a comma.
    """
    raw = raw.strip()
    if raw.endswith(","):
        raise UserError(
            f"--params: nothing follows the comma after {key}: leave the comma out, or, if it is part of the value, "
            f"put the value in quotes: {_command(key, _quoted(raw))}"
        )
    return raw


def _put(params: dict[str, Any], key: str, path: list[str], value: Any) -> None:
    """Set a value in nested parameters; mappings are merged.

    Raises:
        UserError: there is a value already.
    """
    for part in path[:-1]:
        params = params.setdefault(part, {})
        if not isinstance(params, dict):
            raise UserError(f"--params: {key} contradicts an earlier value of {part}: give only one of them.")
    last = path[-1]
    if isinstance(value, dict) and isinstance(params.get(last), dict):
        for name, inner in value.items():
            _put(params[last], f"{key}.{name}", [name], inner)
    elif last in params:
        raise UserError(f"--params: {key} is given twice: give only one value.")
    else:
        params[last] = value


def _value(key: str, raw: str) -> Any:
    """Return the value of a parameter from what was typed.

    Raises:
        UserError: it is not clear which value is meant.
    """
    value = _unquoted(raw) if re.fullmatch(_QUOTED, raw, re.DOTALL) else _unquoted_value(key, raw)
    if isinstance(value, str) and ("${" in value or value == "???"):
        raise UserError(
            f"--params: {key}={value!r}: ${{ and ??? have a meaning of their own in configuration files. "
            "Use another name, such as a link with another name."
        )
    return value


def _unquoted(raw: str) -> str:
    if raw.startswith("'"):
        return raw[1:-1].replace("''", "'")
    try:
        return str(json.loads(raw, strict=False))
    except ValueError:
        return str(_yaml(raw))


def _unquoted_value(key: str, raw: str) -> Any:
    if raw[:1] in ("'", '"'):
        raise UserError(
            f"--params: {key}={raw}: the quotes are not balanced. To keep them as part of the value: "
            f"{_command(key, _quoted(raw))}"
        )
    leaves = _leaves(_declared(key))
    words = [word for leaf in leaves if get_origin(leaf) is Literal for word in get_args(leaf)]
    others = [leaf for leaf in leaves if leaf not in (str, NoneType) and get_origin(leaf) is not Literal]
    if raw in words:
        return raw
    if str not in leaves:
        return raw if words and not others else _typed(key, raw, leaves)
    if raw in _NULL:
        none = f"write {key}= for no value, or" if NoneType in leaves else "for the name write"
        raise UserError(f"--params: {key}={raw} is ambiguous: {none} {_command(key, _quoted(raw))}")
    if not raw and NoneType in leaves:
        return None
    if bool in others and raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    if others and raw[:1] in ("[", "{") and _is_yaml(raw):
        return _yaml(raw)
    return raw


def _typed(key: str, raw: str, leaves: Collection[Any]) -> Any:
    """Return what YAML reads in a value that is not declared as text.

    Args:
        key: the parameter.
        raw: what was typed.
        leaves: the types that it may have; empty for an argument of a user's class, which may be text.

    Raises:
        UserError: YAML reads something else than what a person reads.
    """
    as_text = "" if leaves else f" For the text, write {_command(key, _quoted(raw))}"
    try:
        value = _yaml(raw)
    except _NOT_YAML:
        raise UserError(f"--params: {key}={raw} is not valid YAML.{as_text}") from None
    match value:
        case bool():
            is_plain = bool in leaves or raw.lower() in ("true", "false")
        case int() | float():
            is_plain = bool(_NUMBER.fullmatch(raw))
        case None:
            is_plain = raw in ("", "~", *_NULL)
        case list() | dict():
            is_plain = raw[:1] in ("[", "{")
        case _:
            is_plain = value == raw
    if not is_plain:
        raise UserError(
            f"--params: {key}={raw} would be read as {value!r}. If that is meant, write {key}={_spelled(key, value)}."
            f"{as_text}"
        )
    return value


def _yaml(raw: str) -> Any:
    """Return what Kedro reads: YAML 1.1, with numbers such as 1e-3."""
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))["value"]  # type: ignore[call-overload, index]


def _is_yaml(raw: str) -> bool:
    try:
        _yaml(raw)
    except _NOT_YAML:
        return False
    return True


def _declared(key: str) -> Any:
    """Return the type that the models declare for a parameter; None if they leave it open."""
    first = key.partition(".")[0]
    kind: Any = Globals if first in Globals.model_fields else Parameters
    for part in key.split("."):
        inner = []
        for leaf in _leaves(kind):
            if isinstance(leaf, type) and issubclass(leaf, BaseModel) and part in leaf.model_fields:
                inner.append(leaf.model_fields[part].annotation)
            elif get_origin(leaf) is dict:
                inner.append(get_args(leaf)[1])
        if not inner:
            return None
        kind = Union[tuple(inner)]  # noqa: UP007 - the members are known at run time only
    return kind


def _is_text(key: str) -> bool:
    """Tell whether a parameter is declared as text, perhaps besides other types."""
    leaves = _leaves(_declared(key))
    return str in leaves or {get_origin(leaf) for leaf in leaves} == {Literal}


def _leaves(kind: Any) -> list[Any]:
    """Return the alternatives of a type, without annotations."""
    if get_origin(kind) is Annotated:
        return _leaves(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [leaf for part in get_args(kind) for leaf in _leaves(part)]
    return [] if kind in (None, Any) else [kind]


def _spelled(key: str, value: Any) -> str:
    """Return a value as it is typed: without quotes if it is then read as the same value."""
    if value is None:
        return ""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    if not isinstance(value, str):
        return _json(value)
    try:
        is_plain = list(_items(f"{key}={value}")) == [(key, value)] and _value(key, value) == value
    except UserError:
        is_plain = False
    return value if is_plain else _quoted(value)


def _quoted(text: str) -> str:
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return _json(text)


def _json(value: Any) -> str:
    """Return a value as JSON that is YAML too: characters that YAML does not allow are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(
        "[\x7f-\uffff]", lambda found: found[0] if found[0].isprintable() else f"\\u{ord(found[0]):04x}", text
    )


def _command(key: str, spelled: str) -> str:
    return f"--params {_in_shell(f'{key}={spelled}')}"


def _in_shell(text: str) -> str:
    """Return a text quoted for a shell: single quotes within it stay legible where that is possible."""
    return f'"{text}"' if "'" in text and not re.search(r'["$`\\!]', text) else shlex.quote(text)
