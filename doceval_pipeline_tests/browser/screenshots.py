"""Takes the pictures of the report in `docs/images`: `python -m doceval_pipeline_tests.browser.screenshots`.

They show a batch that is made up, always the same.
"""

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from doceval_pipeline_tests.browser.conftest import ARGUMENTS, chromium
from doceval_pipeline_tests.browser.opened import PHONE, Opened, write
from doceval_pipeline_tests.reports.sample_reports import judged, with_margin

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 1180
SECTIONS = (
    *("leaderboard", "thresholds", "failures", "distributions", "disagreements", "agreement"),
    *("previous", "throughput", "integrity"),
)


def take_all(browser: Browser, folder: Path) -> None:
    file = write(folder, judged(22, 3, 2, thresholds={1: 60.0}))
    light = Opened(browser, file, WIDTH, color_scheme="light").page
    top = light.locator("#thresholds").bounding_box()
    assert top is not None
    light.screenshot(
        path=IMAGES / "report.png",
        full_page=True,
        clip={"x": 0, "y": 0, "width": WIDTH, "height": top["y"] - 20},
    )
    light.locator(".verdict").screenshot(path=IMAGES / "report-verdict.png")
    margin = Opened(browser, write(folder, with_margin(), "margin"), WIDTH, color_scheme="light").page
    margin.locator("#leaderboard").screenshot(path=IMAGES / "report-margin.png")
    light.locator("#integrity summary").click()
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
