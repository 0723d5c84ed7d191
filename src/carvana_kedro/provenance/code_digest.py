"""Fingerprints of Python code that ignore comments, docstrings and formatting.

A fingerprint is a hash of the syntax tree. It does not depend on the Python version that computes it.
"""

import ast
import hashlib
import inspect
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import groupby
from pathlib import Path

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.extensions import import_object


def digest(*texts: str) -> str:
    """Return a short hash of texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def source_digest(source: str | bytes) -> str:
    """Return the fingerprint of a module's source.

    >>> source_digest("rate = 0.5  # per step") == source_digest("rate=.5")
    True
    >>> source_digest("rate = 0.5") == source_digest("rate = 0.6")
    False

    Raises:
        SyntaxError: this Python version cannot parse the source.
    """
    return digest(*_tokens(ast.parse(source)))


def place_digest(root: Path, place: str) -> str:
    """Return the fingerprint of one module, or of all modules in a folder and its subfolders with their names.

    Args:
        root: the folder that `place` and the names of the modules are relative to.
        place: `folder` or `folder/module.py`.

    Raises:
        FileNotFoundError: the place is missing or contains no modules.
    """
    path = root / place
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"No Python modules in {path}")
    return digest(
        *(f"{file.relative_to(root).as_posix()} {source_digest(file.read_bytes())}" for file in files)
    )


def code_of(*paths: str) -> dict[str, str]:
    """Return the fingerprints of classes and functions outside this package, by their paths.

    A fingerprint covers the module in the path and the module that defines the object, but not the modules that
    these import. A module without Python source is represented by the version of its library.

    Args:
        paths: `module.Name`, which is imported, or `smp:Name`, a network of segmentation_models_pytorch, which is
            represented by the version of that library.

    Raises:
        UserError: segmentation_models_pytorch is not installed, or a module has neither source nor a version.
    """
    return {path: _smp_version(path) if path.startswith("smp:") else _object_digest(path) for path in paths}


def _object_digest(path: str) -> str:
    named = import_object("object", path)
    module = path.rpartition(".")[0]
    # The object's own digest stays: an edit of the file counts once Python has loaded the module again.
    key = (path, id(named))
    if key not in _digests:
        modules = dict.fromkeys([module, getattr(named, "__module__", None) or module])
        _digests[key] = named, digest(*(f"{name} {_module_digest(name)}" for name in modules))
    return _digests[key][1]


_digests: dict[tuple[str, int], tuple[object, str]] = {}
"""Objects with their digests. An object that is kept here is alive, so no other one gets its id."""


def _module_digest(name: str) -> str:
    try:
        source = inspect.getsource(import_module(name))
    except (ImportError, OSError, TypeError):  # compiled or built in
        return _library_version(name)
    return source_digest(source)


def _library_version(module: str) -> str:
    """Return the name and version of the library that contains a module."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        return f"Python {platform.python_version()}"
    libraries = sorted(set(packages_distributions().get(package, [])))
    if not libraries:
        raise UserError(
            f"The source code of the module {module} cannot be read, so the run id cannot cover it. Move the code to "
            "a .py file where Python finds it, such as in src/."
        )
    return ", ".join(f"{library} {version(library)}" for library in libraries)


def _smp_version(path: str) -> str:
    try:
        return f"segmentation_models_pytorch {version('segmentation_models_pytorch')}"
    except PackageNotFoundError as error:
        raise UserError(
            f'{path} needs segmentation-models-pytorch: pip install "carvana-kedro[smp]"'
        ) from error


def _tokens(tree: ast.Module) -> Iterator[str]:
    """Yield the nodes of a syntax tree, parents first, each with the number of its children.

    `ast.dump` and `ast.unparse` cannot be used: their output differs between Python versions. The walk is iterative
    because generated code can be nested deeper than Python's recursion limit.
    """
    left: list[object] = [tree]
    while left:
        item = left.pop()
        if isinstance(item, ast.AST):
            children = [part for field in _fields(item) for part in field]
            yield f"{type(item).__name__} {len(children)}"
            left += reversed(children)
        elif isinstance(item, list):
            yield f"list {len(item)}"
            left += reversed(item)
        else:
            yield ascii(item)  # not `repr`: which characters it escapes depends on the Python version


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield the names and values of fields that are not empty: newer Python versions add empty ones."""
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.JoinedStr):
            value = list(_merged(value))
        elif isinstance(value, list):
            value = [item for item in value if not _does_nothing(item)]
        if value is not None and value != [] and name != "kind":  # kind: the prefix of u"text"
            yield name, value


def _merged(parts: Iterable[ast.expr]) -> Iterator[object]:
    """Yield the parts of an f-string with adjacent texts merged: some Python versions split them."""
    contents = (part.value if isinstance(part, ast.Constant) else part for part in parts)
    for is_text, group in groupby(contents, lambda content: isinstance(content, str)):
        if not is_text:
            yield from group
        elif text := "".join(map(str, group)):
            yield text


def _does_nothing(item: object) -> bool:
    """Return whether a statement is `pass` or only a constant, such as a docstring."""
    return isinstance(item, ast.Pass) or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
