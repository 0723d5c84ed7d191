"""The HTTP server: uvicorn, with limits on the time that clients may take."""

import asyncio
import errno
import socket
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from carvana_kedro.errors import UserError, shown
from carvana_kedro.serve.guard import Guard
from carvana_kedro.serve.limits import Limits
from carvana_kedro.serve.turns import Turns

_CONNECTIONS = 100
_STOP_SECONDS = 30


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Address or name of this machine.
        port: 0 chooses a free one.

    Raises:
        UserError: The host is not this machine, or the port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except UnicodeError as error:
        raise UserError(f"{shown(host)} is not the name of a host.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"Port {port} of {host} is in use. Choose another one: --port {port + 1}"
            ) from error
        raise UserError(f"Cannot listen on port {port} of {host}: {error.strerror}.") from error


def serve(app: Guard, turns: Turns, limits: Limits, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C. The work in progress is then finished; waiting requests are refused."""
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(_Protocol, limits.upload_seconds)),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    _Server(config, turns).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, turns: Turns) -> None:
        super().__init__(config)
        self._turns = turns

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._turns.stopping = True
        super().handle_exit(sig, frame)


class _Protocol(H11Protocol):
    """A connection that is closed if the client does not complete the header of a request, or the answer fails."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self.app = partial(self._answer, self.app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception:
            self.transport.abort()  # uvicorn would wait until the client has read what is sent
            raise

    def _watch(self) -> None:
        if self._is_busy():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._close_if_idle)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_if_idle(self) -> None:
        self._timer = None
        if not self._is_busy():
            self.transport.abort()


def address_of(listener: socket.socket) -> str:
    """Return the URL of a server that listens."""
    host, port, *_ = (str(part) for part in _name(listener))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _name(listener: socket.socket) -> tuple[Any, ...]:
    name: tuple[Any, ...] = listener.getsockname()
    return name
