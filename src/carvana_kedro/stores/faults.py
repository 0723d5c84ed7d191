"""Faults of the machine, such as a full disk, as errors of one line: the path, the reason and what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carvana_kedro.errors import UserError

_OTHER_DISK = "or use another disk (for the data of a run: --params data_root=PATH)"
_UNSUPPORTED = f"The file system does not support this. Use another one, {_OTHER_DISK}"
_NO_ACCESS = f"Change the permissions or the owner, {_OTHER_DISK}"
_OPEN_FILES = "Close other programs, or raise the limit: ulimit -n 4096"
_FAILED = "Check the disk, or the connection to it, and run the same command again."

_ADVICE = {
    errno.ENOSPC: f"Free some disk space, {_OTHER_DISK}",
    errno.EDQUOT: f"Remove other files of yours, {_OTHER_DISK}",
    errno.EFBIG: f"Raise the limit (ulimit -f unlimited), {_OTHER_DISK}",
    errno.EROFS: f"Mount the disk for writing, {_OTHER_DISK}",
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.ENAMETOOLONG: f"Shorten the name of the file or folder, {_OTHER_DISK}",
    errno.ENOTSUP: _UNSUPPORTED,
    errno.EOPNOTSUPP: _UNSUPPORTED,
    errno.ENOSYS: _UNSUPPORTED,
    errno.ENOLCK: _UNSUPPORTED,
    errno.EIO: _FAILED,
    errno.ENXIO: _FAILED,
    errno.ENODEV: _FAILED,
    errno.ESTALE: _FAILED,
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.EISDIR: "A folder is where a file should be. Move the folder away.",
    errno.ENOTEMPTY: "A folder is where a file should be. Move the folder away.",
    errno.ENOTDIR: "A file is where a folder should be. Move the file away.",
    errno.EEXIST: "A file is where a folder should be. Move the file away.",
    errno.ELOOP: "A symbolic link leads back to itself. Remove it.",
    errno.EBUSY: "Another program uses it. Close that program.",
    errno.ETXTBSY: "Another program uses it. Close that program.",
    errno.ENOENT: "It was moved or removed. Run the same command again.",
}

CREATE_AGAIN = "Remove it and run the same command again, which says how to create it."
"""What to do about a damaged output of an earlier run, for error messages."""


def explain(error: OSError) -> str | None:
    """Return a fault of the machine in one line: path, reason and advice. None if it is another kind of error."""
    if (advice := _ADVICE.get(error.errno or 0)) is None:
        return None
    where = f"{_text(error.filename)}: " if error.filename is not None else ""
    return f"{where}{error.strerror}. {advice}"


@contextmanager
def writing(path: Path | str, *temporary: Path) -> Iterator[None]:
    """Turn faults of the machine inside the block, where `path` is written, into errors that name `path`.

    Args:
        path: what the user knows the file as.
        temporary: other names of the file until it is complete.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        if (advice := _ADVICE.get(error.errno or 0)) is None:
            raise
        name = _text(error.filename)
        if name in ("", str(path), *map(str, temporary)):
            where = ""
        elif Path(name) in Path(path).parents:
            where = f"{name}: "
        else:  # another file, which the block reads
            raise
        raise UserError(f"{path} cannot be written: {where}{error.strerror}. {advice}") from error


@contextmanager
def reading(path: Path | str, advice: str = CREATE_AGAIN) -> Iterator[None]:
    """Turn all errors inside the block, where a library reads `path`, into errors that name `path`.

    Args:
        path: the file, or its address.
        advice: what to do if the file is damaged.

    Raises:
        UserError: the file cannot be read, or is damaged.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Run the pipeline that creates it.") from error
    except OSError as error:
        if error.errno is None:  # of a library: the content is wrong
            raise damaged(path, error, advice) from error
        known = _ADVICE.get(error.errno, _FAILED)
        raise UserError(f"{path} cannot be read: {error.strerror}. {known}") from error
    except Exception as error:  # libraries raise almost any exception for a malformed file
        raise damaged(path, error, advice) from error


def damaged(path: Path | str, reason: object, advice: str = CREATE_AGAIN) -> UserError:
    """Return the error about a file with the wrong content."""
    first_line = str(reason).strip().partition("\n")[0].rstrip(".") or type(reason).__name__
    return UserError(f"{path} is damaged: {first_line}. {advice}")


def _text(name: str | bytes | int | None) -> str:
    return "" if name is None else os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
