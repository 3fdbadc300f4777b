"""Launchpads open with a commented example that can be launched once the names are right."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from doceval_pipeline.defs.launchpads import EXAMPLES
from doceval_pipeline_tests.browser.conftest import DAGSTER
from doceval_pipeline_tests.browser.test_actions import choose_partition
from doceval_pipeline_tests.cli.running import doceval, query, status, until, write_evaluation, write_old

pytestmark = pytest.mark.browser
TEXT = "document.querySelector('.CodeMirror').CodeMirror.getValue()"


def open_launchpad(page: Page, job: str) -> None:
    page.goto(f"{DAGSTER}/locations/doceval_pipeline/jobs/{job}/playground")
    page.locator(".CodeMirror-line").first.wait_for()
    expect(page.get_by_text("No errors").first).to_be_visible()


def test_launchpads_open_with_their_example_and_without_an_error(page: Page) -> None:
    for job in ("create_batch", "reprocess_batch", "archive_batch", "stage_batch"):
        open_launchpad(page, job)
        assert page.evaluate(TEXT) == EXAMPLES[job]


def test_the_example_of_create_batch_becomes_a_batch_once_its_names_are_right(
    page: Page, home: Path, tmp_path: Path
) -> None:
    write_old(tmp_path / "a.txt", "a document")
    open_launchpad(page, "create_batch")
    edited = (
        page.evaluate(TEXT).replace("my-batch", tmp_path.name).replace("/path/to/documents", str(tmp_path))
    )
    page.evaluate("text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", edited)
    expect(page.get_by_text("No errors").first).to_be_visible()
    page.get_by_role("button", name="Launch Run").click()
    found = "SELECT id FROM batches WHERE batch_name = %s"
    until(lambda: query(home, found, tmp_path.name, database="doc_eval"))
    assert status(home, tmp_path.name)["status"] == "SAVED"


def test_a_launchpad_stays_valid_and_keeps_its_values_when_a_batch_is_chosen(
    page: Page, home: Path, tmp_path: Path
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, tmp_path.name, documents=1)), DOCEVAL_HOME=str(home))
    key = status(home, tmp_path.name)["partition"]
    known = "SELECT 1 FROM dynamic_partitions WHERE partition = %s"
    until(lambda: query(home, known, key, database="dagster"))
    open_launchpad(page, "reprocess_batch")
    choose_partition(page, key)
    # Dagster's page writes the text anew from its values then, and drops every comment.
    # The page's policy forbids the eval by which Playwright would wait there.
    until(lambda: "#" not in page.evaluate(TEXT))
    values = {line.strip() for line in page.evaluate(TEXT).splitlines()}
    assert {"mode: 'missing'", "rescan: false", "dry_run: false"} <= values
    expect(page.get_by_role("button", name="Launch Run")).to_be_enabled()
