"""The photograph in the body of a request, in memory: nothing is written to the disk."""

import asyncio
import io
import re
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from carvana_kedro.serve.limits import Limits, RefusedError

_MOST_PARTS = 10
_MOST_HEADER = 8192  # bytes of the header of a part: reading longer ones takes seconds
_HEADER_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Upload(NamedTuple):
    """A photograph as it was sent.

    Attributes:
        name: The name of the file; empty if the body is the photograph itself.
        content: The bytes of the file.
    """

    name: str
    content: bytes


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Read the photograph: the body itself, or the only file of a form (`multipart/form-data`).

    Raises:
        RefusedError: The body is too large, too slow, incomplete or empty, or the form has not exactly one file.
    """
    try:
        async with asyncio.timeout(limits.upload_seconds):
            body = await _read_body(request, limits.upload_bytes)
    except TimeoutError:
        raise RefusedError(
            408, f"The upload was not complete after {limits.upload_seconds:g} seconds."
        ) from None
    except ClientDisconnect:
        raise RefusedError(400, "The client closed the connection.") from None
    kind, options = parse_options_header(request.headers.get("content-type"))
    upload = _only_file(body, options) if kind == "multipart/form-data" else Upload("", body)
    if not upload.content:
        raise RefusedError(
            400, "The request has no photograph: send one as the body, or as the file of a form."
        )
    return upload


async def _read_body(request: Request, most: int) -> bytes:
    too_large = RefusedError(413, f"The upload is larger than {most / 1e6:g} MB, the limit of this server.")
    declared = request.headers.get("content-length", "0")
    if int(declared) > most:  # the server itself refuses text that is not a number
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)


def _in_memory(*_: Any, **__: Any) -> io.BytesIO:
    return io.BytesIO()


def _only_file(body: bytes, options: dict[str, str]) -> Upload:
    try:
        boundary = options["boundary"].encode()
        _check_headers(body, boundary)
        # In a single step: the time of the parser grows with the square of the number of steps.
        parser = MultiPartParser(_in_memory, buffer_size=len(body) + 1, max_form_parts=_MOST_PARTS)
        _, files = parser.parse(io.BytesIO(body), boundary, len(body))
    except RefusedError:
        raise
    except Exception as error:  # the parser raises several kinds for damaged forms
        raise RefusedError(400, "The form cannot be read: it is damaged, or has too many parts.") from error
    found = [file for _, file in files.items(multi=True)]
    if len(found) != 1:
        raise RefusedError(
            400, f"The form has {len(found)} files instead of one: send a request per photograph."
        )
    return Upload(found[0].filename or "", found[0].stream.read())


def _check_headers(body: bytes, boundary: bytes) -> None:
    for part in body.split(b"--" + boundary, _MOST_PARTS + 1)[1:]:
        if len(part) > _MOST_HEADER and not _HEADER_END.search(part, 0, _MOST_HEADER):
            raise RefusedError(400, f"The header of a part of the form is larger than {_MOST_HEADER} bytes.")
