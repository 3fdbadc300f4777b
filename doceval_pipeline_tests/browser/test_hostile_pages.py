"""No element of a page of another site makes the webserver change something in Chromium."""

import time
from functools import partial
from pathlib import Path

import pytest
from dagster_webserver.webserver import DagsterWebserver
from playwright.sync_api import Browser

from doceval_pipeline_tests.hostile_pages import ELEMENTS, judge, site, target

pytestmark = pytest.mark.browser

# Only for a page that is in the foreground, which others are not that open windows.
AHEAD = {"speculation prefetch", "speculation prerender"}
# Chromium asks for no icon without a window, and for no manifest or old-style prerender by itself.
NOT_SENT = {"link icon", "link manifest", "link prerender"}
EXECUTED = {"img", "script", "css import", "fetch post", "form text", "beacon"}


def test_no_element_of_a_foreign_page_changes_anything(browser: Browser, tmp_path: Path) -> None:
    with (
        target(tmp_path / "ours") as ours,
        target(tmp_path / "dagsters", DagsterWebserver) as dagsters,
    ):
        for elements in _portions(ELEMENTS.keys() - AHEAD):
            executed = elements & EXECUTED
            with site((ours, elements), (dagsters, executed)) as foreign, browser.new_context() as context:
                pages = [context.new_page() for _ in foreign.addresses()]
                for page, address in zip(pages, foreign.addresses(), strict=True):
                    page.goto(address, wait_until="commit")
                wait = partial(pages[0].wait_for_timeout, 200)
                judge(ours, dagsters, elements - NOT_SENT, executed, wait)


def _portions(elements: set[str]) -> list[set[str]]:
    """Few elements for each page: a busy browser drops some of eighty frames and windows at once."""
    ordered = sorted(elements)
    return [set(ordered[begin : begin + 10]) for begin in range(0, len(ordered), 10)]


def test_what_chromium_fetches_ahead_for_a_foreign_page_is_refused(browser: Browser, tmp_path: Path) -> None:
    """It says `Sec-Fetch-Site: none` of it, as of what a person typed."""
    with (
        target(tmp_path / "ours") as ours,
        site((ours, AHEAD)) as foreign,
        browser.new_context() as context,
    ):
        deadline = time.monotonic() + 60
        pages = [context.new_page() for _ in foreign.addresses()]
        for page, address in zip(pages, foreign.addresses(), strict=True):
            page.bring_to_front()
            page.goto(address)
            host = address.split("/")[2].split(":")[0]
            while (
                not any(name.endswith(host) for name in ours.noting.attempts) and time.monotonic() < deadline
            ):
                page.wait_for_timeout(100)
        judge(ours, ours, AHEAD, set(), lambda: pages[0].wait_for_timeout(200))
