"""A stand-in for Amazon S3: moto's server, in a process that listens on the loopback interface only.

`make s3` runs the tests that need it. The fixture `s3` of `conftest.py` starts it.
"""

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

MISSING = [name for name in ("moto", "s3fs") if find_spec(name) is None]
NEEDS_S3 = [
    pytest.mark.s3,
    pytest.mark.skipif(bool(MISSING), reason="needs s3fs and moto: run `make s3`"),
]
"""The marks of a test, or of a parameter, that uses the stand-in."""

SECRET = "a-secret-that-no-message-shows"


class StandInS3:
    """The server. `with` starts and ends it.

    Attributes:
        url: Its address.
        options: What `open_folder` takes as credentials.
    """

    url: str
    options: dict[str, Any]

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> "StandInS3":
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log
            )
        while (found := re.search(r"http://127\.0\.0\.1:[1-9]\d*", self._log.read_text())) is None:
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.1)
        self.url = found[0]
        # A name: an address of numbers would hide faults of looking it up.
        client = {"endpoint_url": self.url.replace("127.0.0.1", "localhost"), "region_name": "us-east-1"}
        self.options = {"key": "a-key-id-of-tests", "secret": SECRET, "client_kwargs": client}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)

    def bucket(self) -> str:
        """Create a bucket, and return its name."""
        name = f"bucket-{uuid4().hex[:8]}"
        urlopen(Request(f"{self.url}/{name}", method="PUT")).close()
        return name

    def check_keys(self, checks: bool) -> None:
        """Let the server refuse keys that it does not know, or take all again."""
        count = b"0" if checks else b"inf"
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(f"{self.url}/moto-api/reset-auth", count, headers, method="POST")).close()

    def requests(self) -> list[str]:
        """Return the requests so far, such as `PUT /bucket/name`."""
        return re.findall(r'"(?:\x1b\[\d+m)*([A-Z]+ /\S*) HTTP/', self._log.read_text())
