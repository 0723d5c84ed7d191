"""The checks of every request, without a network."""

import asyncio
from typing import Any

from starlette.responses import Response
from starlette.types import Message

from carvana_kedro.serve.guard import Guard
from carvana_kedro.serve.limits import Limits


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def test_a_large_answer_is_sent_in_chunks() -> None:
    content = bytes(range(256)) * 1000
    sent: list[dict[str, Any]] = []

    async def send(message: Message) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "path": "/", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(Response(content), Limits(), [])(scope, _receive, send))
    bodies = sent[1:]
    assert b"".join(message["body"] for message in bodies) == content
    assert max(len(message["body"]) for message in bodies) <= 1 << 16
    assert [message.get("more_body", False) for message in bodies] == [True, True, True, False]
