"""The browser of the tests, and what a sound page is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Without a browser these tests are skipped, except in CI, where they fail.
needs_chromium = pytest.mark.skipif(
    _CHROMIUM is None and "CI" not in os.environ, reason="needs Chromium (apt-get install chromium)"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser, and stop it at the end."""
    assert _CHROMIUM, "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        yield browser
        browser.close()


@contextmanager
def sound_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open a page. At the end, check that no script failed and that only this machine was asked for something."""
    faults: list[str] = []
    hosts: set[str | None] = set()
    page = browser.new_page(**options)
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    yield page
    page.close()
    assert faults == []
    assert hosts <= {None, "127.0.0.1"}


def broken_images(page: Page) -> list[str]:
    """Return the addresses of images that the page could not show."""
    broken = (
        "images => images.filter(image => !image.complete || !image.naturalWidth).map(image => image.src)"
    )
    return page.locator("img").evaluate_all(broken)


def serious_findings(page: Page, part: str | None = None) -> list[str]:
    """Return what axe-core finds serious or critical for people with disabilities.

    Args:
        part: a CSS selector of the part to check; None for the whole page.
    """
    return [
        f"{finding['id']}: {finding['help']}: {node['html'][:200]}"
        for finding in Axe().run(page, context=part).response["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]
