"""A real browser for the explorers: `make browser`. Without playwright or a Chromium these tests are skipped.

They write what they saw to `output/browser/`: screenshots, and latencies in `latency.csv`.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SEEN = Path(__file__).resolve().parents[2] / "output" / "browser"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = browser_path()
    if found is None:
        pytest.skip("no Chromium: install one, or name it in CHROMIUM")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=OPTIONS)
        yield chromium
        chromium.close()


def browser_path() -> str | None:
    """The Chromium named by CHROMIUM, or the system's."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture
def page(browser):
    """A page of 1280 x 1000 that fails the test at its end if anything was an error."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda said: page.problems.append(said.text) if said.type == "error" else None)
    page.on("requestfailed", lambda request: page.problems.append(f"not fetched: {request.url}"))
    yield page
    problems = [problem for problem in page.problems if "net::ERR_ABORTED" not in problem]
    page.close()
    assert problems == []


@pytest.fixture(scope="session")
def seen() -> Path:
    """Where screenshots go."""
    SEEN.mkdir(parents=True, exist_ok=True)
    return SEEN


def free_port() -> int:
    """A port of this computer that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
