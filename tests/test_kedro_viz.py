"""The graph that `kedro viz` shows in a browser, tested with a Kedro-Viz server and Chromium."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest
from kedro.pipeline import Pipeline
from playwright.sync_api import Browser, Page, Route, expect

from carvana_kedro.pipeline_registry import DEFAULT
from chromium import broken_images, chromium, needs_chromium, sound_page
from ports import free_port

PROJECT = Path(__file__).parents[1]
pytestmark = needs_chromium


def _kedro(project: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command in the project, in the environment `test`: `kedro viz build` takes it from nowhere else."""
    environment = {**os.environ, "DO_NOT_TRACK": "1", "KEDRO_ENV": "test"}
    command = [sys.executable, "-m", "kedro", *arguments]
    return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project after a run of everything."""
    project = tmp_path_factory.mktemp("project")
    for folder in ("conf", "src"):
        shutil.copytree(PROJECT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / file, project)
    assert _kedro(project, "run", "--params", "inference.overlays=true").wait(timeout=600) == 0
    return project


@pytest.fixture(scope="module")
def viz(project: Path) -> Iterator[str]:
    """The address of Kedro-Viz."""
    port = free_port()
    server = _kedro(project, "viz", "run", "--no-browser", "--port", str(port))
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
def site(project: Path) -> Iterator[str]:
    """The address of the static site that `kedro viz build` writes."""
    assert _kedro(project, "viz", "build", "--include-previews").wait(timeout=600) == 0
    handler = partial(SimpleHTTPRequestHandler, directory=str(project / "build"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def _without_web_font(route: Route) -> None:
    """Remove the font from Kedro-Viz's page: the only thing that it fetches from another machine."""
    response = route.fetch()
    route.fulfill(response=response, body=re.sub("<link[^>]*fonts[^>]*>", "", response.text()))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test if a script fails, or if another machine is asked for something."""
    with sound_page(browser, viewport={"width": 1400, "height": 900}) as page:
        page.route(re.compile(r"^http://[^/]*/(\?.*)?$"), _without_web_font)
        yield page


def _open(page: Page, address: str, name: str) -> None:
    """Open the panel of a node or dataset, like a click on it."""
    nodes = page.request.get(f"{address}/api/main").json()["nodes"]
    (found,) = [node["id"] for node in nodes if node["name"] == name]
    page.goto(f"{address}/?pid=__default__&expandAllPipelines=true&sid={found}")
    expect(page.locator(".pipeline-metadata__title")).to_be_visible(timeout=30_000)


def _shown(page: Page) -> set[str]:
    return {text.strip() for text in page.locator(".pipeline-node__text").all_text_contents()}


def test_every_pipeline_is_collapsed_into_one_box(page: Page, viz: str) -> None:
    page.goto(viz)
    expect(page.locator(".pipeline-node").first).to_be_visible(timeout=60_000)
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


def test_the_layers_are_in_the_order_of_the_data(page: Page, viz: str) -> None:
    layers = page.request.get(f"{viz}/api/main").json()["layers"]
    assert layers == ["raw", "intermediate", "model_input", "models", "model_output", "reporting"]


PICTURE = ".pipeline-metadata__plot img"
FULL_PICTURE = ".pipeline-metadata__plot-image--expanded"
TABLE = ".preview-table"
PLOT = ".plot-container.plotly"
TEXT = ".html-renderer h1"


@pytest.mark.parametrize(
    ("name", "panel", "full"),
    [
        ("training_images", PICTURE, FULL_PICTURE),
        ("test_images", PICTURE, FULL_PICTURE),
        ("predicted_images", PICTURE, FULL_PICTURE),
        ("validation_gallery", PICTURE, FULL_PICTURE),
        ("submission_preview", PICTURE, FULL_PICTURE),
        ("threshold_curve_image", PICTURE, FULL_PICTURE),
        ("overlays", PICTURE, FULL_PICTURE),
        ("cutouts", PICTURE, FULL_PICTURE),
        ("turntables", PICTURE, FULL_PICTURE),
        ("training_image_index", TABLE, TABLE),
        ("validation_scores", TABLE, TABLE),
        ("checkpoints", TABLE, TABLE),
        ("submission", TABLE, TABLE),
        ("source", ".pipeline-metadata__preview-json", ".pipeline-metadata-modal__preview-json"),
        ("model", ".pipeline-metadata__preview-json", ".pipeline-metadata-modal__preview-json"),
        ("learning_curves", PLOT, PLOT),
        ("validation_threshold_curve", PLOT, PLOT),
        ("model_card", TEXT, TEXT),
        ("report", TEXT, TEXT),
        ("train_model", ".pipeline-mermaid-renderer svg", ".pipeline-mermaid-renderer svg"),
    ],
)
def test_previews_are_shown_in_the_panel_and_on_the_whole_page(
    page: Page, viz: str, name: str, panel: str, full: str
) -> None:
    _open(page, viz, name)
    expect(page.locator(panel).first).to_be_visible(timeout=30_000)
    assert broken_images(page) == []
    page.locator(".pipeline-metadata__link").click()
    expect(page.locator(f".pipeline-metadata-modal {full}").first).to_be_visible()
    assert broken_images(page) == []


def test_texts_fit_into_the_panel(page: Page, viz: str) -> None:
    _open(page, viz, "model_card")
    expect(page.locator(TEXT)).to_be_visible(timeout=30_000)
    panel, text = page.locator(".pipeline-metadata"), page.locator(".html-renderer p").first
    assert (
        "kedro run --pipelines data_ingestion,model_training" in page.locator(".html-renderer").inner_text()
    )
    # The panel slides in, so both are measured at one moment.
    edges = "([text, panel]) => [text, panel].map((part) => part.getBoundingClientRect().right)"
    right = page.evaluate(edges, [text.element_handle(), panel.element_handle()])
    assert right == sorted(right)


def test_the_static_site_shows_the_run(page: Page, site: str) -> None:
    # The page asks for this, and `kedro viz build` does not write it. Without it, only a line in the console differs.
    packages = [{"package_name": "fsspec", "is_compatible": True}]
    answer = {"has_missing_dependencies": False, "package_compatibilities": packages}
    page.route("**/api/metadata", lambda route: route.fulfill(json=answer))
    page.goto(site)
    expect(page.locator(".pipeline-node").first).to_be_visible(timeout=60_000)
    assert set(DEFAULT) <= _shown(page)
    for name, selector in (("training_images", PICTURE), ("checkpoints", TABLE), ("model_card", TEXT)):
        _open(page, site, name)
        expect(page.locator(selector).first).to_be_visible(timeout=30_000)
        assert broken_images(page) == []
