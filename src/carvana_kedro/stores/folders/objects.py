"""A folder in an object store, such as Amazon S3."""

import hashlib
import importlib
import logging
import mimetypes
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.utils import glob_translate

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path, remove_partial_files, temporary_path
from carvana_kedro.stores.digests import state_of
from carvana_kedro.stores.folders.base import Stat
from carvana_kedro.stores.folders.object_faults import asking, is_denied
from carvana_kedro.stores.folders.object_locks import locked_object

logger = logging.getLogger(__name__)

# The package of each kind of address, which is also the name of its extra. `memory` is for tests.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "memory": "fsspec"}
# What each calls the kind of a content, which decides whether a browser shows it.
_KINDS = {"s3": "ContentType", "gs": "content_type"}
# Otherwise each asks for the size first, to read parts at the same time.
_WHOLE: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "gs": {"concurrency": 1}}

_found_buckets: set[str] = set()


class _ReplacedError(Exception):
    """An object was replaced while it was read."""


@dataclass(frozen=True)
class ObjectFolder:
    """Objects below an address: see `Folder`. Nothing is asked at construction, and it can be pickled.

    Attributes:
        root: Address without a slash at its end, such as `s3://bucket/data`.
        scratch: Folder on a disk for temporary files and copies of objects.
        options: Arguments of fsspec's file system. They may hold secrets, so `repr` leaves them out.
    """

    threads: ClassVar[int | None] = 16

    root: str
    scratch: Path
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @classmethod
    def open(
        cls, address: str, *, scratch: str | Path | None, credentials: Mapping[str, Any]
    ) -> "ObjectFolder":
        """Return the folder at an address: see `open_folder`."""
        protocol, _, path = address.partition("://")
        if protocol not in _PACKAGES or not path.strip("/"):
            raise UserError(
                f"{address} is not an address of a folder. Write s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, or a path."
            )
        try:
            importlib.import_module(_PACKAGES[protocol])
        except ImportError as error:
            raise UserError(
                f'{address} needs the package {_PACKAGES[protocol]}: pip install "carvana-kedro[{protocol}]"'
            ) from error
        return cls(
            f"{protocol}://{path.strip('/')}", Path(scratch or _system_scratch()).absolute(), credentials
        )

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """See `Folder.write`. The object is uploaded after the block: an error in it leaves nothing in the store."""
        with temporary_path(self._parts) as part:
            yield part
            with self._asking(name, "written"):
                self._files.put_file(str(part), self._path(name), **self._kind(name))

    def put(self, name: str, content: bytes) -> str:
        """See `Folder.put`. It is one request, up to 50 or 100 MB."""
        with self._asking(name, "written"):
            answer = self._files.pipe_file(self._path(name), content, **self._kind(name))
        if isinstance(answer, Mapping) and _version(answer):
            return _version(answer)
        found = self.stat(name)
        return found.version if found else ""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one. Return whether it was written. Of several processes, one writes."""
        try:
            with self._asking(name, "written"):
                self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """See `Folder.read`. It is one request, and so never of two versions."""
        with self._asking(name, "read"):
            content: bytes = self._files.cat_file(self._path(name), **_WHOLE.get(self._protocol, {}))
        return content

    def local(self, name: str, known: Stat | None = None) -> Path:
        """Return the path of a copy on the disk. It is downloaded if there is none of the known or present version."""
        copies = self._copies(name)
        while True:
            found = known or self.stat(name)
            if found is None:
                raise FileNotFoundError(self.address(name))
            copy = copies / _hashed(found.version) / Path(name).name
            if copy.exists():
                return copy
            with suppress(_ReplacedError), atomic_path(copy) as part:
                with self._asking(name, "read"):
                    self._files.get_file(self._path(name), str(part))
                now = self.stat(name)
                if now is None or now.version != found.version:  # the copy may be of either
                    raise _ReplacedError
            if copy.exists():
                break
            if known:
                raise UserError(f"{self.address(name)} changed while it was read. Run again.")
        with suppress(FileNotFoundError):  # another process has removed the object
            for earlier in copies.iterdir():
                if earlier != copy.parent:
                    shutil.rmtree(earlier, ignore_errors=True)
        return copy

    def stat(self, name: str) -> Stat | None:
        """See `Folder.stat`."""
        try:
            with self._asking(name, "read"):
                found = self._files.info(self._path(name))
        except FileNotFoundError:
            return None
        return None if found["type"] == "directory" else _stat(found)

    def list(self, pattern: str) -> dict[str, Stat]:
        """See `Folder.list`. What the pattern begins with limits the request."""
        folder, _, begin = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")
        with suppress(FileNotFoundError), self._asking(folder, "read"):
            found = self._files.find(self._path(folder).rstrip("/"), prefix=begin, detail=True)
            matches = re.compile(glob_translate(pattern)).match
            below = len(self._files._strip_protocol(self.root)) + 1
            names = ((path[below:], info) for path, info in found.items() if not path.endswith("/"))
            return dict(sorted((name, _stat(info)) for name, info in names if matches(name)))
        return {}

    def rename(self, name: str, to: str) -> None:
        """See `Folder.rename`. A killed process may leave both."""
        with self._asking(name, "renamed"):
            self._files.cp_file(self._path(name), self._path(to))
            self._files.rm_file(self._path(name))
        shutil.rmtree(self._copies(name), ignore_errors=True)

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        with suppress(FileNotFoundError), self._asking(name, "removed"):
            self._files.rm_file(self._path(name))
        shutil.rmtree(self._copies(name), ignore_errors=True)

    def sweep(self) -> None:
        """Remove the temporary files of killed processes. The store itself holds whole objects only."""
        remove_partial_files(self._parts)

    @contextmanager
    def directory(self, name: str = "") -> Iterator[Path]:
        """Yield a folder below `scratch`, which stays there.

        After the block, the files that it has written are uploaded, and those that the store does not have: a process
        that was killed has not uploaded any. An earlier file never replaces one of another machine.
        """
        folder = self.folder(name) if name else self
        path = self.scratch / "working" / folder.root.partition("://")[2]
        path.mkdir(parents=True, exist_ok=True)
        before = _states(path)
        try:
            yield path
        except BaseException:
            try:
                folder._upload(path, before)
            except UserError as fault:  # the first error says what has happened
                logger.warning("%s", fault)
            raise
        folder._upload(path, before)

    def locked(self, name: str = "") -> AbstractContextManager[None]:
        """See `Folder.locked`, and `locked_object`."""
        folder, _, last = (f"{self.root}/{name}" if name else self.root).rpartition("/")
        if folder.endswith("/"):  # the bucket itself
            return locked_object(self, "", [self.scratch, _system_scratch()])
        return locked_object(replace(self, root=folder), last, [self.scratch, _system_scratch()])

    def folder(self, name: str) -> "ObjectFolder":
        """See `Folder.folder`."""
        return replace(self, root=self.address(name))

    def address(self, name: str) -> str:
        """See `Folder.address`."""
        return f"{self.root}/{name}"

    def __str__(self) -> str:
        """Return the address."""
        return self.root

    @property
    def _files(self) -> Any:
        """The file system. fsspec keeps one for each process."""
        kind = fsspec.get_filesystem_class(self._protocol)
        if self._protocol == "gs":
            # Its subclass for zonal buckets first asks for the kind of the bucket by gRPC: for a minute, again and
            # again, if the server does not answer.
            kind = importlib.import_module("gcsfs.core").GCSFileSystem
        # Other machines write too, so that listings must not be remembered.
        return kind(use_listings_cache=False, **self.options)

    @property
    def _protocol(self) -> str:
        return self.root.partition("://")[0]

    @property
    def _parts(self) -> Path:
        return self.scratch / "parts"

    def _copies(self, name: str) -> Path:
        """Return the folder on the disk for copies of an object."""
        return self.scratch / "copies" / _hashed(self.address(name))

    def _kind(self, name: str) -> dict[str, str]:
        """Return the argument of an upload that tells the kind of the content, as far as the name does."""
        kind, packed = mimetypes.guess_type(name)
        return {_KINDS[self._protocol]: kind} if kind and not packed and self._protocol in _KINDS else {}

    def _path(self, name: str) -> str:
        """Return the path in the file system."""
        return self.address(name).partition("://")[2]

    def _upload(self, path: Path, before: Mapping[str, str]) -> None:
        """Upload the files of a folder on the disk that have changed since `before`, or are not in the store."""
        after = _states(path)
        there = self.list("**") if after else {}
        for name, state in after.items():
            if state != before.get(name) or name not in there:
                with self._asking(name, "written"):
                    self._files.put_file(str(path / name), self._path(name), **self._kind(name))

    @contextmanager
    def _asking(self, name: str, what: str) -> Iterator[None]:
        """Turn errors of the store into errors that name the address. A missing file stays a FileNotFoundError."""
        address = self.address(name).rstrip("/")
        try:
            with asking(address, what, self.options):
                yield
        except FileNotFoundError as error:
            bucket = self._path("").partition("/")[0]
            with asking(address, what, self.options):
                if bucket not in _found_buckets and not self._has(bucket):
                    raise UserError(
                        f"{address} cannot be {what}: the bucket {self._protocol}://{bucket} does not exist. Create "
                        "it, or correct the address."
                    ) from error
            _found_buckets.add(bucket)
            raise

    def _has(self, bucket: str) -> bool:
        if self.root.startswith("memory:"):
            return True
        try:
            try:
                self._files.info(bucket)
            except FileNotFoundError:
                self._files.ls(
                    bucket
                )  # in Google's store, who may only use objects is told that there is no bucket
        except FileNotFoundError:
            return False
        except Exception as error:
            if not is_denied(error):  # it may be allowed to use objects, but not to look at the bucket
                raise
        return True


def _states(path: Path) -> dict[str, str]:
    """Return the states of all files of a folder on the disk, by name."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): state_of(file.stat()) for file in files}


def _stat(info: Mapping[str, Any]) -> Stat:
    modified = _modified(info)
    return Stat(info["size"], modified, _version(info) or f"{info['size']} {modified}")


def _version(info: Mapping[str, Any]) -> str:
    """Return what a store calls the content: the ETag of S3, the generation of Google Cloud Storage."""
    return str(info.get("ETag") or info.get("generation") or "").strip('"')


def _modified(info: Mapping[str, Any]) -> float:
    found = next(filter(None, (info.get(key) for key in ("LastModified", "mtime", "created"))), 0.0)
    return found.timestamp() if isinstance(found, datetime) else float(found)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _system_scratch() -> Path:
    """Return the folder that all processes of this machine and user share."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"carvana-kedro{user}"
