import ast
import importlib
import platform
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro import provenance
from carvana_kedro.errors import UserError
from carvana_kedro.provenance.code_digest import code_of, digest, place_digest, source_digest
from carvana_kedro.segmentation.model import Member, TrainedModel
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.predictions import PredictionShards, SubmissionFile, write_submission

# Covers the syntax of Python 3.11. Its digest was the same under 3.11, 3.12, 3.13 and 3.14.
SYNTAX = r'''
"""A module."""

from __future__ import annotations

import os.path as paths, sys
from . import sibling
from ..parent import *

LIMIT: int = 0x1_0
"""An attribute."""
NUMBERS = [1, 1.0, True, "1", b"1\x00", 2j, ..., None, 0.0, -0.0, 1e308, 1e400, 123456789012345678901234567890]
TEXTS = "a" "b", u"prefix", r"\d", "\N{GREEK SMALL LETTER ALPHA}\U0001fae8\udc80", """two
lines"""


@decorated(by="a", **{"call": 1})
class Net(Base, metaclass=Meta):
    """A class."""

    count: int
    name: str = "net"

    def __init__(self, first, /, second: float = 1.5, *rest: int, key, other=None, **more) -> None:
        """A method."""
        global COUNT
        self.first, *self.rest = first, *rest
        COUNT += 1

    async def read(self):
        def inner():
            nonlocal_value = 1

            def innermost():
                nonlocal nonlocal_value
                nonlocal_value @= 2

            yield from innermost

        async with self.open() as file, self.lock:
            async for line in file:
                await line
        return [part async for part in file if part if await part]


def describe(value, width, places):
    print(f"plain {value}", f"{value!r:>{width}.{places}f} {value!s} {value!a}", f"{value = } {{}}" "tail")
    print(f"{value:{width}}" f"", f"", f"{value:}", f"{f'{value:%Y-%m}'!r:^{width}}", rf"\d{value:d}")
    print(f"{value:a{width}b}c", f"{value:{width}s}")
    return lambda x, *y, z=1, **k: x if z else (yield)


def choose(value):
    match value:
        case 1 | -1.5 | "one" | b"one" | 1 + 2j:
            pass
        case None | True:
            ...
        case [first, *rest] if (size := len(rest)) > 1:
            return size
        case {"key": _, **others}:
            return {**others, "k": {1, 2}}
        case Net(name, count=0) as net:
            return net[1:2, ..., ::3]
        case paths.sep | (_):
            del value.attribute, value[0]


try:
    assert LIMIT < 3 <= 4 != 5 is not None not in (), "message"
except* (ValueError, OSError) as group:
    raise RuntimeError from group
else:
    pass
finally:
    with (open("a") as a, open("b")):
        print({k: v for k, v in a}, {x for x in a}, (x for x in a if not x))
try:
    while True:
        if a and b or not c:
            break
        elif a:
            continue
        else:
            ~a ^ b | c & d << e >> f // g % h ** i
    else:
        None
except ValueError:
    raise
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of this package."""
    return shutil.copytree(
        provenance.PACKAGE, tmp_path / "carvana_kedro", ignore=shutil.ignore_patterns("__pycache__")
    )


@pytest.fixture
def changes(package: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """`changes()` returns which fingerprints differ between the package and its copy."""

    def compare() -> list[str]:
        before = _fingerprints()
        monkeypatch.setattr(provenance, "PACKAGE", package)
        return [change.partition(":")[0] for change in provenance.differences(before, _fingerprints())]

    return compare


def _fingerprints() -> dict[str, str]:
    return {
        **_facts()["code"],
        "prediction": provenance.predicting_digest(),
        "decoding": provenance.decoding_digest(),
    }


def _facts(**changed: Any) -> dict[str, Any]:
    return provenance.run_facts(
        **{"parameters": {"seed": 1}, "image_ids": [["a"], ["b"]], "source": "x", **changed}
    )


def _replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_equal_facts_give_equal_runs_and_other_facts_give_other_runs() -> None:
    assert _facts() == _facts()
    others = [
        _facts(parameters={"seed": 2}),
        _facts(image_ids=[["a", "b"], []]),
        _facts(image_ids=[["b"], ["a"]]),
        _facts(source="y"),
        _facts(extensions=["math.sqrt"]),
    ]
    assert len({provenance.run_id(facts) for facts in [_facts(), *others]}) == 6


def test_comments_docstrings_and_formatting_change_nothing(
    package: Path, changes: Callable[[], list[str]]
) -> None:
    for path in package.rglob("*.py"):
        formatted = ast.unparse(ast.parse(path.read_text()))  # without comments, other quotes and line breaks
        path.write_bytes(f"# A comment.\n'A docstring.'\n{formatted}".replace("\n", "\r\n").encode())
    _replace(package / "segmentation/training/losses.py", '"""Compute the soft', '"""Compute a soft')
    assert changes() == []


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("stores/images/decoding.py", ["stores/images", "prediction", "decoding"]),
        ("segmentation/data/geometry.py", ["segmentation/data", "prediction", "decoding"]),
        ("segmentation/architectures/unet.py", ["segmentation/architectures", "prediction"]),
        ("segmentation/training/loop.py", ["segmentation/training"]),
        ("segmentation/hardware.py", ["segmentation/hardware.py", "prediction"]),
        ("segmentation/metrics/threshold_curve.py", ["segmentation/metrics/threshold_curve.py"]),
        ("segmentation/prediction/predictor.py", ["prediction"]),
        ("predicting/work.py", ["prediction"]),
        ("stores/run_lengths.py", ["prediction"]),
        ("segmentation/monitoring/progress.py", []),
        ("segmentation/metrics/mask_scores.py", []),
        ("pipelines/reporting/nodes.py", []),
    ],
)
def test_an_edit_changes_the_fingerprints_of_its_place(
    package: Path, changes: Callable[[], list[str]], module: str, expected: list[str]
) -> None:
    path = package / module
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert changes() == expected


def test_a_new_module_in_monitoring_changes_nothing(package: Path, changes: Callable[[], list[str]]) -> None:
    (package / "segmentation/monitoring/new.py").write_text("ADDED = 1\n")
    assert changes() == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("highest > 0.5", "highest > 0.25"),
        ("smooth: float = 1.0", "smooth: float = 0.0"),
        ("2 * overlap + smooth", "2 * (overlap + smooth)"),
    ],
    ids=["constant", "default", "expression"],
)
def test_an_edit_of_a_loss_changes_training(
    package: Path, changes: Callable[[], list[str]], before: str, after: str
) -> None:
    _replace(package / "segmentation/training/losses.py", before, after)
    assert changes() == ["segmentation/training"]


def test_a_renamed_module_changes_its_place(package: Path, changes: Callable[[], list[str]]) -> None:
    (package / "segmentation/training/losses.py").rename(package / "segmentation/training/loss.py")
    assert changes() == ["segmentation/training"]


def test_a_removed_place_is_an_error(package: Path, changes: Callable[[], list[str]]) -> None:
    (package / "segmentation/hardware.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"hardware\.py"):
        changes()


def test_a_folder_without_modules_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="folder"):
        place_digest(tmp_path, "folder")


def test_the_digest_is_the_same_in_every_python_version() -> None:
    assert source_digest(SYNTAX) == "8ea035d2f0e9"
    assert source_digest('"""Only a docstring."""') == source_digest("") == "a01f3b6b1f39"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 0x1  # comment"),
        ("x = 'a' 'b'", 'x = "ab"'),
        ("x = u'a'", "x = 'a'"),
        ("def f(): pass", "def f():\n    'Docstring.'"),
        ("def f():\n    pass", "def f():\n    'Docstring.'\n    pass"),
        ("def f():\n    return 1", "def f():\n    'Docstring.'\n    return 1"),
        ("class A: pass", "class A:\n    'Docstring.'"),
        ("class A:\n    x = 1\n    'Docstring.'", "class A:\n    x = 1"),
        ("async def f(): pass", "async def f():\n    'Docstring.'"),
    ],
)
def test_sources_with_equal_code_have_equal_digests(one: str, other: str) -> None:
    assert source_digest(one) == source_digest(other)


@pytest.mark.parametrize(
    "sources",
    [
        ["x = 1", "x = 1.0", "x = True", "x = '1'", "x = b'1'", "x = 1j", "x = None", "x = ...", "x"],
        ["x = 0.0", "x = -0.0", "x = 0"],
        ["x = 1e308", "x = 1.0000000000000002e308"],
        ["x = 'a', 'b'", "x = 'a' 'b'", "x = 'a, b'", "x = ['a', 'b']"],
        ["f(a, b)", "f(a, b=b)", "f(*a, b)", "f(a)(b)"],
        [
            "def f(a, /): pass",
            "def f(a): pass",
            "def f(*, a): pass",
            "def f(*a): pass",
            "async def f(a): pass",
        ],
        ["def f(*, a, b=None): pass", "def f(*, a=None, b): pass", "def f(*, a=None, b=None): pass"],
        ["{**a, 'b': c}", "{a: 'b', **c}", "{'b': c, **a}"],
        ["f'{a}b'", "f'{a:b}'", "f'{a!r}b'", "f'a{b}'", "f'{a}{b}'", "'{a}b'"],
        ["return_ = 1", "def f(): return", "def f(): return None", "def f(): return 1", "def f(): yield"],
        ["if a:\n    b\nelse:\n    c", "if a:\n    b\nc", "if a:\n    b\n    c"],
        ["from a import b", "from .a import b", "from a import b as c", "import a.b"],
        ["a - (b - c)", "a - b - c", "a + b - c"],
    ],
)
def test_sources_with_other_code_have_other_digests(sources: list[str]) -> None:
    assert len({source_digest(source) for source in sources}) == len(sources)


def test_deeply_nested_code_has_a_digest() -> None:
    assert source_digest(" + ".join(["x"] * 2000)) != source_digest(" + ".join(["x"] * 2001))


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """`user_code(name, source)` writes a module of the package `user_networks`, where Python finds it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, source: str) -> None:
        path = tmp_path / "user_networks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "user_networks"]:
        del sys.modules[name]


def test_an_edit_of_a_user_module_changes_its_digest_once_it_is_loaded(
    user_code: Callable[[str, str], None],
) -> None:
    path = "user_networks.nets.Net"

    def after(source: str) -> str:
        user_code("nets.py", source)
        importlib.reload(importlib.import_module("user_networks.nets"))
        return code_of(path)[path]

    first = after("class Net:\n    width = 1\n")
    assert after("class Net:  # a comment\n    'A docstring.'\n    width = 1\n") == first
    assert after("class Net:\n    width = 2\n") != first
    user_code("nets.py", "class Net:\n    width = 1\n")
    assert code_of(path)[path] != first
    assert after("class Net:\n    width = 1\n") == first


def test_an_edit_of_the_module_that_defines_a_user_class_changes_its_digest(
    user_code: Callable[[str, str], None],
) -> None:
    def digests(imports: str, width: int) -> dict[str, str]:
        user_code("__init__.py", imports)
        user_code("nets.py", f"class Net:\n    width = {width}\n")
        for name in ("user_networks.nets", "user_networks"):
            sys.modules.pop(name, None)
        return code_of("user_networks.Net")

    first = digests("from user_networks.nets import Net", 1)
    assert digests("from user_networks.nets import Net", 1) == first
    assert digests("from user_networks.nets import Net", 2) != first
    assert digests("from user_networks.nets import Net\nDEPTH = 5", 1) != first


def test_a_compiled_module_has_the_version_of_its_library() -> None:
    assert code_of("math.sqrt", "torch._C.Generator") == {
        "math.sqrt": digest(f"math Python {platform.python_version()}"),
        "torch._C.Generator": digest(f"torch._C torch {version('torch')}"),
    }


def test_a_module_without_source_and_version_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("made_in_memory")
    exec("class Net: pass", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(UserError, match="made_in_memory cannot be read"):
        code_of("made_in_memory.Net")


def test_a_network_of_segmentation_models_pytorch_has_the_version_of_that_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "segmentation_models_pytorch-0.5.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: segmentation_models_pytorch\nVersion: 0.5.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert code_of("smp:Unet") == {"smp:Unet": "segmentation_models_pytorch 0.5.1"}
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r'pip install "carvana-kedro\[smp\]"'):
        code_of("smp:Unet")


def test_extensions_are_part_of_a_run_and_of_a_prediction() -> None:
    path = "torch.optim.AdamW"
    assert "extensions" not in _facts()
    assert _facts(extensions=[path])["extensions"] == code_of(path)
    assert provenance.differences(_facts(), _facts(extensions=[path])) == [
        f"extensions: None -> {code_of(path)}"
    ]
    assert provenance.predicting_digest([path]) != provenance.predicting_digest()


@pytest.fixture
def models() -> tuple[TrainedModel, TrainedModel]:
    """Two models that differ in one weight."""
    one, other = (
        Member("unet_small", 1.0, (32, 48), 0.5, {"a": torch.tensor([value])}, run_id)
        for value, run_id in ((1.0, "first"), (2.0, "second"))
    )
    return TrainedModel((one,)), TrainedModel((other,))


def _predicted(model: TrainedModel, path: Path) -> tuple[dict[str, Any], SubmissionFile]:
    """Return the manifest and the submission of a prediction with a model."""
    shards = PredictionShards(DiskFolder(path.parent / "shards"))
    rows = shards.read([shards.write("key", 0, [("0123456789ab_01", "1 2")]).name])
    write_submission(*open_file(path), rows)
    facts = {"run_id": model.run_id, "model": model.digest(), "checkpoint": model.checkpoint}
    return {**facts, "rows_sha256": rows.sha256()}, SubmissionFile(*open_file(path))


def test_predictions_of_the_model_are_accepted(
    models: tuple[TrainedModel, TrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictions, submission = _predicted(models[0], tmp_path / "submit.csv.gz")
    assert provenance.check_predictions(predictions, submission, models[0]) is submission
    # The same model by another name, and a model that was removed.
    provenance.check_predictions(predictions, submission, replace(models[0], checkpoint="copy.pt"))
    provenance.check_predictions(predictions, submission, None)
    # Of an earlier version.
    del predictions["rows_sha256"], predictions["checkpoint"]
    provenance.check_predictions(predictions, submission, models[0])
    assert not caplog.text


def test_predictions_of_another_model_are_refused(
    models: tuple[TrainedModel, TrainedModel], tmp_path: Path
) -> None:
    first, second = models
    retrained = TrainedModel((replace(second.members[0], run_id="first"),))  # other weights, same run
    predictions, submission = _predicted(first, tmp_path / "submit.csv.gz")
    for model in (second, retrained, replace(second, checkpoint="b.pt"), TrainedModel.join(models)):
        with pytest.raises(UserError, match=f"predicted with: run first, weights {first.digest()}") as raised:
            provenance.check_predictions(predictions, submission, model)
        assert f"run {model.run_id}, weights {model.digest()}\nPredict again" in str(raised.value)


def test_predictions_of_a_checkpoint_belong_to_it(
    models: tuple[TrainedModel, TrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, chosen = models[0], replace(models[1], checkpoint="b.pt")
    predictions, submission = _predicted(chosen, tmp_path / "submit.csv.gz")
    provenance.check_predictions(predictions, submission, chosen)
    assert not caplog.text
    for model in (own, None):
        provenance.check_predictions(predictions, submission, model)
        assert "of another model than the recipe's: checkpoint=b.pt, run second" in caplog.text
        caplog.clear()
    with pytest.raises(
        UserError, match=r"with: checkpoint=b\.pt, run second.*\n.*now: checkpoint=a\.pt, run first"
    ):
        provenance.check_predictions(predictions, submission, replace(own, checkpoint="a.pt"))


@pytest.mark.parametrize("rows", [[], [("0123456789ab_01", "1 3")], [("0123456789ab_02", "1 2")]])
def test_a_submission_with_other_rows_is_refused(
    models: tuple[TrainedModel, TrainedModel], tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    predictions, submission = _predicted(models[0], tmp_path / "submit.csv.gz")
    write_submission(submission.folder, submission.name, rows)
    with pytest.raises(UserError, match="does not have the rows of the predictions beside it"):
        provenance.check_predictions(predictions, submission, models[0])
