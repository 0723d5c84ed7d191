"""Files on their way over the line: what is there of them survives whatever happens."""

import hashlib
import json
import os
from pathlib import Path

import requests
from tqdm import tqdm

from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.machine import format_size

CHUNK = 1 << 15
"""Bytes; what has come of one that was not whole is lost when the line breaks, so they are small."""


class Download:
    """A file on its way: what is there of it, and of which version.

    The bytes lie in `<target>.part`, and `<target>.part.json` says which version of the file they belong to: another
    version is fetched from its beginning.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._part = target.with_name(f"{target.name}.part")
        self._marker = target.with_name(f"{target.name}.part.json")
        self._size: int | None = None
        self._version: str | None = None
        self.have = 0
        try:
            marker = json.loads(self._marker.read_text())
            self._size, self._version = marker["size"], marker["version"]
            self.have = self._part.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            pass  # then it begins anew
        self.complete = self._size is not None and self.have == self._size

    def spelled(self) -> str:
        """Return how much is there already, for a message."""
        if not self.have:
            return ""
        return f": {format_size(self.have)} of {format_size(self._size or 0)} are there already"

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest, and for the whole if the file has changed."""
        plain = {"Accept-Encoding": "identity"}
        if not self.have or not self._version:
            return plain
        return plain | {"Range": f"bytes={self.have}-", "If-Range": self._version}

    def receive(self, response: requests.Response) -> None:
        """Write the answer's bytes behind those that are there, or from the beginning if it begins there."""
        if response.status_code == requests.codes.partial_content:
            span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            # A server that does not heed If-Range may send the rest of another version.
            tag = response.headers.get("ETag", "")
            other = tag.startswith('"') and tag != self._version
            if other or int(span.partition("-")[0]) != self.have or total != str(self._size):
                self.forget()
                raise requests.ConnectionError("the server sent another part than the one asked for")
        else:
            self._begin(response)
        with (
            self._part.open("ab") as part,
            tqdm(
                desc=self._target.name, total=self._size, initial=self.have, unit="B", unit_scale=True,
                leave=False, disable=None,
            ) as bar,
        ):  # fmt: skip
            for chunk in response.iter_content(CHUNK):
                part.write(chunk)
                part.flush()  # a process that is killed loses no more than a chunk either
                self.have += len(chunk)
                bar.update(len(chunk))
        if self._size is not None and self.have != self._size:
            if self.have > self._size:
                self.forget()
            raise requests.ConnectionError(f"the connection ended after {self.have} of {self._size} bytes")
        self.complete = True

    def finish(self) -> None:
        """Give the file its name, once it is safe on the disk and its manifest lies beside it."""
        with self._part.open("rb+") as part:  # Windows flushes only files that are open for writing
            os.fsync(part.fileno())
            digest = hashlib.file_digest(part, "sha256").hexdigest()
        with atomic_path(_manifest(self._target)) as path:
            path.write_text(json.dumps({"bytes": self.have, "sha256": digest, "version": self._version}))
        os.replace(self._part, self._target)
        self._marker.unlink(missing_ok=True)

    def _begin(self, response: requests.Response) -> None:
        self.forget()
        length = response.headers.get("Content-Length")
        self._size = int(length) if length else None
        tag = response.headers.get("ETag", "")
        # A weak tag may not be used in If-Range (RFC 9110, 13.1.5).
        self._version = response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
        with atomic_path(self._marker) as path:
            path.write_text(json.dumps({"size": self._size, "version": self._version}))

    def forget(self) -> None:
        """Begin anew."""
        self._marker.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self.have = 0


def fetched_digest(archive: Path) -> str | None:
    """Return the SHA-256, in hexadecimal, of a file that `fetch` has fetched; None for one that it has not."""
    try:
        return str(json.loads(_manifest(archive).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def delete_fetched(archive: Path) -> None:
    """Delete a file that `fetch` has fetched. Its manifest goes first: what has none is the user's own."""
    _manifest(archive).unlink(missing_ok=True)
    archive.unlink(missing_ok=True)


def _manifest(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")
