"""Many closed batches are reprocessed from Dagster's own dialogs."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from doceval_pipeline_tests.browser.conftest import DAGSTER
from doceval_pipeline_tests.cli import many
from doceval_pipeline_tests.cli.running import query, until
from doceval_pipeline_tests.conftest import Sample

pytestmark = pytest.mark.browser
REFUSED = "Value at path root:ops:queue_rows:config:mode not in enum type Mode got faild"


@pytest.fixture(scope="module")
def batches(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return many.closed_batches(home, tmp_path_factory.mktemp("documents"))


@pytest.fixture
def ready(batches: list[Sample], page: Page, home: Path) -> Page:
    """A page of an installation whose batches were made before Dagster ran."""
    many.until_registered(home, batches)
    return page


def test_the_launchpad_of_each_asset_proposes_its_config(ready: Page) -> None:
    for asset, proposed in (("queue_rows", "mode: missing"), ("document_assignment", "rescan: false")):
        ready.goto(f"{DAGSTER}/assets/{asset}")
        button = ready.get_by_role("button", name="Materialize").first
        button.locator("xpath=following::button[1]").click()
        ready.get_by_text("Open launchpad").click()
        expect(ready.locator(".CodeMirror").first).to_contain_text(proposed)


def test_the_backfill_dialog_takes_a_mode_and_57_evaluations_of_20_batches_are_done_again(
    ready: Page, home: Path, batches: list[Sample]
) -> None:
    reported = many.reports(home)
    ready.goto(f"{DAGSTER}/assets/queue_rows")
    ready.get_by_role("button", name="Materialize").first.click()
    choose(ready, [batches[number].key for number in many.CHOSEN])
    ready.get_by_text("Config", exact=True).click()
    ready.get_by_role("button", name="Add config").click()
    editor = ready.locator(".CodeMirror").first
    editor.click()
    ready.keyboard.insert_text("ops:\n  queue_rows:\n    config:\n      mode: faild")
    expect(ready.get_by_text(REFUSED)).to_be_visible()
    expect(ready.get_by_text("queues a new attempt for each").first).to_be_visible()
    expect(ready.get_by_role("button", name="Save config")).to_be_disabled()
    for _ in range(1):
        ready.keyboard.press("Backspace")
    ready.keyboard.type("ed")
    ready.get_by_role("button", name="Save config").click()
    expect(ready.get_by_text("Config saved")).to_be_visible()
    ready.get_by_role("button", name="Launch backfill").click()
    until(lambda: many.new_attempts(home) == many.expected_attempts(batches), seconds=300)
    query(home, f"{many.ANSWER} AND attempt > 1")
    until(lambda: many.reports(home) == reported + 20, seconds=300)


def choose(page: Page, keys: list[str]) -> None:
    """Select some partitions in the dialog: all, and then not the others."""
    raise NotImplementedError
