"""A stand-in for Kaggle: real HTTP on localhost:7777, the address of KAGGLE_API_ENVIRONMENT=TEST in Kaggle's client.

It serves a competition's files from a folder, accepts submissions and scores them against `solution.csv.zip`. It can
simulate failures of the connection and the server. `python tests/standin_kaggle.py FOLDER` serves until it is stopped.
"""

import base64
import gzip
import json
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

COMPETITION = "carvana-image-masking-challenge"
USERNAME, KEY, TOKEN = "visitor", "0123456789abcdef-not-a-real-key", "KGAT_not-a-real-token"
PORT = 7777
_CHUNK = 1 << 16


@dataclass
class Fault:
    """The failure of one request: an error status, or a transfer that is cut or stalls after a number of bytes."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    cut_after: int | None = None
    silent_after: int | None = None


class StandInKaggle:
    """The server. Attributes may be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, bytes] = {}  # replaces the file in the folder
        self.faults: dict[str, list[Fault]] = defaultdict(list)  # by request or file name; each is used once
        self.bytes_per_second: float | None = None
        self.rules_accepted = True
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.sent: Counter[str] = Counter()  # bytes, by file
        self.uploads: dict[str, bytes] = {}
        self.submissions: list[dict[str, Any]] = []
        self.polls_until_scored = 2
        self.lists_late = 0  # number of lists that do not show a new submission yet
        self._server = ThreadingHTTPServer(("127.0.0.1", PORT), _Handler)
        self._server.daemon_threads = True
        self._server.kaggle = self  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def names(self) -> list[str]:
        return sorted(
            {path.name for path in self.folder.glob("*.zip")} - {"solution.csv.zip"} | self.content.keys()
        )

    def read(self, name: str) -> bytes:
        return self.content[name] if name in self.content else (self.folder / name).read_bytes()

    def fail(self, name: str, *faults: Fault) -> None:
        self.faults[name] += faults

    def asked(self, name: str) -> int:
        """Return the number of requests whose name ends in `name`."""
        return sum(request.endswith(name) for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def kaggle(self) -> StandInKaggle:
        return self.server.kaggle  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.rpartition("/")[2]
        self.kaggle.requests.append(name)
        if self._fails(name):
            return
        basic = base64.b64encode(f"{USERNAME}:{KEY}".encode()).decode()
        if self.headers.get("Authorization") not in (f"Basic {basic}", f"Bearer {TOKEN}"):
            self._error(401, "Unauthenticated")
            return
        request = json.loads(body)
        if request.get("competitionName") != COMPETITION:
            self._error(404, "Not found")
        elif not self.kaggle.rules_accepted:
            self._error(
                403, "You must accept this competition's rules before you'll be able to download files."
            )
        else:
            getattr(self, f"_{name}")(request)

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.kaggle.requests.append(name)
        fault = self._take_fault(name)
        if fault and fault.status:
            self._error(fault.status, None, fault.headers)
            return
        content = self.kaggle.read(name)
        tag = f'"{sha256(content).hexdigest()}"'
        start = 0
        asked = self.headers.get("Range", "")
        self.kaggle.ranges.append(asked)
        if (found := re.fullmatch(r"bytes=(\d+)-", asked)) and self.headers.get("If-Range", tag) == tag:
            start = int(found[1])
        if start >= len(content) > 0:
            self._error(416, "Range Not Satisfiable")
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", formatdate(1_500_000_000, usegmt=True))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self._send(name, content[start:], fault)

    def do_PUT(self) -> None:
        token = self.path.rpartition("/")[2]
        self.kaggle.requests.append("upload")
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails("upload"):
            return
        self.kaggle.uploads[token] = body
        self._answer({})

    def _send(self, name: str, content: bytes, fault: Fault | None) -> None:
        limit = len(content)
        if fault and fault.cut_after is not None:
            limit = min(limit, fault.cut_after)
        if fault and fault.silent_after is not None:
            limit = min(limit, fault.silent_after)
        try:
            for position in range(0, limit, _CHUNK):
                chunk = content[position : min(position + _CHUNK, limit)]
                self.wfile.write(chunk)
                self.kaggle.sent[name] += len(chunk)
                if self.kaggle.bytes_per_second:
                    time.sleep(len(chunk) / self.kaggle.bytes_per_second)
            if fault and fault.silent_after is not None:
                time.sleep(5)
        except OSError:
            pass  # the client closed the connection
        if limit < len(content):
            self.close_connection = True

    def _take_fault(self, name: str) -> Fault | None:
        faults = self.kaggle.faults.get(name)
        return faults.pop(0) if faults else None

    def _fails(self, name: str) -> bool:
        fault = self._take_fault(name)
        if fault is None:
            return False
        if fault.status is None:  # close the connection without a response
            if fault.silent_after is not None:
                time.sleep(5)
            self.close_connection = True
        else:
            self._error(fault.status, fault.reason, fault.headers)
        return True

    def _error(self, status: int, message: str | None, headers: dict[str, str] | None = None) -> None:
        self._answer({"code": status, "message": message or self.responses[status][0]}, status, headers)

    def _answer(
        self, values: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _ListDataFiles(self, request: dict[str, Any]) -> None:
        # Two pages, so that the client must request the second one.
        names = self.kaggle.names()
        half = len(names) // 2
        page = names[half:] if request.get("pageToken") else names[:half]
        files = [{"name": name, "totalBytes": len(self.kaggle.read(name))} for name in page]
        self._answer({"files": files, "nextPageToken": "" if request.get("pageToken") else "second"})

    def _DownloadDataFile(self, request: dict[str, Any]) -> None:
        if request["fileName"] not in self.kaggle.names():
            self._error(404, "Not found")
            return
        self.send_response(302)
        self.send_header(
            "Location", f"http://localhost:{PORT}/storage/{request['fileName']}?signature=s3cret"
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _StartSubmissionUpload(self, request: dict[str, Any]) -> None:
        token = f"token-{len(self.kaggle.uploads)}"
        self._answer({"token": token, "createUrl": f"http://localhost:{PORT}/upload/{token}"})

    def _CreateSubmission(self, request: dict[str, Any]) -> None:
        reference = 1000 + len(self.kaggle.submissions)
        content = self.kaggle.uploads[request["blobFileTokens"]]
        description = request.get("submissionDescription", "")
        self.kaggle.submissions.insert(
            0, {"ref": reference, "description": description, "content": content, "polls": 0}
        )
        if self._fails("confirmation"):
            return
        self._answer({"message": "Successfully submitted to Carvana", "ref": reference})

    def _ListSubmissions(self, request: dict[str, Any]) -> None:
        listed = []
        for submission in self.kaggle.submissions:
            submission["polls"] += 1
            if submission["polls"] <= self.kaggle.lists_late:
                continue
            entry = {"ref": submission["ref"], "description": submission["description"], "status": "PENDING"}
            if submission["polls"] > self.kaggle.polls_until_scored:
                entry |= self._scored(submission["content"])
            listed.append(entry)
        self._answer({"submissions": listed})

    def _scored(self, content: bytes) -> dict[str, str]:
        try:
            score = _dice(content, self.kaggle.folder)
        except (ValueError, OSError, EOFError) as error:
            return {"status": "ERROR", "errorDescription": str(error)}
        return {"status": "COMPLETE", "publicScore": f"{score:.5f}", "privateScore": f"{score:.5f}"}


def _dice(content: bytes, folder: Path) -> float:
    """Return the mean Dice coefficient, computed with sets of pixels and without the project's code."""
    from carvana_kedro.stores.archives import read_table

    def pixels(runs: str) -> set[int]:
        numbers = [int(number) for number in runs.split()]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return {pixel for start, length in pairs for pixel in range(start, start + length)}

    _, *lines = gzip.decompress(content).decode().splitlines()
    submitted = dict(line.removesuffix("\r").split(",") for line in lines)
    truth = dict(read_table(folder, "solution") or ())
    if {f"{image_id}.jpg" for image_id in truth} != submitted.keys():
        raise ValueError("The submission does not have the rows of sample_submission.csv")
    scores = []
    for image_id, runs in truth.items():
        one, other = pixels(runs), pixels(submitted[f"{image_id}.jpg"])
        scores.append(2 * len(one & other) / ((len(one) + len(other)) or 1))
    return sum(scores) / len(scores)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not list(Path(sys.argv[1]).glob("*.zip")):
        sys.exit("Usage: python tests/standin_kaggle.py FOLDER, with the competition's zip archives in it")
    with StandInKaggle(Path(sys.argv[1])):
        sys.stdout.write(f"http://localhost:{PORT}: {USERNAME}, {KEY}\n")
        sys.stdout.flush()
        threading.Event().wait()
