"""The page in Chromium: on a desktop and on a telephone, light and dark."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from carvana_kedro.segmentation.prediction.cutouts import alpha_of
from chromium import broken_images, chromium, needs_chromium, serious_findings, sound_page
from serve_process import Served

pytestmark = needs_chromium

DROP = """
files => {
  const transfer = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(start: Callable[..., Served]) -> Served:
    """A server with the packaged model."""
    return start()


@pytest.fixture(scope="module")
def photographs(unpacked: Path) -> list[Path]:
    (folder,) = unpacked.glob("test-????????????")
    return sorted(folder.glob("*.jpg"))[:2]


def _address(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}/"


def _drop(page: Page, files: dict[str, bytes]) -> None:
    page.evaluate(DROP, [[name, base64.b64encode(content).decode()] for name, content in files.items()])


def _alpha(page: Page) -> np.ndarray:
    """Return the alpha channel that the first photograph is shown with."""
    script = "canvas => canvas.toDataURL('image/png').split(',')[1]"
    content = base64.b64decode(page.locator("canvas").first.evaluate(script))
    return np.asarray(Image.open(io.BytesIO(content)))[..., 3]


@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "dark"), (768, "light"), (1280, "light"), (1280, "dark")]
)
def test_photographs_are_dropped_compared_and_downloaded(
    browser: Browser, server: Served, photographs: list[Path], width: int, scheme: Any, tmp_path: Path
) -> None:
    first, second = (path.read_bytes() for path in photographs)
    size = {"width": width, "height": 800}
    with sound_page(browser, viewport=size, color_scheme=scheme, accept_downloads=True) as page:
        page.goto(_address(server))
        expect(page.locator("#about")).to_have_text(
            "The model cars runs on this machine: photographs stay here."
        )
        assert serious_findings(page) == []
        _drop(page, {"front.jpg": first, "Über <b>.jpg": second})
        expect(page.locator("#status")).to_have_text("2 of 2 photographs are cut out", timeout=60_000)
        assert broken_images(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious_findings(page) == []

        # The threshold changes the cut-out without a request, the background too.
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        usual = _alpha(page)
        assert 0.05 < (usual > 127).mean() < 0.6
        page.locator("#threshold").fill("0.9")
        expect(page.locator("#level")).to_have_text("0.90")
        page.wait_for_timeout(300)
        assert (_alpha(page) > 127).sum() < (usual > 127).sum()
        page.get_by_label("White").check()
        assert page.locator("canvas").first.evaluate(
            "canvas => getComputedStyle(canvas).backgroundColor"
        ) == ("rgb(255, 255, 255)")
        # The keyboard moves the border between before and after.
        split = page.locator(".split").first
        before = page.locator("canvas").first.evaluate("canvas => getComputedStyle(canvas).clipPath")
        split.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("canvas").first.evaluate("canvas => getComputedStyle(canvas).clipPath") != before
        assert requests == []

        # What is downloaded is what programs get.
        with page.expect_download() as download:
            page.get_by_role("button", name="Download front.jpg").click()
        assert download.value.suggested_filename == "front.png"
        answer = server.ask("POST", "/cut?threshold=0.9&background=white", first)
        assert download.value.path().read_bytes() == answer.content
        # The slider moves between the two photographs of one download.
        with page.expect_download() as download:
            with page.expect_request("**/cut?*"):
                page.get_by_role("button", name="Download all").click()
            page.locator("#threshold").fill("0.3")
            expect(page.get_by_role("button", name="Download all")).to_be_disabled()
        download.value.save_as(tmp_path / "all.zip")
        with ZipFile(tmp_path / "all.zip") as zipped:
            assert zipped.testzip() is None
            assert zipped.namelist() == ["front.png", "Über <b>.png"]
            assert zipped.read("front.png") == answer.content
            other = server.ask("POST", "/cut?threshold=0.9&background=white", second)
            assert zipped.read("Über <b>.png") == other.content
            assert zipped.getinfo("front.png").date_time[0] >= 2024
        expect(page.get_by_role("button", name="Download all")).to_be_enabled()

        page.get_by_role("button", name="Remove front.jpg").click()
        expect(page.locator("#photographs li")).to_have_count(1)
        expect(page.get_by_role("button", name="Remove Über <b>.jpg")).to_be_focused()
        page.get_by_role("button", name="Remove all").click()
        expect(page.locator("#settings")).to_be_hidden()


def test_the_preview_has_the_alpha_of_the_cut_out(
    browser: Browser, server: Served, photographs: list[Path]
) -> None:
    content = photographs[0].read_bytes()
    answer = server.ask("POST", "/cut?output=probabilities", content)
    levels = np.asarray(Image.open(io.BytesIO(answer.content)))
    script = """
    async ([levels, width, height, threshold]) => {
      const {alphaOf} = await import("/pixels.js");
      return Array.from(alphaOf(Uint8ClampedArray.from(levels), width, height, threshold));
    }
    """
    with sound_page(browser) as page:
        page.goto(_address(server))
        for threshold in (0.2, 0.5, 0.9):
            height, width = levels.shape
            shown = page.evaluate(script, [levels.ravel().tolist(), width, height, threshold])
            probabilities = (levels / 255).astype(np.float32)
            expected = alpha_of(probabilities, probabilities > threshold, threshold) * 255
            # The edge is three pixels wide in both, here with corners.
            difference = np.abs(np.reshape(shown, levels.shape) - expected)
            assert difference.mean() < 0.3
            assert (difference > 2).mean() < 0.01
            assert 0.02 < (expected > 0).mean() < 0.9


def test_a_file_that_is_no_photograph_is_named_and_the_others_are_cut_out(
    browser: Browser, server: Served, photographs: list[Path]
) -> None:
    page = browser.new_page()  # the refusal is an error in the console
    page.goto(_address(server))
    _drop(page, {"notes.jpg": b"nonsense", "empty.jpg": b"", "car.jpg": photographs[0].read_bytes()})
    expect(page.locator("#status")).to_have_text("1 of 3 photographs are cut out, 2 failed", timeout=60_000)
    expect(page.locator(".failed .message").first).to_have_text("The photograph is not an image.")
    expect(page.locator(".failed .message").last).to_contain_text("The request has no photograph")
    assert serious_findings(page) == []
    page.close()


def test_photographs_are_chosen_with_the_keyboard(
    browser: Browser, server: Served, photographs: list[Path]
) -> None:
    with sound_page(browser) as page:
        # Before the page is opened: Playwright does not wait until Chromium leaves the choice to it.
        page.on("filechooser", lambda chooser: chooser.set_files([photographs[0]]))
        page.goto(_address(server), wait_until="networkidle")  # before, a key may be lost
        page.keyboard.press("Tab")
        expect(page.get_by_label("Choose photographs")).to_be_focused()
        page.keyboard.press("Space")
        expect(page.locator("#status")).to_have_text("1 of 1 photograph is cut out", timeout=60_000)


@pytest.mark.parametrize("width", [360, 1280])
def test_the_interface_is_shown_as_tables(browser: Browser, server: Served, width: int) -> None:
    with sound_page(browser, viewport={"width": width, "height": 800}) as page:
        page.goto(_address(server))
        page.get_by_role("link", name="the HTTP interface").click()
        operations = page.locator("section")
        expect(operations).to_have_count(3)
        expect(operations.first.locator("h2")).to_have_text("POST /cut")
        row = operations.first.locator("tr").filter(has=page.get_by_text("format", exact=True))
        expect(row.locator("td")).to_have_text(["Format of the file.", "png, webp", "png"])
        expect(operations.last).to_contain_text("The state of the server.")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious_findings(page) == []
