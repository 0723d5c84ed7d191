"""A server that a test has started, and how clients talk to it."""

import json
import socket
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Served:
    """A process of `carvana-kedro serve`."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request. Underscores in the names of headers stand for hyphens."""
        connection = HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=60)

    def wait_for(self, **values: Any) -> None:
        """Wait until the health of the server has these values."""
        deadline = time.monotonic() + 60
        while not values.items() <= self.ask("GET", "/health").json.items():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def memory(self) -> int:
        """Return the megabytes that the process holds. It reads /proc."""
        with open(f"/proc/{self.process.pid}/status") as file:  # noqa: PTH123
            (line,) = (line for line in file if line.startswith("VmRSS"))
        return int(line.split()[1]) // 1000
