"""Reports that are open in a browser, and all that the browser said and asked for meanwhile."""

from pathlib import Path

from playwright.sync_api import Browser, Page

from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline.reports.model import ReportInput

# How people look at a page: the width of the window in pixels, and what the browser says of itself.
DESK, PHONE = 1280, 390


class Opened:
    """A report that is open; `options` are those of Playwright's `new_page`."""

    def __init__(self, browser: Browser, file: Path, width: int = DESK, **options: object) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        self.url = file.as_uri()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(self.url)

    def assert_quiet(self) -> None:
        """It said nothing, and asked for nothing but itself."""
        assert self.messages == []
        assert self.requests == [self.url]


def write(folder: Path, data: ReportInput, name: str = "report") -> Path:
    """Write the page of a report into a folder."""
    file = folder / f"{name}.html"
    file.write_text(render_html(data, figures(data)), encoding="utf-8")
    return file
