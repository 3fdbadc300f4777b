"""Everything that people do to a batch, done once by clicks in Dagster's launchpad."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from doceval_pipeline_tests.browser.conftest import DAGSTER
from doceval_pipeline_tests.cli.running import doceval, query, status, until, write_evaluation, write_old

pytestmark = pytest.mark.browser
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def launch(page: Page, home: Path, job: str, key: str, changes: dict[str, str] | None = None) -> None:
    """Launch a job from its launchpad for one partition, wait until it succeeded, and open its page.

    `changes` says which words of the proposed config are typed over by which others.
    """
    before = {run for run, _ in runs_of(home, job, key)}
    page.goto(f"{DAGSTER}/locations/doceval_pipeline/jobs/{job}/playground")
    choose_partition(page, key)
    for line, word in (changes or {}).items():
        page.locator(".CodeMirror-line", has_text=line).locator("span span").last.dblclick()
        page.keyboard.type(word)
    expect(page.get_by_text("No errors").first).to_be_visible()
    page.get_by_role("button", name="Launch Run").click()
    ((run, word),) = until(
        lambda: [(run, word) for run, word in runs_of(home, job, key) if run not in before and word in ENDED]
    )
    assert word == "SUCCESS"
    page.goto(f"{DAGSTER}/runs/{run}")


def choose_partition(page: Page, key: str) -> None:
    field = page.get_by_placeholder("Partition")
    field.click()
    field.press_sequentially(key)
    field.press("Enter")
    # A partition that the page does not know yet is marked as wrong, and the run is refused.
    expect(page.get_by_text("No errors").first).to_be_visible()


def runs_of(home: Path, job: str, key: str) -> list[Any]:
    """Runs of a job for a partition, and the word that says how each went."""
    return query(
        home,
        "SELECT runs.run_id, status FROM runs JOIN run_tags USING (run_id) WHERE pipeline_name = %s "
        "AND key = 'dagster/partition' AND value = %s",
        job,
        key,
        database="dagster",
    )


@pytest.fixture
def batch(home: Path, up: object, tmp_path: Path) -> Any:
    """A batch of 2 documents and 8 cells, staged."""
    name = tmp_path.name
    doceval("apply", str(write_evaluation(tmp_path, name, documents=2)), DOCEVAL_HOME=str(home))
    doceval("stage", name, DOCEVAL_HOME=str(home))
    return status(home, name)


def words(home: Path, batch: int) -> dict[str, int]:
    rows = query(home, "SELECT status, count(*) FROM llm_responses WHERE batch_id = %s GROUP BY 1", batch)
    return dict(rows)


def test_a_batch_is_paused_resumed_and_cancelled(page: Page, home: Path, batch: Any) -> None:
    number, key = batch["batch"], batch["partition"]
    launch(page, home, "pause_batch", key)
    assert words(home, number) == {"PAUSED": 8}
    assert status(home, key)["status"] == "PAUSED"
    launch(page, home, "resume_batch", key)
    assert words(home, number) == {"QUEUED": 8}
    launch(page, home, "cancel_batch", key)
    assert words(home, number) == {"F": 8}
    until(lambda: status(home, key)["status"] == "FAILED")


def test_a_batch_is_planned_reprocessed_and_looked_at_again(
    page: Page, home: Path, batch: Any, tmp_path: Path
) -> None:
    number, key = batch["batch"], batch["partition"]
    # The failure first: what succeeded stands.
    query(home, "UPDATE llm_responses SET status = 'F' WHERE id = (SELECT max(id) FROM llm_responses)")
    query(home, "UPDATE llm_responses SET status = 'S' WHERE batch_id = %s AND status <> 'F'", number)
    until(lambda: status(home, key)["status"] == "COMPLETED")
    launch(page, home, "reprocess_batch", key, {"dry_run": "true", "mode": "failed"})
    expect(page.get_by_text("new_attempts_to_add").first).to_be_visible()
    assert words(home, number) == {"S": 7, "F": 1}, "a dry run writes nothing"
    # The launchpad remembers what was typed last.
    launch(page, home, "reprocess_batch", key, {"dry_run": "false"})
    assert words(home, number) == {"S": 7, "F": 1, "QUEUED": 1}
    write_old(tmp_path / "documents" / "new.txt", "new")
    launch(page, home, "reprocess_batch", key, {"mode": "missing", "rescan": "true"})
    assert words(home, number) == {"S": 7, "F": 1, "QUEUED": 5}


def test_an_action_that_is_not_possible_says_in_the_run_what_is(page: Page, home: Path, batch: Any) -> None:
    page.goto(f"{DAGSTER}/locations/doceval_pipeline/jobs/resume_batch/playground")
    choose_partition(page, batch["partition"])
    page.get_by_role("button", name="Launch Run").click()
    failed = "SELECT run_id FROM runs WHERE pipeline_name = 'resume_batch' AND status = 'FAILURE'"
    ((run,),) = until(lambda: query(home, failed, database="dagster"))
    page.goto(f"{DAGSTER}/runs/{run}")
    expect(page.get_by_text("possible now: pause, cancel").first).to_be_visible()


def test_a_batch_is_archived_and_comes_back(page: Page, home: Path, batch: Any) -> None:
    number, key = batch["batch"], batch["partition"]
    query(home, "UPDATE llm_responses SET status = 'S', overall_score = 1 WHERE batch_id = %s", number)
    until(
        lambda: status(home, key)["status"] == "COMPLETED" and list((home / "reports").glob(f"{key}-*.html"))
    )
    launch(page, home, "archive_batch", key)
    assert words(home, number) == {}
    assert status(home, key)["archived"] is not None
    page.goto(f"{DAGSTER}/assets/completion_report?view=partitions&partition={key}")
    expect(page.get_by_text(key).first).to_be_visible()
    (file,) = (home / "archives").glob(f"{key}-*.zip")
    assert doceval("restore", str(file), DOCEVAL_HOME=str(home)).returncode == 0
    assert words(home, number) == {"S": 8}


def test_a_recurring_evaluation_is_run_from_the_launchpad_shown_by_its_sensor_and_held_at_its_limit(
    page: Page, home: Path, up: object, tmp_path: Path
) -> None:
    name = tmp_path.name
    evaluation = write_evaluation(tmp_path, name, documents=2)
    content = json.loads(evaluation.read_text())
    (batch,) = content.pop("batches")
    content["recurring"] = [{**batch, "schedule": "0 2 1 1 *", "max_documents": 1}]
    evaluation.write_text(json.dumps(content))
    doceval("apply", str(evaluation), DOCEVAL_HOME=str(home))

    page.goto(f"{DAGSTER}/locations/doceval_pipeline/jobs/run_recurring/playground")
    page.locator(".CodeMirror-line", has_text="my-recurring-evaluation").wait_for()
    page.evaluate(
        "name => { const editor = document.querySelector('.CodeMirror').CodeMirror;"
        "editor.setValue(editor.getValue().replace('my-recurring-evaluation', name)) }",
        name,
    )
    expect(page.get_by_text("No errors").first).to_be_visible()
    page.get_by_role("button", name="Launch Run").click()
    made = "SELECT max(id) FROM batches WHERE batch_name LIKE %s HAVING max(id) > 0"
    ((number,),) = until(lambda: query(home, made, f"{name} %", database="doc_eval"))
    held = until(lambda: status(home, str(number))["held_reason"])
    key, reason = f"batch-{number:06d}", "2 documents exceed max_documents (1)"
    assert held == reason

    # The run is linked with the batch, and the batch shows what made it and why it is held.
    found = "SELECT run_id FROM runs WHERE pipeline_name = 'run_recurring' AND status = 'SUCCESS'"
    ((run,),) = until(lambda: query(home, found, database="dagster"))
    page.goto(f"{DAGSTER}/runs/{run}")
    expect(page.get_by_text("recurring_evaluation").first).to_be_visible()
    expect(page.get_by_text(key).first).to_be_visible()
    page.goto(f"{DAGSTER}/assets/batch_config_snapshot?view=partitions&partition={key}")
    expect(page.get_by_text("recurring_evaluation").first).to_be_visible()
    page.goto(f"{DAGSTER}/assets/queue_rows?view=partitions&partition={key}")
    expect(page.get_by_text(reason).first).to_be_visible()

    page.goto(f"{DAGSTER}/locations/doceval_pipeline/sensors/recurring_evaluations")
    times = re.compile(rf"{key} is held: .*; {name}: next 20\d\d-01-01 02:00 UTC, last 20.* \({key}\)")
    until(lambda: times.search(newest_tick(page)))


def newest_tick(page: Page) -> str:
    """What Dagster says about the newest tick on the page of a sensor."""
    page.reload()
    page.get_by_role("button", name="0 runs requested").first.click()
    dialog = page.get_by_text("Skip reason").locator("..")
    dialog.wait_for()
    return dialog.inner_text()
