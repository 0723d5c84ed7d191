"""Networks, losses, optimizers and callbacks that live outside this package, named by a dotted path.

The same form serves all of them: `my_package.my_module.MyClass`, or a mapping with the path as `type` and the
arguments beside it, `{type: my_package.my_module.MyClass, depth: 3}`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from carvana_kedro.errors import UserError

SMP_PREFIX = "smp:"

Spec = str | Mapping[str, Any]
"""A name or a dotted path; or a mapping with it as `type`, and arguments."""


def split_spec(kind: str, spec: Spec) -> tuple[str, dict[str, Any]]:
    """Split a specification into its name or path, and its arguments.

    Args:
        kind: The word for it in messages: `callback`.
        spec: As it is in the parameters.

    Raises:
        UserError: It has no `type`.

    >>> split_spec("loss", {"type": "my_package.Focal", "gamma": 2})
    ('my_package.Focal', {'gamma': 2})
    """
    arguments = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name = arguments.pop("type", None)
    if not isinstance(name, str):
        raise UserError(f"The {kind} {spec!r} has no type. Add one, such as my_package.my_module.MyClass.")
    return name, arguments


def is_dotted_path(name: str) -> bool:
    """Tell whether a name is a dotted path, and not one of this package's own names.

    >>> is_dotted_path("my_package.MyNet"), is_dotted_path("unet_small"), is_dotted_path("smp:Unet/tu-convnext.v2")
    (True, False, False)
    """
    return "." in name and ":" not in name


def is_extension(name: str) -> bool:
    """Tell whether a name stands for code outside this package: a dotted path, or a name such as `smp:Unet/resnet34`.

    >>> is_extension("my_package.MyNet"), is_extension("smp:Unet/resnet34"), is_extension("unet_small")
    (True, True, False)
    """
    return is_dotted_path(name) or name.startswith(SMP_PREFIX)


def import_object(kind: str, path: str) -> Any:
    """Import the object that a dotted path names.

    Call this only with a path from the run's own parameters, never with one from a file that may come from
    somebody else: importing runs code.

    Raises:
        UserError: The module or object does not exist, or importing the module fails.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        if not module or (
            isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        ):
            why = f"Python finds no module {module or path}. Put it into src/, for example"
        elif isinstance(error, AttributeError) and error.name == name and inspect.ismodule(error.obj):
            why = f"the module {module} does not define {name}"
        else:
            why = f"importing {module} raised {type(error).__name__}: {error}"
        raise UserError(f"The {kind} {path} cannot be loaded: {why}.") from error


def check_arguments(kind: str, path: str, function: Any, *positional: Any, **arguments: Any) -> None:
    """Check that a function or class takes these arguments, without calling it.

    Raises:
        UserError: It does not.
    """
    try:
        inspect.signature(function).bind(*positional, **arguments)
    except TypeError as error:
        raise UserError(
            f"The {kind} {path} cannot be called with {arguments or 'no arguments'}: {error}."
        ) from error
    except ValueError:  # some functions written in C have no signature
        return


def make_object(kind: str, spec: Spec, base: type) -> Any:
    """Import a class, and create an object of it with the arguments beside its path.

    Args:
        kind: The word for it in messages.
        spec: Dotted path, or mapping with `type` and arguments.
        base: What the class must be derived from. This is checked before anything is called, because the arguments
            may come from a model file.

    Raises:
        UserError: The path cannot be imported, it is no such class, or the class does not take the arguments.
    """
    path, arguments = split_spec(kind, spec)
    return create(kind, path, import_subclass(kind, path, base), **arguments)


def import_subclass(kind: str, path: str, base: type) -> type:
    """Import a class that is derived from `base`: see `import_object`.

    Raises:
        UserError: The path cannot be imported, or is no such class.
    """
    found = import_object(kind, path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(
            f"{path} is not a valid {kind}: it must be a class that is derived from "
            f"{base.__module__}.{base.__qualname__}."
        )
    return found


def create(kind: str, path: str, make: Callable[..., Any], *positional: Any, **arguments: Any) -> Any:
    """Call a class or function of the user's own.

    Raises:
        UserError: It does not take the arguments, or raises an error.
    """
    check_arguments(kind, path, make, *positional, **arguments)
    try:
        return make(*positional, **arguments)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(
            f"The {kind} {path} cannot be created with {arguments or 'no arguments'}: {type(error).__name__}: {error}."
        ) from error
