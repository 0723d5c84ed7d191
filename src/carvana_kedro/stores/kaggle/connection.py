"""HTTP with bounds: a server that is silent, slow or endless ends in an error."""

import time
from collections.abc import Iterator
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from carvana_kedro.stores.machine import format_size

CHUNK = 1 << 15
"""Largest number of bytes per read."""
MIN_SPEED = 1000
"""Bytes per second. A slower transfer counts as broken, and its bytes do not count as progress."""
_MAX_ANSWER = 4 << 20  # bytes; answers of the API and errors are far shorter


def received(response: requests.Response, window: float, *, decode: bool = False) -> Iterator[bytes]:
    """Yield the body of a response as it arrives.

    Args:
        response: response whose body was not read yet.
        window: seconds over which the speed is measured.
        decode: whether to undo the Content-Encoding.

    Raises:
        requests.ConnectionError: the connection broke.
        requests.Timeout: fewer than `MIN_SPEED` bytes per second arrived within a window.
    """
    started, count = time.monotonic(), 0
    while chunk := _read(response, decode):
        yield chunk
        count += len(chunk)
        if (seconds := time.monotonic() - started) >= window:
            if count < MIN_SPEED * seconds:
                raise requests.Timeout(f"less than {format_size(MIN_SPEED)} per second arrived")
            started, count = time.monotonic(), 0


def _read(response: requests.Response, decode: bool) -> bytes:
    try:
        # What has arrived, without waiting for a whole chunk: a slow server would take hours to send one.
        data: bytes = response.raw.read1(CHUNK, decode_content=decode)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
    return data


def set_bounds(session: requests.Session, timeout: float) -> None:
    """Add a timeout to all requests of a session, and bounds to all answers that are not streamed."""
    for scheme in ("https://", "http://"):
        session.mount(scheme, _BoundedAdapter(timeout))


class _BoundedAdapter(HTTPAdapter):
    """Adds a timeout to every request, as Kaggle's client has none, and reads answers with bounds."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *arguments: Any, **options: Any
    ) -> requests.Response:
        options["timeout"] = options.get("timeout") or self._timeout
        response = super().send(request, stream, *arguments, **options)
        # requests reads the bodies of errors and redirects whole, even if they are streamed.
        if not stream or response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            setattr(response, "_content", self._answer(response))  # noqa: B010 - mypy does not know these
            setattr(response, "_content_consumed", True)  # noqa: B010
        return response

    def _answer(self, response: requests.Response) -> bytes:
        content = b""
        for chunk in received(response, self._timeout, decode=True):
            content += chunk
            if len(content) > _MAX_ANSWER:
                response.close()
                raise requests.ConnectionError(f"the answer is longer than {format_size(_MAX_ANSWER)}")
        return content
