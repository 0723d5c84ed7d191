"""Stand-ins for object stores, each in a process that listens on the loopback interface only.

For Amazon S3 it is moto's server, and for Google Cloud Storage gcp-storage-emulator. `make stores` runs the tests that
need them. The fixtures `s3` and `gs` of `conftest.py` start them.
"""

import json
import re
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from carvana_kedro.errors import UserError


def _needs(mark: pytest.MarkDecorator, *packages: str) -> list[pytest.MarkDecorator]:
    missing = any(find_spec(name) is None for name in packages)
    reason = f"needs {' and '.join(packages)}: run `make stores`"
    return [mark, pytest.mark.skipif(missing, reason=reason)]


NEEDS_S3 = _needs(pytest.mark.s3, "s3fs", "moto")
NEEDS_GS = _needs(pytest.mark.gs, "gcsfs", "gcp_storage_emulator")
"""The marks of a test, or of a parameter, that uses a stand-in."""

SERVERS = [pytest.param("s3", marks=NEEDS_S3), pytest.param("gs", marks=NEEDS_GS)]
"""The names of the fixtures of all stand-ins, as parameters."""

SECRET = "a-secret-that-no-message-shows"


class StandInStore(ABC):
    """A server. `with` starts and ends it.

    Attributes:
        scheme: Of its addresses.
        url: Its address.
        options: What `open_folder` takes as credentials.
    """

    scheme: ClassVar[str]
    command: ClassVar[tuple[str, ...]]
    url: str
    options: dict[str, Any]

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> "StandInStore":
        with self._log.open("w") as log:
            self._process = subprocess.Popen([sys.executable, *self.command], stdout=log, stderr=log)
        while (found := re.search(r"http://127\.0\.0\.1:[1-9]\d*", self._log.read_text())) is None:
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.1)
        self.url = found[0]
        self.options = self._options()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)

    @abstractmethod
    def bucket(self) -> str:
        """Create a bucket, and return its name."""

    @abstractmethod
    def refusing(self) -> AbstractContextManager[dict[str, Any]]:
        """Yield options that the server refuses while the block runs."""

    @abstractmethod
    def unreachable(self) -> dict[str, Any]:
        """Return options with the address of no server."""

    def requests(self) -> list[str]:
        """Return the requests so far, such as `PUT /bucket/name`."""
        return re.findall(r'"(?:\x1b\[\d+m)*([A-Z]+ /\S*) HTTP/', self._log.read_text())

    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """Return what `open_folder` takes as credentials."""


class StandInS3(StandInStore):
    """moto's server."""

    scheme = "s3"
    command = ("-m", "moto.server", "-H", "127.0.0.1", "-p", "0")

    def bucket(self) -> str:
        name = f"bucket-{uuid4().hex[:8]}"
        urlopen(Request(f"{self.url}/{name}", method="PUT")).close()
        return name

    @contextmanager
    def refusing(self) -> Iterator[dict[str, Any]]:
        self._check_keys(b"0")
        try:
            yield self.options
        finally:
            self._check_keys(b"inf")

    def _check_keys(self, after: bytes) -> None:
        """Let the server refuse keys that it does not know, after some requests."""
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(f"{self.url}/moto-api/reset-auth", after, headers, method="POST")).close()

    def unreachable(self) -> dict[str, Any]:
        client = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}
        return self.options | {"client_kwargs": client, "config_kwargs": {"retries": {"max_attempts": 0}}}

    def _options(self) -> dict[str, Any]:
        # A name: an address of numbers would hide faults of looking it up.
        client = {"endpoint_url": self.url.replace("127.0.0.1", "localhost"), "region_name": "us-east-1"}
        return {"key": "a-key-id-of-tests", "secret": SECRET, "client_kwargs": client}


class StandInGS(StandInStore):
    """gcp-storage-emulator, with the accounts of `gs_process.Handler`."""

    scheme = "gs"
    command = (str(Path(__file__).with_name("gs_process.py")),)

    def bucket(self, name: str = "") -> str:
        name = name or f"bucket-{uuid4().hex[:8]}"
        headers = {"Content-Type": "application/json", "Authorization": "Bearer owner"}
        urlopen(Request(f"{self.url}/storage/v1/b", json.dumps({"name": name}).encode(), headers)).close()
        return name

    def options_of(self, account: str) -> dict[str, Any]:
        """Return the options with the key of a service account."""
        token = {
            "type": "service_account", "client_email": f"{account}@project.example.org",
            "private_key": self._key, "private_key_id": SECRET, "token_uri": f"{self.url}/token",
        }  # fmt: skip
        return {"token": token, "endpoint_url": self.url.replace("127.0.0.1", "localhost")}

    @contextmanager
    def refusing(self) -> Iterator[dict[str, Any]]:
        yield self.options_of("nobody")

    def unreachable(self) -> dict[str, Any]:
        return self.options | {"endpoint_url": "http://127.0.0.1:9"}

    def _options(self) -> dict[str, Any]:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self._key = key.private_bytes(*form).decode()
        return self.options_of("user")


def fault_of(action: Callable[[], object]) -> str:
    """Return the message of an action that fails. It is one line, without secrets."""
    with pytest.raises(UserError) as raised:
        action()
    message = str(raised.value)
    assert "\n" not in message and SECRET not in message
    return message


def do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gcsfs repeat requests at once: half a minute passes otherwise, which no option changes."""
    if find_spec("gcsfs"):
        monkeypatch.setattr("gcsfs.retry.min", lambda *waits: 0.0, raising=False)
