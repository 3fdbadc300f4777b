"""The page of a report in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline_tests.reports.inputs import cell, column, document, failed, hostile_input, report_input

pytestmark = pytest.mark.browser


class Opened:
    """A report that is open in a browser, and all that the browser said and asked for."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page, self.url = page, file.as_uri()
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(self.url)


def open_report(browser: Browser, folder: Path, data: ReportInput, width: int = 1280) -> Opened:
    file = folder / "report.html"
    file.write_text(render_html(data, figures(data)), encoding="utf-8")
    return Opened(browser.new_page(viewport={"width": width, "height": 800}), file)


def assert_quiet(report: Opened) -> None:
    assert report.messages == []
    assert report.requests == [report.url]


def test_a_hostile_report_runs_loads_and_says_nothing(browser: Browser, tmp_path: Path) -> None:
    data = hostile_input()
    report = open_report(browser, tmp_path, data)
    report.page.emulate_media(media="print")
    report.page.emulate_media(media="screen")
    for button in report.page.locator("td button").all()[:6]:
        button.hover()
        button.click()
        report.page.keyboard.press("Escape")
    assert report.page.evaluate("window.ran") is None
    assert "completion report" in report.page.title()
    assert report.page.locator("script, img, iframe, object, embed, link, base, form").count() == 0
    assert_quiet(report)


def test_a_click_on_a_cell_shows_its_message_and_escape_hides_it(browser: Browser, tmp_path: Path) -> None:
    data = report_input([document(1)], [column(1), column(2)], [cell(1), failed(1, "quota", connection=2)])
    report = open_report(browser, tmp_path, data)
    details = report.page.locator("#r1-2-1")
    assert not details.is_visible()
    report.page.get_by_role("button", name="failed").click()
    assert details.is_visible()
    assert "quota" in details.inner_text()
    report.page.keyboard.press("Escape")
    assert not details.is_visible()
    assert_quiet(report)


def test_the_style_sheet_is_allowed_by_the_policy(browser: Browser, tmp_path: Path) -> None:
    report = open_report(browser, tmp_path, report_input([document(1)], [column()], [cell(1)]))
    assert report.page.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
    assert_quiet(report)


def test_a_phone_scrolls_the_matrix_and_not_the_page(browser: Browser, tmp_path: Path) -> None:
    columns = [column(c) for c in range(9)]
    data = report_input([document(1, name="x" * 250)], columns, [cell(1, c) for c in range(9)])
    report = open_report(browser, tmp_path, data, width=390)
    assert report.page.evaluate("document.documentElement.scrollWidth") <= 390
    matrix = report.page.locator(".scroll.tall")
    assert matrix.evaluate("element => element.scrollWidth > element.clientWidth")
    matrix.evaluate("element => { element.scrollLeft = 300 }")
    header = report.page.locator(".matrix tbody th").bounding_box()
    assert header is not None
    assert header["x"] >= 0
