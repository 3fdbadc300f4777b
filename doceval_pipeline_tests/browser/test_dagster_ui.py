"""The main job through Dagster's own pages: a person clicks, a processor writes, the report appears."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from doceval_pipeline_tests.browser.conftest import DAGSTER
from doceval_pipeline_tests.cli.running import doceval, query, status, until, write_evaluation

pytestmark = pytest.mark.browser


def test_a_batch_is_materialized_from_the_ui_and_its_report_appears_by_itself(
    page: Page, home: Path, tmp_path: Path
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "from the UI", documents=2)), DOCEVAL_HOME=str(home))
    number = status(home, "from the UI")["batch"]
    key = f"batch-{number:06d}"
    # The sensor new_batches registers the partition within seconds.
    until(
        lambda: query(home, "SELECT 1 FROM dynamic_partitions WHERE partition = %s", key, database="dagster")
    )
    page.goto(f"{DAGSTER}/locations/doceval_pipeline/jobs/stage_batch")
    page.get_by_role("button", name="Materialize all").first.click()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch").click()
    until(lambda: status(home, "from the UI")["status"] == "STAGED")

    rows = [row[0] for row in query(home, "SELECT id FROM llm_responses ORDER BY id")]
    assert len(rows) == 8
    query(home, "UPDATE llm_responses SET task_id = 't', status = 'P' WHERE id = %s", rows[0])
    query(home, "UPDATE llm_responses SET status = 'F', error_message = 'no answer' WHERE task_id = 't'")
    query(home, "UPDATE llm_responses SET status = 'S', overall_score = 0 WHERE id = %s", rows[1])
    query(home, "UPDATE llm_responses SET status = 'S', overall_score = 60 WHERE status = 'QUEUED'")
    (report,) = until(lambda: list((home / "reports").glob(f"{key}-*.html")))
    assert "1 of 8 evaluations failed" in report.read_text()

    page.goto(f"{DAGSTER}/assets/completion_report?view=partitions&partition={key}")
    expect(page.get_by_text("Complete with failures: 1 of 8 evaluations failed").first).to_be_visible()
    # Dagster shows a text of more than 1,000 characters when it is asked to.
    page.get_by_text("[Show Markdown]").first.click()
    expect(page.get_by_text("7 succeeded, 1 failed").first).to_be_visible()
    page.keyboard.press("Escape")
    counted = query(home, "SELECT status, count(*) FROM llm_responses GROUP BY 1 ORDER BY 1")
    assert counted == [("F", 1), ("S", 7)]
    assert page.locator("img[src^='data:image/svg+xml']").count() == 1

    # The report itself, by a click.
    with page.context.expect_page() as opened:
        page.locator(f"a[href='/reports/{report.name}']").first.click()
    said: list[str] = []
    opened.value.on("console", lambda message: said.append(message.text))
    opened.value.wait_for_load_state()
    opened.value.reload()
    expect(opened.value.get_by_role("heading", name="from the UI")).to_be_visible()
    opened.value.get_by_label("Text in name, message or response").fill("1.txt")
    expect(opened.value.get_by_text("1 of 2 files shown")).to_be_visible()
    # It has no origin, so that it reaches nothing of the webserver.
    assert opened.value.evaluate("self.origin") == "null"
    assert "system-ui" in opened.value.evaluate("getComputedStyle(document.body).fontFamily")
    assert said == []


def test_the_asset_graph_shows_all_of_the_way(page: Page) -> None:
    page.goto(f"{DAGSTER}/assets/completion_report?view=lineage&lineageScope=upstream&lineageDepth=5")
    for name in ("encoded_documents", "queue_rows", "llm_responses", "completion_report"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_a_partition_that_somebody_typed_fails_with_a_clear_sentence(page: Page, home: Path) -> None:
    page.goto(f"{DAGSTER}/locations/doceval_pipeline/jobs/stage_batch")
    page.get_by_role("button", name="Materialize all").first.click()
    page.get_by_role("button", name="Add a partition").click()
    page.get_by_placeholder("name").last.fill("my-own")
    page.get_by_role("button", name="Save", exact=True).click()
    launch = page.get_by_role("button", name="Launch")
    try:
        expect(launch).to_be_enabled(timeout=10_000)
    except AssertionError:
        # The dialog does not always select the partition that it has added.
        page.get_by_role("button", name="All", exact=True).click()
    launch.click()
    failed = "SELECT run_id FROM runs WHERE status = 'FAILURE' AND partition = 'my-own'"
    ((run,),) = until(lambda: query(home, failed, database="dagster"))
    page.goto(f"{DAGSTER}/runs/{run}")
    expect(page.get_by_text("has no batch:").first).to_be_visible()
