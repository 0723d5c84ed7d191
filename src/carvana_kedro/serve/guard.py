"""What every request passes: whom the server answers, for how long, and with which headers."""

import asyncio
import ipaddress
import logging
from collections.abc import Collection, Iterator
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carvana_kedro.errors import UserError, shown
from carvana_kedro.serve.limits import Limits, RefusedError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16  # bytes of an answer
_DRAIN_SECONDS = 3.0  # for which the rest of a body is read and dropped after a refusal
_MESSAGES = {404: "There is no such page.", 405: "This page does not take this method."}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application around another: it answers refusals and faults as JSON."""

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Collection[str]) -> None:
        """Guard an application.

        Args:
            app: The application.
            limits: For `seconds`, and `upload_seconds` for each chunk of an answer.
            hosts: Names of this server, besides its addresses and `localhost`.
        """
        self._app = app
        self._limits = limits
        self._names = {host.lower() for host in hosts if not _is_local(host)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        complete = started = False

        async def receiving() -> Message:
            nonlocal complete
            message = await receive()
            complete = not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(_HEADERS)
            for part in _chunks(message):
                async with asyncio.timeout(self._limits.upload_seconds):
                    await send(part)  # this waits until the client has read most of the parts before

        try:
            async with asyncio.timeout(self._limits.seconds):
                self._check_names(Headers(scope=scope))
                # With a value for `app`, a router raises an HTTPException instead of answering with plain text.
                await self._app({**scope, "app": self._app}, receiving, sending)
                return
        except RefusedError as error:
            refusal = error
        except HTTPException as error:
            refusal = RefusedError(error.status_code, _MESSAGES.get(error.status_code, error.detail))
        except UserError as error:  # such as weights that are not finite
            refusal = RefusedError(500, str(error))
        except TimeoutError:
            refusal = RefusedError(
                503, f"The server did not answer within {self._limits.seconds:g} seconds.", 30
            )
        except Exception:
            logger.exception("%s failed", shown(scope["path"]))
            refusal = RefusedError(500, "The server failed: its log has the reason.")
        if started:
            raise refusal  # the server closes the connection, so that the client knows that the answer is cut
        await _answer(refusal, complete, receiving, sending)

    def _check_names(self, headers: Headers) -> None:
        """Refuse requests that a page of another site makes, also if the name of that site leads here (rebinding)."""
        host = headers.get("host", "").lower()
        name = _without_port(host)
        if not (name in self._names or _is_local(name)):
            raise RefusedError(
                421,
                f"This server does not answer for {shown(host)}. Start it with --allow-host to change that.",
            )
        origin = headers.get("origin")
        if origin is None:
            return
        scheme, _, site = origin.lower().partition("://")
        # A proxy in front of the server may replace the host.
        if scheme not in ("http", "https") or not (site == host or _without_port(site) in self._names):
            raise RefusedError(403, f"Pages of {shown(origin)} may not use this server.")


def _chunks(message: Message) -> Iterator[Message]:
    """Split a message with more than one chunk of the body of an answer."""
    body = message.get("body", b"")
    while len(body) > _CHUNK:
        yield {**message, "body": body[:_CHUNK], "more_body": True}
        body = body[_CHUNK:]
    yield {**message, "body": body}


def _is_local(name: str) -> bool:
    """Tell whether a host is an address or `localhost`: a page that was loaded from it is this server's own."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True


def _without_port(host: str) -> str:
    """Return the name of a `Host` header.

    >>> _without_port("localhost:8000"), _without_port("[::1]:8000")
    ('localhost', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


async def _answer(refusal: RefusedError, complete: bool, receive: Receive, send: Send) -> None:
    """Answer with an error. The rest of the body is dropped: many clients read no answer before they sent all."""
    headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
    if not complete:
        headers["connection"] = "close"
    response = JSONResponse({"error": str(refusal)}, refusal.status, headers)
    await send(
        {"type": "http.response.start", "status": refusal.status, "headers": list(response.raw_headers)}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while not complete:
                complete = not (await receive()).get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
