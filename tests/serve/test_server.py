"""The server as a real process, which cannot write any file, with real clients."""

import io
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.segmentation.prediction.predictor import Predictor
from odd_images import IMAGE, JPEG, PNG, READABLE, UNREADABLE, encode, png_header
from serve_process import Answer, Served

Start = Callable[..., Served]
PROJECT = Path(__file__).parents[2]
BOUNDARY = "----boundary"


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return Predictor.load(tiny_model, device="cpu")


def _form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Return a form of parts (name, file name or None, content)."""
    form = b""
    for name, file_name, content in parts:
        file = f'; filename="{file_name}"' if file_name is not None else ""
        form += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        form += content + b"\r\n"
    return form + f"--{BOUNDARY}--\r\n".encode()


def _pixels(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.content
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_the_answer_is_what_the_library_computes(served: Served, predictor: Predictor) -> None:
    form = {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}
    raw = served.ask("POST", "/cut", PNG)
    assert raw.headers["content-type"] == "image/png"
    assert np.array_equal(_pixels(raw), np.asarray(predictor.cut_out(PNG)))
    sent = served.ask("POST", "/cut", _form(("a", None, b"1"), ("photograph", "Ä.png", PNG)), **form)
    assert sent.content == raw.content
    threshold = float(np.quantile(predictor.probabilities(PNG), 0.75))
    mask = predictor.mask(PNG, threshold)
    assert 0 < mask.mean() < predictor.mask(PNG).mean() < 1
    answer = served.ask("POST", f"/cut?output=mask&threshold={threshold}", PNG)
    assert np.array_equal(_pixels(answer), mask * np.uint8(255))
    assert float(answer.headers["x-car-share"]) == pytest.approx(mask.mean(), abs=1e-4)
    probabilities = _pixels(served.ask("POST", "/cut?output=probabilities", PNG))
    assert np.abs(probabilities / 255 - predictor.probabilities(PNG)).max() < 0.003
    for query, options in [
        ("background=white", {"background": "white"}),
        ("background=%23f80&threshold=0.3", {"background": "#f80", "threshold": 0.3}),
        ("background=ff8000&crop=true", {"background": "#ff8000", "crop": True}),
        ("background=blur&canvas=48x32", {"background": "blur", "canvas": (48, 32)}),
    ]:
        answer = served.ask("POST", f"/cut?{query}", PNG)
        assert np.array_equal(_pixels(answer), np.asarray(predictor.cut_out(PNG, **options)))
    webp = served.ask("POST", "/cut?format=webp", PNG)
    assert webp.headers["content-type"] == "image/webp"
    assert _pixels(webp).shape == (40, 64, 4)


@pytest.mark.parametrize(("name", "content"), [case[:2] for case in READABLE], ids=[c[0] for c in READABLE])
def test_images_of_all_formats_are_cut_out(served: Served, name: str, content: bytes) -> None:
    assert _pixels(served.ask("POST", "/cut", content)).shape == (40, 64, 4)
    preview = served.ask("POST", "/preview", content)
    assert (preview.status, preview.json["width"], preview.json["height"]) == (200, 64, 40)


def test_a_gif_is_cut_out(served: Served) -> None:
    assert _pixels(served.ask("POST", "/cut", encode(IMAGE, "GIF"))).shape == (40, 64, 4)


def test_health_does_not_show_the_path_of_the_model(served: Served, tiny_model: Path) -> None:
    assert served.ask("GET", "/health").json["model"] == tiny_model.stem


@pytest.mark.parametrize(
    ("name", "content"), [case[:2] for case in UNREADABLE], ids=[c[0] for c in UNREADABLE]
)
@pytest.mark.parametrize("path", ["/cut", "/preview"])
def test_hostile_images_are_answered_by_an_error(
    served: Served, path: str, name: str, content: bytes
) -> None:
    answer = served.ask("POST", path, content)
    assert answer.status == (422 if content else 400)
    assert answer.json["error"].startswith(("The photograph ", "The request has no photograph"))
    assert served.ask("POST", path, JPEG).status == 200


NO_FORM = "multipart/form-data; boundary="
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("GET /cut", {}, 405, "does not take this method"),
    ("POST /health", {}, 405, "does not take this method"),
    ("GET /page.html", {}, 404, "no such page"),
    ("GET /../command.py", {}, 404, "no such page"),
    ("POST /cut", {}, 400, "no photograph"),
    ("POST /cut?colour=1", {"body": PNG}, 400, "Unknown parameter colour"),
    ("POST /cut?crop=true&crop=true", {"body": PNG}, 400, "given twice"),
    ("POST /cut?threshold=1", {"body": PNG}, 400, "threshold must be above 0 and below 1, not 1"),
    ("POST /cut?threshold=nan", {"body": PNG}, 400, "threshold must be"),
    ("POST /cut?threshold=%1b", {"body": PNG}, 400, r"not \x1b"),
    ("POST /cut?output=all", {"body": PNG}, 400, "output must be cutout or mask or probabilities"),
    ("POST /cut?format=gif", {"body": PNG}, 400, "format must be png or webp"),
    ("POST /cut?background=/etc/hostname", {"body": PNG}, 400, "background must be"),
    ("POST /cut?background=pyproject.toml", {"body": PNG}, 400, "background must be"),
    ("POST /cut?crop=yes", {"body": PNG}, 400, "crop must be true or false"),
    ("POST /cut?canvas=9x9", {"body": PNG}, 400, "canvas must be"),
    ("POST /cut?canvas=16384x16384", {"body": PNG}, 400, "canvas must be"),
    ("POST /cut?canvas=1e2x16", {"body": PNG}, 400, "canvas must be"),
    (
        "POST /cut",
        {"body": png_header(9_000, 9_000)},
        413,
        "is 9000x9000 pixels: the limit of this server is 50",
    ),
    ("POST /cut", {"body": bytes(40_000_001)}, 413, "larger than 40 MB"),
    ("POST /cut", {"body": b"x", "content_type": NO_FORM}, 400, "The form cannot be read"),
    ("POST /cut", {"body": _form(), "content_type": NO_FORM + BOUNDARY}, 400, "0 files instead of one"),
    (
        "POST /cut",
        {"body": _form(*2 * [("a", "a.png", PNG)]), "content_type": NO_FORM + BOUNDARY},
        400,
        "2 files instead of one",
    ),
    (
        "POST /cut",
        {"body": _form(*[("a", None, b"")] * 50), "content_type": NO_FORM + BOUNDARY},
        400,
        "has too many parts",
    ),
    (
        "POST /cut",
        {"body": _form(("a", 4_000_000 * "a", PNG)), "content_type": NO_FORM + BOUNDARY},
        400,
        "The header of a part of the form is larger than 8192 bytes.",
    ),
    (
        "POST /cut",
        {"body": _form(("a", 300 * "a", b"x")), "content_type": NO_FORM + BOUNDARY},
        422,
        f"{100 * 'a'} is not an image.",
    ),
    (
        "POST /cut",
        {"body": _form(("a", "b\x1b[31m.png", b"x")), "content_type": NO_FORM + BOUNDARY},
        422,
        r"b\x1b[31m.png is not an image",
    ),
    ("GET /health", {"host": "evil.example"}, 421, "does not answer for evil.example"),
    ("GET /health", {"host": "127.0.0.1.evil.example:8000"}, 421, "does not answer for"),
    ("GET /health", {"host": ""}, 421, "does not answer for"),
    ("POST /cut", {"body": PNG, "origin": "http://evil.example"}, 403, "Pages of http://evil.example"),
    ("POST /cut", {"body": PNG, "origin": "null"}, 403, "Pages of null"),
    ("POST /cut", {"body": PNG, "origin": "http://127.0.0.1:1"}, 403, "Pages of http://127.0.0.1:1"),
]


@pytest.mark.parametrize(
    ("request_line", "options", "status", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))]
)
def test_wrong_requests_are_answered_by_an_error(
    served: Served, request_line: str, options: dict[str, Any], status: int, message: str
) -> None:
    answer = served.ask(*request_line.split(" "), **options)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert message in answer.json["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "192.168.0.7:8000", "[::1]:8000"])
def test_addresses_and_localhost_are_names_of_the_server(served: Served, host: str) -> None:
    assert served.ask("POST", "/cut", JPEG, host=host, origin=f"http://{host}").status == 200


def test_every_answer_forbids_foreign_assets_and_frames(served: Served) -> None:
    for path in ("/", "/page.js", "/health", "/nowhere"):
        headers = served.ask("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_an_endless_body_is_refused_and_not_kept(served: Served) -> None:
    before = served.memory()
    with served.connect() as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        sent = 0
        with pytest.raises(
            OSError
        ):  # the server answers, drops what comes for seconds and closes the connection
            while sent < 10**12:
                client.sendall(chunk)
                sent += 1
        assert sent > 40
    assert served.memory() - before < 200
    assert served.ask("GET", "/health").json["photographs"] == 0


def _until_closed(client: socket.socket) -> bytes:
    received = b""
    while part := client.recv(65536):
        received += part
    return received


def test_a_slow_body_is_answered_by_an_error(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nslow")
        answer = _until_closed(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The upload was not complete after 2 seconds." in answer


@pytest.mark.parametrize("start_of_header", [b"", b"POST /cut HTTP/1.1\r\nHo"])
def test_a_slow_header_closes_the_connection(served: Served, start_of_header: bytes) -> None:
    with served.connect() as client:
        client.sendall(start_of_header)
        assert _until_closed(client) == b""
    with served.connect() as client:  # the same in the second request of a connection
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(start_of_header)
        _until_closed(client)


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01" + bytes(100),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + bytes([120]) * 10**5,
        b"POST /cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(served: Served, content: bytes) -> None:
    with served.connect() as client:
        client.sendall(content)
        assert _until_closed(client).startswith(b"HTTP/1.1 400 ")
    assert served.ask("GET", "/health").status == 200


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        served.wait_for(photographs=1)
    served.wait_for(photographs=0)


def test_more_photographs_than_may_wait_are_refused_with_a_time(start: Start, tiny_model: Path) -> None:
    served = start("--model", str(tiny_model), "--max-waiting", "1")
    with served.connect() as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        served.wait_for(photographs=1)
        answer = served.ask("POST", "/cut", JPEG)
    assert (answer.status, answer.json["error"]) == (
        503,
        "1 photograph is waiting already. Try again later.",
    )
    assert int(answer.headers["retry-after"]) >= 1
    served.wait_for(photographs=0)
    assert served.ask("POST", "/cut", JPEG).status == 200


def test_500_requests_four_at_a_time_are_all_answered_with_flat_memory(served: Served) -> None:
    expected = {name: served.ask("POST", "/cut", content).content for name, content, _ in READABLE[:5]}

    def ask(number: int) -> bool:
        name, content, _ = READABLE[number % 5]
        return served.ask("POST", "/cut", content).content == expected[name]

    with ThreadPoolExecutor(4) as clients:
        assert all(clients.map(ask, range(100)))
        before = served.memory()
        assert all(clients.map(ask, range(500)))
    assert served.memory() - before < 50


def test_a_client_that_reads_no_answer_is_disconnected(served: Served, large: bytes) -> None:
    with served.connect() as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nHost: localhost\r\n")
        client.sendall(f"Content-Length: {len(large)}\r\n\r\n".encode() + large)
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        size = int(answer.partition(b"content-length: ")[2].split()[0])
        assert size > 10_000_000  # more than the buffers of the connection hold
        time.sleep(10)
        received = len(answer)  # with the header
        with suppress(ConnectionResetError):
            while part := client.recv(1 << 20):
                received += len(part)
    assert received < size


def test_an_answer_holds_its_place_until_it_is_read(start: Start, tiny_model: Path, large: bytes) -> None:
    served = start("--model", str(tiny_model), "--max-waiting", "1")
    with served.connect() as client:
        client.sendall(b"POST /cut HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        client.sendall(f"Content-Length: {len(large)}\r\n\r\n".encode() + large)
        answer = client.recv(1000)
        assert served.ask("POST", "/cut", JPEG).status == 503
        size = int(answer.partition(b"content-length: ")[2].split()[0])
        assert len(answer.partition(b"\r\n\r\n")[2] + _until_closed(client)) == size
    served.wait_for(photographs=0)
    assert served.ask("POST", "/cut", JPEG).status == 200


def test_a_request_that_takes_too_long_is_given_up(start: Start, tiny_model: Path, large: bytes) -> None:
    served = start("--model", str(tiny_model), "--timeout", "0.2")
    answer = served.ask("POST", "/cut", large)
    assert (answer.status, answer.json["error"]) == (503, "The server did not answer within 0.2 seconds.")
    served.wait_for(photographs=0, in_progress=False)
    # Small ones still are in time; not each of them on a busy machine.
    assert any(served.ask("POST", "/cut", JPEG).status == 200 for _ in range(50))


@pytest.fixture(scope="module")
def large() -> bytes:
    """A photograph that takes long: noise compresses badly."""
    noise = np.random.default_rng(1).integers(0, 255, (3000, 4000, 3), np.uint8)
    return encode(Image.fromarray(noise), "JPEG", quality=80)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_stop_finishes_the_work_and_refuses_what_waits(
    start: Start, tiny_model: Path, large: bytes, number: signal.Signals, status: int
) -> None:
    served = start("--model", str(tiny_model))
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(served.ask, "POST", "/cut", large) for _ in range(3)]
        served.wait_for(photographs=3, in_progress=True)
        served.process.send_signal(number)
        answers = [each.result() for each in asked]
    assert sorted(answer.status for answer in answers) == [200, 503, 503]
    refused = [answer.json["error"] for answer in answers if answer.status == 503]
    assert refused == 2 * ["The server is stopping."]
    out, err = served.process.communicate(timeout=60)
    assert (served.process.returncode, out) == (status, "")
    assert err == ("Stopped\n" if number == signal.SIGINT else "")


def test_a_photograph_larger_than_the_limits_of_the_command_is_refused(
    start: Start, tiny_model: Path
) -> None:
    served = start("--model", str(tiny_model), "--max-pixels", "0.002", "--max-upload", "0.004")
    answer = served.ask("POST", "/cut", JPEG)
    assert (answer.status, answer.json["error"]) == (
        413, "The photograph is 64x40 pixels: the limit of this server is 0.002 million.",
    )  # fmt: skip
    answer = served.ask("POST", "/cut", encode(IMAGE.resize((50, 50)), "JPEG"))
    assert (answer.status, answer.json["error"]) == (
        413, "The photograph is 50x50 pixels: the limit of this server is 0.002 million.",
    )  # fmt: skip
    assert "larger than 0.004 MB" in served.ask("POST", "/cut", bytes(5000)).json["error"]


def test_the_description_names_every_route_and_parameter(served: Served) -> None:
    description = served.ask("GET", "/openapi.json").json
    assert description["openapi"] == "3.1.0"
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            body = JPEG if "requestBody" in operation else None
            answer = served.ask(method.upper(), path, body)
            assert str(answer.status) in operation["responses"]
            assert answer.headers["content-type"] in operation["responses"]["200"]["content"]
    names = {parameter["name"] for parameter in description["paths"]["/cut"]["post"]["parameters"]}
    told = served.ask("POST", "/cut?x=1", JPEG).json["error"].partition("Known: ")[2]
    assert names == set(told.rstrip(".").split(", "))


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_commands_of_the_documentation_work(served: Served, tmp_path: Path) -> None:
    text = (PROJECT / "docs/how-to/serve.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(commands) >= 2
    (tmp_path / "car.jpg").write_bytes(JPEG)
    for command in commands:
        local = command.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}")
        subprocess.run(local, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert Image.open(tmp_path / "car.png").mode == "RGB"
    assert Image.open(tmp_path / "car_mask.png").mode == "L"


def _command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "carvana_kedro", "serve", *options],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_mistakes_are_told_in_one_line(served: Served) -> None:
    for options, message in [
        (
            ["--port", str(served.port)],
            f"Error: Port {served.port} of 127.0.0.1 is in use. Choose another one: --port",
        ),
        (["--port", "0", "--host", "192.0.2.1"], "Error: Cannot listen on port 0 of 192.0.2.1"),
        (["--port", "0", "--host", "a..b"], "Error: a..b is not the name of a host."),
        (["--port", "0", "--host", 70 * "a"], "is not the name of a host."),
        (["--port", "0", "--model", "vans"], "Error: The model vans is not a file."),
        (["--max-pixels", "inf"], "inf is not in the range"),
        (["--max-pixels", "101"], "101.0 is not in the range"),
        (["--max-upload", "nan"], "nan is not a number."),
    ]:
        done = _command(*options)
        assert done.returncode == (1 if "--host" in options or options == ["--port", str(served.port)] else 2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None; from carvana_kedro.__main__ import main; main(['serve'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "carvana-kedro[serve]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_other_machines_are_served_only_with_a_warning(start: Start, tiny_model: Path) -> None:
    served = start("--model", str(tiny_model), "--host", "0.0.0.0", "--allow-host", "cars.example")
    assert served.ask("GET", "/health", host="cars.example").status == 200
    assert served.ask("GET", "/health", host="vans.example").status == 421
    # A proxy passes its own host on, or the address of the server.
    for host in ("cars.example", f"127.0.0.1:{served.port}"):
        for origin, status in [
            ("https://cars.example", 200),
            ("https://cars.example:8443", 200),
            ("https://vans.example", 403),
            ("https://vans.cars.example", 403),
            ("file://cars.example", 403),
        ]:
            assert served.ask("POST", "/cut", JPEG, host=host, origin=origin).status == status
    served.process.terminate()
    _, err = served.process.communicate(timeout=60)
    assert err.startswith("Warning: everyone who reaches this machine over the network can use the server.")
