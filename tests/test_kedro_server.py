"""`kedro server`: HTTP requests to a real server run pipelines, and tell what is wrong."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from ports import free_port

PROJECT = Path(__file__).parents[1]
GUIDE = PROJECT / "docs/how-to/kedro-server.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for the environment `test`. Its log goes to a file."""
    port = free_port()
    command = [sys.executable, "-m", "kedro", "server", "start", "--env", "test", "--port", str(port)]
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=stream, stderr=stream) as process,
    ):
        try:
            for _ in range(240):
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _post(address: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return status and content of the answer to `POST /run`."""
    request = urllib.request.Request(
        f"{address}/run", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def _documented() -> list[dict[str, Any]]:
    """Return the bodies of the requests in the guide."""
    text = GUIDE.read_text().replace("\\\n", " ")
    commands = re.findall(r"^curl .*/run.*$", text, re.MULTILINE)
    return [json.loads(words[words.index("--data") + 1]) for words in map(shlex.split, commands)]


def test_the_requests_of_the_guide_run_pipelines(server: str, tmp_path: Path) -> None:
    first, *others = _documented()
    assert others
    for content in (first, *others):
        content.setdefault("params", {})["data_root"] = str(tmp_path / "data")
        status, answer = _post(server, content)
        assert (status, answer["status"]) == (200, "success"), answer
    assert (tmp_path / "data/06_models/sample/model.pt").is_file()
    assert list((tmp_path / "data/07_model_output").rglob("submit.csv.gz"))


def test_a_mistake_is_answered_with_what_is_wrong(server: str, tmp_path: Path) -> None:
    root = {"data_root": str(tmp_path / "data")}
    status, answer = _post(server, {"params": {**root, "model_training": {"epoch": 3}}})
    assert (status, answer["status"]) == (200, "failure")
    assert (answer["error"]["type"], "epoch" in answer["error"]["message"]) == ("UserError", True)
    assert not (tmp_path / "data").exists()
    status, answer = _post(server, {"pipeline": "inference"})
    assert (status, answer["detail"][0]["loc"]) == (422, ["body", "pipeline"])


def test_parameters_of_a_request_do_not_reach_the_next_one(server: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        params = {"data_root": str(tmp_path / name)}
        status, answer = _post(server, {"pipeline_names": ["data_ingestion"], "params": params})
        assert (status, answer["status"]) == (200, "success"), answer
    assert (tmp_path / "second/05_model_input/sample/train_index.csv").is_file()


def test_requests_at_the_same_time_run_with_their_own_parameters(server: str, tmp_path: Path) -> None:
    def run(name: str) -> str:
        params = {"data_root": str(tmp_path / name)}
        _, answer = _post(server, {"pipeline_names": ["data_ingestion"], "params": params})
        return str(answer.get("error", answer["status"]))

    names = ["first", "second", "second"]
    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(run, names)) == ["success"] * len(names)
    for name in names:
        assert (tmp_path / name / "05_model_input/sample/train_index.csv").is_file()


def test_the_server_tells_its_health_and_the_pipelines(server: str) -> None:
    with urllib.request.urlopen(f"{server}/health", timeout=30) as answer:
        assert json.load(answer)["status"] == "healthy"
    with urllib.request.urlopen(f"{server}/snapshot", timeout=60) as answer:
        snapshot = json.load(answer)
    assert {pipeline["name"] for pipeline in snapshot["pipelines"]} >= {"__default__", "data_ingestion"}
