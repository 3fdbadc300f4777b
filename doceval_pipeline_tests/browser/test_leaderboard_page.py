"""The page of the leaderboard in a browser: by day and by night, on a phone and on paper."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports.leaderboard_page import render_leaderboard_page
from doceval_pipeline_tests.browser.opened import PHONE, Opened
from doceval_pipeline_tests.browser.test_report_modes import serious_findings
from doceval_pipeline_tests.reports.test_leaderboard import (
    HIGHER,
    SCORED,
    board,
    compared,
    leaderboard,
    row,
)

pytestmark = pytest.mark.browser


def test_the_page_of_the_leaderboard_is_quiet_fits_and_can_be_used_by_everybody(
    browser: Browser, tmp_path: Path
) -> None:
    costs = (Cost(2.0, "EUR", 4, 0), Cost(3.0, "USD", 4, 1))
    long = board(*(row("a-connection-of-a-long-name-" * 5, SCORED, costs=costs) for _ in range(9)))
    both = leaderboard(compared(HIGHER), long, board(row("gpt", SCORED), simulated=True))
    file = tmp_path / "leaderboard.html"
    file.write_text(render_leaderboard_page(replace(both, word="connection")), encoding="utf-8")
    opened = Opened(browser, file)
    page = opened.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert serious_findings(opened) == []
    assert page.get_by_role("table").count() == 3
    # Every interval stands in a row with the name of its model.
    assert page.locator("tbody tr:has(svg) th").count() == page.locator("tbody svg").count() == 12
    assert page.get_by_text("SIMULATED", exact=True).count() == 1
    page.set_viewport_size({"width": PHONE, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.assert_quiet()
    page.close()
