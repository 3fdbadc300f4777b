"""The page of a series in a browser: by day and by night, on a phone and on paper."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from doceval_pipeline.reports.series import render_series
from doceval_pipeline_tests.browser.opened import PHONE, Opened
from doceval_pipeline_tests.browser.test_report_modes import serious_findings
from doceval_pipeline_tests.reports.test_series import series

pytestmark = pytest.mark.browser


def test_the_page_of_a_series_is_quiet_fits_and_can_be_used_by_everybody(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "series.html"
    file.write_text(render_series(series(30, columns=2)), encoding="utf-8")
    opened = Opened(browser, file)
    page = opened.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert serious_findings(opened) == []
    # Drift is seen without colours: as triangles, and as words in the figures behind.
    assert page.locator("svg.series").first.locator("path.drift").count() == 3
    page.get_by_text("Figures of").first.click()
    assert page.get_by_role("table").first.get_by_text("DRIFT").count() == 3
    assert page.get_by_role("img").first.get_attribute("class") == "series"
    page.set_viewport_size({"width": PHONE, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.get_by_role("table").nth(1).is_visible(), "figures are open on paper"
    opened.assert_quiet()
    page.close()
