"""A real Chromium, the one that the machine has, and `doceval up` for it to look at."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import running_up

# The machine may be busy.
expect.set_options(timeout=30_000)
PORT = "3919"
DAGSTER = f"http://127.0.0.1:{PORT}"

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """The browser that the machine has."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    assert executable is not None, f"these tests need a browser: install one of {', '.join(NAMES)}"
    return executable


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="doceval-ui-"))
    yield folder
    EmbeddedServer(folder).stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator["subprocess.Popen[str]"]:
    yield from running_up(home, PORT)


@pytest.fixture
def page(browser: Browser, up: "subprocess.Popen[str]") -> Iterator[Page]:
    """A page that fails the test if it asks anything of another machine."""
    opened = browser.new_page(viewport={"width": 1500, "height": 900})
    opened.set_default_timeout(30_000)
    outside: list[str] = []
    opened.on("request", lambda request: outside.append(request.url) if _leaves(request.url) else None)
    yield opened
    opened.close()
    assert outside == []


def _leaves(url: str) -> bool:
    return not url.startswith((DAGSTER, f"ws://127.0.0.1:{PORT}", "data:", "blob:"))
