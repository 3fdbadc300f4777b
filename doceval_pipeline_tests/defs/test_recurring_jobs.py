"""Recurring evaluations on Dagster's pages: their times, runs and batches."""

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.defs.recurring import recurring_evaluations
from doceval_pipeline.defs.recurring_text import MOST_SHOWN, overview
from doceval_pipeline.doc_eval.batches import list_batches
from doceval_pipeline.doc_eval.recurring.occurrences import list_occurrences
from doceval_pipeline.doc_eval.recurring.stored import find_recurring, list_recurring
from doceval_pipeline.domain.recurring import OccurrenceOutcome
from doceval_pipeline.errors import UnknownRecurring
from doceval_pipeline_tests.batches.staging.test_recurring import define, doc_eval, record_of
from doceval_pipeline_tests.conftest import write_old
from doceval_pipeline_tests.defs.running import QUIET, failure, run, tick


@pytest.fixture
def inbox(databases: Databases, tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    write_old(folder / "a.txt", "a document")
    return folder


def launched(instance: dg.DagsterInstance, job: str, op: str, **config: Any) -> dg.ExecuteInProcessResult:
    return run(instance, job, None, run_config={**QUIET, "ops": {op: {"config": config}}})


def metadata(result: dg.ExecuteInProcessResult, kind: str = "STEP_OUTPUT") -> dict[str, Any]:
    (event,) = [event for event in result.all_events if event.event_type_value == kind]
    data: Any = event.event_specific_data
    shown = data.asset_observation.metadata if kind == "ASSET_OBSERVATION" else data.metadata
    return {key: value.value for key, value in shown.items()}


def test_the_run_of_an_occurrence_is_linked_to_its_batch_and_the_batch_to_the_run(
    databases: Databases, instance: dg.DagsterInstance, inbox: Path
) -> None:
    define(databases, inbox, max_documents=1)
    doc_eval(databases, "UPDATE recurring_evaluations SET watched_from = '2026-11-19Z'")
    write_old(inbox / "b.txt", "another document")
    result = launched(
        instance, "run_recurring", "make_batch", name="inbox", due_at="2026-11-20T02:00:00+01:00"
    )
    doc_eval(databases, "UPDATE recurring_evaluations SET watched_from = now()")
    due_at = "2026-11-20T01:00:00+00:00"
    made = metadata(result)
    key = made["partition"]
    assert (made["outcome"], made["due_at"]) == ("MADE", due_at)
    assert instance.has_dynamic_partition("batches", key)
    observed = metadata(result, "ASSET_OBSERVATION")
    assert observed["batch"] == "inbox 2026-11-20"
    assert (observed["recurring_evaluation"], observed["files_new"]) == ("inbox", 2)
    tags = instance.get_run_by_id(result.run_id)
    assert tags is not None
    assert tags.tags["doceval/recurring"] == "inbox"
    assert tags.tags["doceval/batch"] == "inbox 2026-11-20"

    staged = run(instance, "stage_batch", key)
    assert staged.success
    shown = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata
        for event in staged.get_asset_materialization_events()
    }
    assert shown["batch_config_snapshot"]["recurring_evaluation"].value == "inbox"
    assert shown["batch_config_snapshot"]["due_at"].value == due_at
    reason = "2 documents exceed max_documents (1)"
    assert shown["queue_rows"]["held_reason"].value == reason
    assert f"{key} is held: {reason}" in shown_by_a_tick(instance)


def shown_by_a_tick(instance: dg.DagsterInstance) -> str:
    return str(tick(recurring_evaluations, instance).skip_reason.skip_message)


HOSTILE = [
    "inbox 2",
    "' OR 1=1 --",
    "${HOME}",
    "\ud800",
    "in\nbox\x1b[31m",
    "x" * 100_000,
    "",
    "in\x00box",
]


def test_an_unknown_name_fails_in_one_line(databases: Databases, instance: dg.DagsterInstance) -> None:
    said = failure(launched(instance, "delete_recurring", "delete", name=HOSTILE[-1]))
    errors = [said]
    with databases.doc_eval.connect() as connection:
        for name in HOSTILE:
            with pytest.raises(UnknownRecurring) as raised:
                find_recurring(connection, name)
            errors.append(str(raised.value))
    for said in errors:
        assert re.search(r"recurring evaluation .* does not exist: ", said, re.DOTALL)
        assert said.isprintable()
        assert len(said) < 2_000


