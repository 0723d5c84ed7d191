"""The exception for errors that the user can fix, and the escaping of text that comes from outside."""

import difflib
import re
from collections.abc import Iterable

# Control characters, line and paragraph separators, half surrogates, and marks that change the direction of the text:
# they could move the cursor, or make a name look like another one or like another line of the log.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """An error that the user can fix: a wrong parameter, a missing file, bad data.

    The message says which file or parameter is wrong, what is wrong with it and what to do. `kedro run` prints only
    the message, without a traceback. Control characters in it are escaped, except for line breaks.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shown_lines(message))


class StoreError(UserError):
    """An object store fails, or what it holds changes: this is no fault of a single image, which could be left out."""


def suggestion(name: object, known: Iterable[object]) -> str:
    """Return what a person who mistyped a name may have meant, for a message; empty if no name is close.

    >>> suggestion("unet512", ["unet_512", "sample"]), suggestion("best", ["unet_512"])
    ('Did you mean unet_512? ', '')
    """
    close = difflib.get_close_matches(str(name), map(str, known), n=1)
    return f"Did you mean {close[0]}? " if close else ""


def shown(text: str) -> str:
    r"""Return a text from outside, such as the name of a file, as it can be shown in one line.

    >>> print(shown("car\n\x1b[31m\u202egpj.exe"))
    car\n\x1b[31m\u202egpj.exe
    """
    return _NOT_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def shown_lines(text: str) -> str:
    r"""Return a text of several lines as it can be shown. Names in it should have passed `shown`.

    >>> print(shown_lines("one\ntwo\r\x08"))
    one
    two\r\x08
    """
    return "\n".join(shown(line) for line in text.split("\n"))
