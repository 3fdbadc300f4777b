"""Many closed batches are reprocessed from Dagster's own dialogs."""

from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, expect

from doceval_pipeline_tests.browser.conftest import DAGSTER
from doceval_pipeline_tests.cli import many
from doceval_pipeline_tests.cli.running import query, until
from doceval_pipeline_tests.conftest import Sample

pytestmark = pytest.mark.browser
# Milliseconds in which a list that is open shows what was typed.
SOON = 5_000
REFUSED = "Value at path root:ops:queue_rows:config:mode not in enum type Mode got faild"


@pytest.fixture(scope="module")
def batches(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return many.closed_batches(home, tmp_path_factory.mktemp("documents"))


@pytest.fixture
def ready(batches: list[Sample], page: Page, home: Path) -> Page:
    """A page of an installation whose batches were made before Dagster ran.

    Dagster knows nothing of their staging, and asks whether assets that follow it may be materialized.
    """
    many.until_registered(home, batches)
    return page


def test_the_launchpad_of_each_asset_proposes_its_config(ready: Page) -> None:
    for asset, proposed in (("queue_rows", "mode: missing"), ("document_assignment", "rescan: false")):
        ready.goto(f"{DAGSTER}/assets/{asset}")
        button = ready.get_by_role("button", name="Materialize").first
        button.locator("xpath=following::button[1]").click()
        ready.get_by_text("Open launchpad").click()
        ready.get_by_role("button", name="Confirm").click()
        expect(ready.locator(".CodeMirror").first).to_contain_text(proposed)


def test_the_backfill_dialog_takes_a_mode_and_57_evaluations_of_20_batches_are_done_again(
    ready: Page, home: Path, batches: list[Sample]
) -> None:
    reported = many.reports(home)
    ready.goto(f"{DAGSTER}/assets/queue_rows")
    ready.get_by_role("button", name="Materialize").first.click()
    ready.get_by_role("button", name="Confirm").click()
    chosen = {batches[number].key for number in many.CHOSEN}
    choose_all_but(ready, [batch.key for batch in batches if batch.key not in chosen])
    expect(ready.get_by_text("20 partitions", exact=True)).to_be_visible()
    ready.get_by_text("Config", exact=True).click()
    ready.get_by_role("button", name="Add config").click()
    editor = ready.locator(".CodeMirror").first
    editor.click()
    ready.keyboard.insert_text("ops:\n  queue_rows:\n    config:\n      mode: faild")
    expect(ready.get_by_text(REFUSED)).to_be_visible()
    expect(ready.get_by_text("queues a new attempt for each").first).to_be_visible()
    expect(ready.get_by_role("button", name="Save config")).to_be_disabled()
    ready.keyboard.press("Backspace")
    ready.keyboard.type("ed")
    ready.get_by_role("button", name="Save config").click()
    expect(ready.get_by_text("Config saved")).to_be_visible()
    ready.get_by_role("button", name="Launch backfill").click()
    until(lambda: many.new_attempts(home) == many.expected_attempts(batches), seconds=900)
    query(home, f"{many.ANSWER} AND attempt > 1")
    until(lambda: many.reports(home) == reported + 20, seconds=900)


def choose_all_but(page: Page, keys: list[str]) -> None:
    """Select all partitions in the dialog, and then not these."""
    page.get_by_text("Select a partition or create one").click()
    page.get_by_text("Select all (").click()
    for key in keys:
        until(partial(_is_toggled, page, key))
    page.get_by_text("Launch runs to materialize").click()


def _is_toggled(page: Page, key: str) -> bool:
    """Click a partition in the list; False if the list closed before.

    It closes whenever the page learns something new about partitions.
    """
    field = page.get_by_placeholder("Filter partitions")
    try:
        if not field.is_visible():
            page.get_by_text("partitions selected").click(timeout=SOON)
        field.fill("", timeout=SOON)
        field.press_sequentially(key, timeout=SOON)
        page.locator("label", has_text=key).click(timeout=SOON)
    except Error:
        return False
    return True
