"""Faults of an object store, such as a wrong key or a lost connection, as errors of one line."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from carvana_kedro.errors import UserError

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})

_CREDENTIALS = (
    "Check the key, and what it may do. Put it under `storage` in conf/local/credentials.yml, or where the tools of "
    "your provider look for it."
)
_ENTRIES = (
    "Check the entries below `storage` in conf/local/credentials.yml: they are arguments of the file system."
)
_CONNECTION = "Check the connection to the store and its address, and run the same command again."


@contextmanager
def asking(address: str, what: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of the store inside the block into errors that name the address.

    Args:
        address: Of the object or folder.
        what: What is done to it, such as `read`.
        options: Of the file system. Their values do not appear in messages.

    Raises:
        UserError: Access is denied, or the store does not answer.
        FileNotFoundError: There is no such object, or no such bucket.
        FileExistsError: There is one, but must not be.
        OSError: The disk that receives a copy is full, or the like.
    """
    try:
        yield
    except (UserError, MemoryError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # each library of a store has its own
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        if "ConditionalRequestConflict" in str(
            error.__cause__
        ):  # two processes create one object at the same time
            raise FileExistsError(address) from error
        advice = _CREDENTIALS if is_denied(error) else _ENTRIES if _is_wrong(error) else _CONNECTION
        raise UserError(f"{address} cannot be {what}: {_reason(error, options)}. {advice}") from error


def is_denied(error: Exception) -> bool:
    """Return whether credentials are missing, wrong or without the right. Its libraries have many such errors."""
    return (
        isinstance(error, PermissionError)
        or "Credentials" in type(error).__name__
        # The rest is gcsfs. It takes the path of a key that does not exist for a token, and asks Google about it.
        or str(getattr(error, "code", "")) in ("401", "403")
        or str(error).startswith("Forbidden: ")
        or "tokeninfo?" in str(error)
    )


def _is_wrong(error: Exception) -> bool:
    """Return whether the file system does not know its arguments."""
    return isinstance(error, TypeError | ValueError | KeyError)


def _reason(error: Exception, options: Mapping[str, Any]) -> str:
    # gcsfs says in a second line who may not do what.
    text = ": ".join(str(error).strip().splitlines()[:2]).rstrip(".") or type(error).__name__
    for secret in _values(options):
        text = text.replace(secret, "***")
    return text


def _values(options: Any) -> Iterator[str]:
    """Yield the texts in nested options, except addresses."""
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _values(value)
    elif isinstance(options, str) and options and "://" not in options:
        yield options
