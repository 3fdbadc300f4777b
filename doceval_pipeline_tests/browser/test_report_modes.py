"""Reports of every kind, as they are on a desk by day and by night, on a phone and on paper."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from doceval_pipeline_tests.browser.opened import DESK, PHONE, Opened, write
from doceval_pipeline_tests.reports.sample_reports import REPORTS

pytestmark = pytest.mark.browser

MODES: dict[str, dict[str, Any]] = {
    "light": {"width": DESK, "color_scheme": "light"},
    "dark": {"width": DESK, "color_scheme": "dark"},
    "phone": {"width": PHONE, "color_scheme": "light", "has_touch": True, "is_mobile": True},
    "print": {"width": DESK, "color_scheme": "dark"},
}
# The checker looks at every element, which takes it up to a minute here, so that large ones are checked once.
NOT_CHECKED = {
    (name, mode)
    for name in ("1000-cells", "10000-cells", "many-prompts")
    for mode in MODES
    if mode != "light"
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {name: write(folder, make(), name) for name, make in REPORTS.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_quiet_fits_and_can_be_used_by_everybody(
    browser: Browser, written: dict[str, Path], name: str, mode: str
) -> None:
    report = Opened(browser, written[name], **MODES[mode])
    if mode == "print":
        report.page.emulate_media(media="print")
        assert report.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    else:
        # A browser shrinks what is too wide for paper.
        assert report.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    if (name, mode) not in NOT_CHECKED:
        assert serious_findings(report) == []
    report.assert_quiet()
    report.page.close()


def serious_findings(report: Opened) -> list[str]:
    """What the accessibility checker finds serious or critical, and where."""
    found = Axe().run(report.page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}: {node.get('failureSummary', '')[:300]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
