"""The report in Chromium: on a desktop and on a telephone, light and dark, and on paper."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from carvana_kedro.pipelines.reporting.report import write_report
from carvana_kedro.stores.images.competition import ImageStore
from chromium import broken_images, chromium, needs_chromium, serious_findings, sound_page

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def report(inputs: Callable[..., dict[str, Any]], training_images: ImageStore, tmp_path: Path) -> str:
    """The address of a report."""
    values = inputs(training_images)
    values["run_manifest"]["parameters"]["loss"] = {"type": "my_package." + "very_long_name_" * 20}
    path = tmp_path / "report.html"
    path.write_text(write_report(**values), "utf-8")
    return path.as_uri()


def _brightness(page: Page, selector: str, style: str) -> float:
    """Return the mean of red, green and blue of a color."""
    color = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{style}")
    numbers = color.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(map(float, numbers)) / 3


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_sound_on_every_screen(browser: Browser, report: str, width: int, scheme: Any) -> None:
    with sound_page(browser, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report)
        page.locator("details").evaluate_all("all => all.forEach(details => details.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("img").count() > 0
        assert broken_images(page) == []
        assert requests == [report]
        is_dark = _brightness(page, "body", "backgroundColor") < 100
        assert is_dark == (scheme == "dark")
        assert (_brightness(page, "body", "color") > 150) == is_dark
        assert serious_findings(page) == []


def test_the_printed_report_is_light_and_complete(browser: Browser, report: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report)
    hidden = page.locator("details pre").first
    assert not hidden.is_visible()
    page.emulate_media(media="print")
    assert hidden.is_visible()
    assert not page.locator("nav").is_visible()
    assert _brightness(page, "body", "color") < 100
    page.close()
