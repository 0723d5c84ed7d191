"""Downloads that can be resumed after a failure or a kill."""

import hashlib
import json
import os
from pathlib import Path

import requests
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.kaggle.connection import received
from carvana_kedro.stores.machine import format_size

_MAX_RESTARTS = 5


class Download:
    """A partial download and the version of the file that it belongs to.

    `<target>.part` holds the bytes, and `<target>.part.json` the size and version of the file. Another version is
    fetched from the beginning.

    Args:
        target: path of the complete file.
        window: seconds over which the speed of the server is measured.

    Attributes:
        have: number of bytes on the disk.
        complete: whether all bytes are on the disk.
    """

    def __init__(self, target: Path, window: float = 60.0) -> None:
        self._target = target
        self._window = window
        self._restarts = 0
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
            pass  # start from the beginning
        self.complete = self._size is not None and self.have == self._size

    def describe(self) -> str:
        """Return the size of the existing part, for log messages. "" if there is none."""
        if not self.have:
            return ""
        return f", resuming after {format_size(self.have)} of {format_size(self._size or 0)}"

    def headers(self) -> dict[str, str]:
        """Return the request headers for the missing rest. If the file has changed, they request all of it."""
        plain = {"Accept-Encoding": "identity"}
        if not self.have or not self._version:
            return plain
        return plain | {"Range": f"bytes={self.have}-", "If-Range": self._version}

    def receive(self, response: requests.Response, listed: int) -> None:
        """Append the bytes of the response, or restart if the response begins at the beginning.

        Args:
            response: response to a request with the `headers`.
            listed: size of the file in Kaggle's list, in bytes.

        Raises:
            requests.RequestException: the connection broke or is too slow.
            UserError: the server sends more bytes than it lists, or begins again and again.
        """
        if response.status_code == requests.codes.partial_content:
            span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            # A server that ignores If-Range may send the rest of another version.
            tag = response.headers.get("ETag", "")
            other = tag.startswith('"') and tag != self._version
            if other or int(span.partition("-")[0]) != self.have or total != str(self._size):
                self.discard()
                raise requests.ConnectionError("the server sent a different part than requested")
        else:
            self._begin(response, listed)
        if self._size is None or self._size > listed or not self._append(response, self._size):
            self.discard()
            raise UserError(
                f"The server of Kaggle sends more bytes for {self._target.name} than Kaggle lists "
                f"({format_size(listed)}). They were removed. Run again later, or put the file from another source "
                f"into {self._target.parent}."
            )
        if self.have != self._size:
            raise requests.ConnectionError(f"the connection ended after {self.have} of {self._size} bytes")
        self.complete = True

    def _append(self, response: requests.Response, limit: int) -> bool:
        """Append the bytes of the response, and return whether they end within the limit."""
        with (
            self._part.open("ab") as part,
            tqdm(
                desc=self._target.name, total=self._size, initial=self.have, unit="B", unit_scale=True,
                leave=False, disable=None,
            ) as bar,
        ):  # fmt: skip
            for chunk in received(response, self._window):
                if self.have + len(chunk) > limit:
                    return False
                part.write(chunk)
                part.flush()  # a killed process loses at most one chunk
                self.have += len(chunk)
                bar.update(len(chunk))
        return True

    def finish(self) -> None:
        """Flush the file to the disk, write its manifest, and rename it to the target."""
        with self._part.open("rb+") as part:  # Windows flushes only files that are open for writing
            os.fsync(part.fileno())
            digest = hashlib.file_digest(part, "sha256").hexdigest()
        with atomic_path(_manifest(self._target)) as path:
            path.write_text(json.dumps({"bytes": self.have, "sha256": digest, "version": self._version}))
        os.replace(self._part, self._target)
        self._marker.unlink(missing_ok=True)

    def _begin(self, response: requests.Response, listed: int) -> None:
        self.discard()
        if self._restarts > _MAX_RESTARTS:
            raise UserError(
                f"The server of Kaggle sent {self._target.name} from the beginning {self._restarts} times, instead of "
                f"its rest. Run again later, or put the file from another source into {self._target.parent}."
            )
        length = response.headers.get("Content-Length")
        self._size = int(length) if length else listed
        tag = response.headers.get("ETag", "")
        # A weak tag may not be used in If-Range (RFC 9110, 13.1.5).
        self._version = response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
        with atomic_path(self._marker) as path:
            path.write_text(json.dumps({"size": self._size, "version": self._version}))

    def discard(self) -> None:
        """Remove the partial download."""
        self._restarts += bool(self.have)
        self._marker.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self.have = 0


def fetched_digest(archive: Path) -> str | None:
    """Return the SHA-256, in hexadecimal, of a fetched file. None if the file was not fetched."""
    try:
        return str(json.loads(_manifest(archive).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def delete_fetched(archive: Path) -> None:
    """Delete a fetched file. The manifest goes first: a file without a manifest belongs to the user."""
    _manifest(archive).unlink(missing_ok=True)
    archive.unlink(missing_ok=True)


def _manifest(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")
