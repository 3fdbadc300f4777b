"""Pages of `doceval compare`, as they are on a desk by day and by night, on a phone and on paper."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from doceval_pipeline.reports.comparison import render_comparison
from doceval_pipeline_tests.browser.opened import Opened
from doceval_pipeline_tests.browser.test_report_modes import MODES, serious_findings
from doceval_pipeline_tests.reports.sample_comparisons import COMPARISONS

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_quiet_fits_and_can_be_used_by_everybody(
    browser: Browser, tmp_path: Path, name: str, mode: str
) -> None:
    path = tmp_path / f"{name}.html"
    path.write_text(render_comparison(COMPARISONS[name]()))
    opened = Opened(browser, path, **MODES[mode])
    if mode == "print":
        opened.page.emulate_media(media="print")
    else:
        assert opened.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert serious_findings(opened) == []
    opened.assert_quiet()
    opened.page.close()


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_sentences_and_prices_come_first(browser: Browser, tmp_path: Path, name: str) -> None:
    comparison = COMPARISONS[name]()
    path = tmp_path / f"{name}.html"
    path.write_text(render_comparison(comparison))
    opened = Opened(browser, path, **MODES["light"])
    sections = opened.page.locator("main > section").evaluate_all(
        "all => all.map(one => one.id || one.className)"
    )
    assert sections == ["verdict", "price", "columns", "left-out", "moves"]
    assert opened.page.locator(".verdict p").count() == len(comparison.sentences) + bool(comparison.caution)
    opened.page.close()
