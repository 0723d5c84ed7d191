"""The graph that `kedro viz` shows in a browser, tested with a Kedro-Viz server and Chromium."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from kedro.pipeline import Pipeline
from playwright.sync_api import Browser, Page, expect

from carvana_kedro.pipeline_registry import DEFAULT
from chromium import chromium, needs_chromium

PROJECT = Path(__file__).parents[1]
pytestmark = needs_chromium


def free_port() -> int:
    """Return a free port that Kedro-Viz accepts. It refuses ports above 49151, which the system would choose."""
    for port in range(41410, 41510):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("all ports from 41410 to 41509 are taken")


@pytest.fixture(scope="module")
def viz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Kedro-Viz after a run of the whole project."""
    params = f"data_root={tmp_path_factory.mktemp('viz')}"
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "kedro"]
    subprocess.run(
        [*command, "run", "--env", "test", "--params", params], cwd=PROJECT, env=environment, check=True
    )
    port = free_port()
    arguments = ["viz", "run", "--env", "test", "--params", params, "--no-browser", "--port", str(port)]
    server = subprocess.Popen([*command, *arguments], cwd=PROJECT, env=environment, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            assert server.poll() is None, "kedro viz stopped"
            try:
                urllib.request.urlopen(f"{address}/api/main", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(1)
        yield address
    finally:
        # The server survives its parent, so stop the whole process group.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, viz: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1700, "height": 1000})
    page.goto(viz)
    expect(page.locator(".pipeline-node").first).to_be_visible(timeout=60_000)
    yield page
    page.close()


def _open(page: Page, viz: str, name: str) -> None:
    """Open the panel of a node or dataset, like a click on it."""
    nodes = page.request.get(f"{viz}/api/main").json()["nodes"]
    (found,) = [node["id"] for node in nodes if node["name"] == name]
    page.goto(f"{viz}/?pid=__default__&expandAllPipelines=true&sid={found}")
    expect(page.locator(".pipeline-metadata__title")).to_be_visible(timeout=30_000)


def _shown(page: Page) -> set[str]:
    return {text.strip() for text in page.locator(".pipeline-node__text").all_text_contents()}


def test_every_pipeline_is_collapsed_into_one_box(page: Page) -> None:
    shown = _shown(page)
    assert set(DEFAULT) <= shown
    # Only datasets between two pipelines are shown, not those within one.
    assert {"training_images", "test_images", "model", "submission"} <= shown
    assert not {"train_model", "predict_masks", "training_image_index"} & shown


def test_the_expanded_graph_shows_every_node_and_dataset(page: Page, viz: str) -> None:
    page.goto(f"{viz}/?pid=__default__&expandAllPipelines=true")
    expect(page.locator(".pipeline-node__text", has_text="train_model")).to_be_visible(timeout=30_000)
    modules = [import_module(f"carvana_kedro.pipelines.{name}") for name in DEFAULT]
    pipeline = sum((module.create_pipeline() for module in modules), Pipeline([]))
    datasets = {name for name in pipeline.datasets() if not name.startswith("params:")}
    nodes = {node.func.__name__ for node in pipeline.nodes}
    assert _shown(page) == nodes | datasets


@pytest.mark.parametrize(
    ("dataset", "selector"),
    [
        ("training_image_index", ".preview-table"),
        ("validation_scores", ".preview-table"),
        ("submission", ".preview-table"),
        ("source", ".pipeline-metadata__preview-json"),
        ("learning_curves", ".plot-container.plotly"),
        ("validation_gallery", ".pipeline-metadata__plot img, .pipeline-metadata img"),
        ("submission_preview", ".pipeline-metadata__plot img, .pipeline-metadata img"),
        ("report", ".html-renderer img"),
        ("threshold_curve_image", ".pipeline-metadata__plot img, .pipeline-metadata img"),
        ("cutouts", ".pipeline-metadata__plot img, .pipeline-metadata img"),
        ("turntables", ".pipeline-metadata__plot img, .pipeline-metadata img"),
    ],
)
def test_datasets_have_previews(page: Page, viz: str, dataset: str, selector: str) -> None:
    _open(page, viz, dataset)
    expect(page.locator(selector).first).to_be_visible(timeout=30_000)
