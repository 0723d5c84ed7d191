"""The limits of the server, and the errors that it answers with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        upload_bytes: Of the body of a request.
        pixels: Of a photograph.
        requests: Photographs that are received, waiting, in progress or sent at a time.
        upload_seconds: Until the header of a request is complete, again until its body is, and that a client may pause
            while it reads the answer.
        seconds: Until the answer to a request is sent.
    """

    upload_bytes: int = 40_000_000
    pixels: int = 50_000_000
    requests: int = 16
    upload_seconds: float = 30
    seconds: float = 120


class RefusedError(Exception):
    """An answer that is an error.

    Attributes:
        status: HTTP status.
        retry_after: Seconds after which the same request may succeed; None: never.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