def test_jobs_pause_resume_and_delete_and_report_whether_anything_changed(
    databases: Databases, instance: dg.DagsterInstance, inbox: Path
) -> None:
    define(databases, inbox)

    def result(job: str, op: str) -> str:
        return str(metadata(launched(instance, job, op, name="inbox"))["result"])

    assert result("pause_recurring", "pause") == "inbox is paused"
    assert result("pause_recurring", "pause") == "inbox was already paused"
    assert "inbox: paused, last none yet" in shown_by_a_tick(instance)
    assert result("resume_recurring", "resume") == "inbox is resumed"
    assert result("resume_recurring", "resume") == "inbox was not paused"
    assert result("delete_recurring", "delete") == "inbox is deleted; its batches are kept"
    assert shown_by_a_tick(instance) == "no recurring evaluation is defined"


def test_an_occurrence_with_a_missing_folder_is_recorded_and_shown_with_the_reason(
    databases: Databases, instance: dg.DagsterInstance, inbox: Path
) -> None:
    record = define(databases, inbox)
    shutil.rmtree(inbox)
    made = metadata(launched(instance, "run_recurring", "make_batch", name="inbox"))
    assert made["outcome"] == "FAILED"
    assert str(inbox) in made["reason"]
    with databases.doc_eval.connect() as connection:
        (occurrence,) = list_occurrences(connection, record.id, 1000)
    assert occurrence.outcome is OccurrenceOutcome.FAILED
    shown = shown_by_a_tick(instance)
    assert "(failed: " in shown
    assert str(inbox) in shown


@pytest.mark.parametrize(
    "due_at", ["tomorrow", "2026-11-20T01:00:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00Z", "\x00"]
)
def test_an_invalid_or_future_time_makes_nothing(
    databases: Databases, instance: dg.DagsterInstance, inbox: Path, due_at: str
) -> None:
    record = define(databases, inbox)
    said = failure(launched(instance, "run_recurring", "make_batch", name="inbox", due_at=due_at))
    assert "is not a past time with a time zone" in said
    with databases.doc_eval.connect() as connection:
        assert list_occurrences(connection, record.id, 1000) == []


def test_a_tick_shows_the_next_and_the_last_occurrence_the_soonest_first(
    databases: Databases, instance: dg.DagsterInstance, inbox: Path
) -> None:
    record = replace(define(databases, inbox), now=datetime(2026, 12, 1, 12, tzinfo=UTC))
    nights = replace(
        record,
        newest_due_at=record.now - timedelta(hours=11),
        newest_outcome=OccurrenceOutcome.SKIPPED,
        newest_reason="nothing\nis new",
    )
    assert overview([nights], [], []) == (
        "inbox: next 2026-12-02 01:00 UTC, last 2026-12-01 01:00 UTC (no batch: nothing␊is new)"
    )
    later = replace(
        record, name="later", definition=record.definition.model_copy(update={"schedule": "0 0 1 1 *"})
    )
    arrivals = record.definition.model_copy(update={"schedule": None, "on_arrival": True})
    others = [replace(record, name=f"arrivals {n:03}", definition=arrivals) for n in range(100)]
    said = overview([*others, later, nights], [], ["x: folder is away"]).split("; ")
    assert [part.split(":")[0] for part in said[:4]] == ["x", "inbox", "later", "arrivals 000"]
    assert said[3] == "arrivals 000: on arrival, last none yet"
    assert said[-1] == f"{102 - MOST_SHOWN} more: run doceval recurring list"


def test_a_batch_from_the_launchpad_may_reuse_results(
    databases: Databases, instance: dg.DagsterInstance, inbox: Path
) -> None:
    define(databases, inbox)
    config = {
        "name": "once",
        "folders": [str(inbox)],
        "connections": ["model"],
        "prompts": ["clarity"],
        "new_connections": [],
        "new_prompts": [],
    }
    for reuse, is_right in (("always", False), ("finished", True)):
        result = run(
            instance,
            "create_batch",
            None,
            run_config={**QUIET, "ops": {"create": {"config": {**config, "reuse": reuse}}}},
        )
        assert result.success is is_right
        if not is_right:
            assert "config: reuse" in failure(result)
    with databases.doc_eval.connect() as connection:
        (batch,) = list_batches(connection)
        assert batch.reuse == "finished"
        assert [record.name for record in list_recurring(connection)] == [record_of(databases).name]
