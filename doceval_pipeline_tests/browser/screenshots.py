"""Takes the pictures of the report in `docs/images`: `python -m doceval_pipeline_tests.browser.screenshots`.

They show a batch that is made up, always the same.
"""

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from doceval_pipeline_tests.browser.conftest import ARGUMENTS, chromium
from doceval_pipeline_tests.browser.opened import PHONE, Opened, write
from doceval_pipeline_tests.reports.sample_reports import batch

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 1180
SECTIONS = (
    *("failures", "leaderboard", "distributions", "disagreements", "agreement", "columns"),
    *("previous", "throughput", "integrity"),
)


def take_all(browser: Browser, folder: Path) -> None:
    file = write(folder, batch(24, 3, 2))
    light = Opened(browser, file, WIDTH, color_scheme="light").page
    top = light.locator("#distributions").bounding_box()
    assert top is not None
    light.screenshot(
        path=IMAGES / "report.png",
        full_page=True,
        clip={"x": 0, "y": 0, "width": WIDTH, "height": top["y"] - 20},
    )
    light.locator(".verdict").screenshot(path=IMAGES / "report-verdict.png")
    light.locator(".tiles").screenshot(path=IMAGES / "report-tiles.png")
    for section in SECTIONS:
        light.locator(f"#{section}").screenshot(path=IMAGES / f"report-{section}.png")
    light.locator("#filter-low").fill("85")
    light.locator(".sort").nth(1).click()
    light.mouse.move(0, 0)
    light.locator("#matrix").screenshot(path=IMAGES / "report-matrix.png")
    light.locator("td > button").locator("visible=true").first.click()
    light.locator(".result:popover-open").screenshot(path=IMAGES / "report-response.png")
    dark = Opened(browser, file, WIDTH, color_scheme="dark").page
    dark.screenshot(path=IMAGES / "report-dark.png")
    phone = Opened(browser, file, PHONE, color_scheme="light", has_touch=True, is_mobile=True).page
    phone.screenshot(path=IMAGES / "report-phone.png")


if __name__ == "__main__":
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        take_all(playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS), Path(folder))
