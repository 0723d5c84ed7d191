"""The browser of the tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

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
