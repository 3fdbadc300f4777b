"""When Dagster is asked for a run: once at a time, and again until the request is fulfilled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.monitoring.run_requests import (
    LONGEST_PAUSE,
    Runs,
    claim_run_keys,
    decide,
    find_due_requests,
    missing_reports,
    pause_after,
)
from doceval_pipeline.doc_eval.lifecycle import Action, transition
from doceval_pipeline.doc_eval.runs.requests import Request, RunKind
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
PASS = "UPDATE run_requests SET due_at = due_at - make_interval(secs => :seconds)"


def request(attempt: int) -> Request:
    return Request(7, RunKind.REPORT, "w", attempt, "w", datetime(2026, 1, 1, tzinfo=UTC))


def requested(batch: Sample) -> None:
    batch.doc_eval("UPDATE batches SET stage_requested_at = now() WHERE id = :id")


def ask(batch: Sample, runs: Runs | None = None, kind: RunKind = RunKind.STAGE) -> list[str]:
    """The run keys that one check requests."""
    due = find_due_requests(batch.databases, kind)
    return list(claim_run_keys(batch.databases, due, {} if runs is None else {batch.id: runs}).values())


@given(attempt=st.integers(0, 1000))
def test_nothing_is_asked_for_while_a_run_waits_or_works(attempt: int) -> None:
    given_answer = decide(request(attempt), Runs(is_working=True))
    assert (given_answer.is_requested, given_answer.attempt) == (False, max(1, attempt))


@given(
    attempt=st.integers(1, 1000),
    ago=st.floats(0, 1e6),
    status=st.sampled_from(["FAILURE", "CANCELED", "SUCCESS"]),
)
def test_the_next_attempt_comes_after_its_pause_and_not_before(attempt: int, ago: float, status: str) -> None:
    found = decide(request(attempt), Runs(ended_as=status, ended_ago=ago))
    assert found.is_requested == (ago >= pause_after(attempt))
    assert found.attempt == attempt + found.is_requested
    assert 0 < found.pause <= LONGEST_PAUSE
    assert found.ended_as == status


def test_pauses_grow_from_half_a_minute_to_ten_minutes() -> None:
    assert [pause_after(attempt) for attempt in range(1, 8)] == [30, 60, 120, 240, 480, 600, 600]


def test_a_run_that_never_appeared_is_asked_for_again_under_the_same_key(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    requested(batch)
    (first,) = ask(batch)
    assert first.endswith("-1")
    assert ask(batch) == []
    batch.doc_eval(PASS, seconds=30)
    assert ask(batch) == [first]


def test_attempts_go_on_after_each_end_until_the_batch_is_staged(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    requested(batch)
    (first,) = ask(batch)
    batch.doc_eval(PASS, seconds=30)
    assert ask(batch, Runs(ended_as="FAILURE", ended_ago=5.0)) == []
    batch.doc_eval(PASS, seconds=25)
    assert ask(batch, Runs(ended_as="FAILURE", ended_ago=30.0)) == [f"{first[:-1]}2"]
    batch.doc_eval(PASS, seconds=600)
    assert ask(batch, Runs(ended_as="CANCELED", ended_ago=60.0)) == [f"{first[:-1]}3"]
    batch.doc_eval(PASS, seconds=600)
    batch.stage()
    assert ask(batch) == []


@pytest.mark.parametrize("askers", [2, 8])
def test_one_of_several_concurrent_callers_gets_the_run_key(batch_of: BatchOf, askers: int) -> None:
    batch = batch_of(documents=1)
    requested(batch)
    due = find_due_requests(batch.databases, RunKind.STAGE)
    with ThreadPoolExecutor(askers) as pool:
        found = list(pool.map(lambda _: claim_run_keys(batch.databases, due, {}), range(askers)))
    assert sum(map(len, found)) == 1


def test_a_request_that_is_made_again_is_asked_for_at_once_unless_a_run_waits(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    requested(batch)
    (first,) = ask(batch)
    requested(batch)
    assert ask(batch, Runs(is_working=True)) == []
    requested(batch)
    (again,) = ask(batch)
    assert again != first
    assert again.endswith("-1")


def test_a_failed_staging_is_requested_again_only_after_a_new_request(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    requested(batch)
    with batch.databases.doc_eval.begin() as connection:
        transition(connection, batch.id, Action.FAIL_STAGING, "the folder is gone")
    assert ask(batch) == []
    requested(batch)
    assert len(ask(batch)) == 1


def test_a_report_is_missed_after_two_minutes_or_as_soon_as_a_run_has_ended_without_it(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    assert len(ask(batch, kind=RunKind.REPORT)) == 1
    assert missing_reports(batch.databases) == {}
    batch.doc_eval(PASS, seconds=30)
    assert ask(batch, Runs(ended_as="CANCELED", ended_ago=1.0), RunKind.REPORT) == []
    found = missing_reports(batch.databases)[batch.id]
    assert "attempt 1, the last run ended as CANCELED at 20" in found.missing_report
    assert f"run doceval report {batch.id}" in found.missing_report
    batch.doc_eval("DELETE FROM run_requests")
    batch.doc_eval("UPDATE batches SET completed_at = now() - interval '3 minutes'")
    assert missing_reports(batch.databases)[batch.id].attempt == 0
