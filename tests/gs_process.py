"""A stand-in for Google Cloud Storage: gcp-storage-emulator, and what it lacks. `standin_stores.py` starts it.

Run with: python tests/gs_process.py. It prints its address and its requests.
"""

import json
import logging
import re
import sys
from base64 import b64encode
from functools import partial
from http.server import HTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
from google.auth.jwt import decode


class TakenError(Exception):
    """There is an object of that name."""


class Unoccupied:
    """The storage for a request that only creates an object."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def create_file(self, bucket: str, name: str, *content: Any) -> None:
        if name in self._storage.objects.get(bucket, {}):
            raise TakenError
        self._storage.create_file(bucket, name, *content)


class Handler(RequestHandler):
    """Adds accounts, conditions, and contents that end with a carriage return.

    The account `owner` has all rights, and `user` those to objects, but not to the bucket. Others have none.
    """

    def parse_request(self) -> bool:
        """Refuse a request without the right, as Google does."""
        if not super().parse_request():
            return False
        account = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path in ("/", "/token") or "/public/" in self.path or account == "owner":
            return True
        if account == "user" and not re.fullmatch("/storage/v1/b/[^/]+", self.path):
            return True
        self._body()
        if account:
            self._answer(
                403, {"error": {"code": 403, "message": f"{account} does not have access to the object"}}
            )
        else:
            self._answer(401, {"error": {"code": 401, "message": "Anonymous caller does not have access"}})
        return False

    def do_POST(self) -> None:
        """Give a token, or write an object."""
        if self.path == "/token":
            # Its signature is not checked: who may do what is known by the name.
            (assertion,) = parse_qs(self._body().decode())["assertion"]
            account = decode(assertion, verify=False)["iss"].partition("@")[0]
            if account == "expired":
                self._answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
            else:
                self._answer(200, {"access_token": account, "expires_in": 3600, "token_type": "Bearer"})
            return
        if self.headers.get("Content-Type", "").startswith("multipart/related"):
            self._encode_content()
        # One request after the other is served, so that nothing happens between the question and the answer.
        if parse_qs(urlsplit(self.path).query).get("ifGenerationMatch") == ["0"]:
            self.storage = Unoccupied(self.storage)
        try:
            super().do_POST()
        except TakenError:
            self._answer(412, {"error": {"code": 412, "message": "A pre-condition did not hold."}})

    def _encode_content(self) -> None:
        """Encode the content of an upload: the emulator reads it as an email, which loses its last line break."""
        boundary = re.escape(self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode())
        parts = rb"(--%s\n.*?\n--%s\n)(.*?\n\n)(.*)(\n--%s--)" % (boundary, boundary, boundary)
        found = re.fullmatch(parts, self._body(), re.DOTALL)
        assert found
        first, head, content, end = found.groups()
        body = first + b"Content-Transfer-Encoding: base64\n" + head + b64encode(content) + end
        self.headers.replace_header("Content-Length", str(len(body)))
        self.rfile = BytesIO(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


class Server(HTTPServer):
    """Lets more requests wait than the five of `HTTPServer`."""

    request_queue_size = 64


if __name__ == "__main__":
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    with Server(("127.0.0.1", 0), partial(Handler, Storage(use_memory_fs=True))) as server:
        logging.info("http://127.0.0.1:%d", server.server_port)
        server.serve_forever()
