"""Stalled work is distinguished from slow work, by limits that were learnt."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.monitoring.stalls import (
    SECONDS_FLOOR,
    Limits,
    StallAssessment,
    WorkState,
    assess,
    assess_batch,
    assess_open_batches,
)
from doceval_pipeline.batches.monitoring.status import every_progress
from doceval_pipeline.batches.staging.reprocessing import Mode, pause, reprocess
from doceval_pipeline.doc_eval import progress
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.progress import usual_gap
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.queue_rows import DeferredRows, RunningRows
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim

BatchOf = Callable[..., Sample]
LIMITS = Limits(untaken=120, running={1: 900})


def assessed(
    cells: CellCounts, seconds_unchanged: float, *running: RunningRows, status: str = "ANALYZING"
) -> StallAssessment:
    return assess(Status(status), cells, seconds_unchanged, running, LIMITS)


def rows(number: int, oldest: float | None = None, connection: int = 1) -> RunningRows:
    return RunningRows(1, connection, "gpt", number, oldest)


@pytest.mark.parametrize(
    ("cells", "seconds_unchanged", "running", "state"),
    [
        (CellCounts(waiting=5), 100, [], WorkState.MOVING),
        (CellCounts(waiting=5), 130, [], WorkState.UNTAKEN),
        (CellCounts(waiting=5, running=2), 130, [rows(2)], WorkState.SLOW),
        (CellCounts(waiting=5, running=2), 130, [rows(2, oldest=899)], WorkState.SLOW),
        (CellCounts(waiting=5, running=2), 10, [rows(2, oldest=901)], WorkState.STUCK),
        (CellCounts(running=2), 901, [rows(2)], WorkState.STUCK),
        (CellCounts(running=2), 599, [rows(2, connection=9)], WorkState.SLOW),
        (CellCounts(running=2), 601, [rows(2, connection=9)], WorkState.STUCK),
        (CellCounts(unknown=1, succeeded=3), 5, [], WorkState.UNREADABLE),
        (CellCounts(running=1, unknown=1), 5, [rows(1)], WorkState.MOVING),
        (CellCounts(succeeded=4), 5, [], WorkState.AT_REST),
    ],
)
def test_an_absent_a_lost_and_a_slow_processor_are_distinguished(
    cells: CellCounts, seconds_unchanged: float, running: list[RunningRows], state: WorkState
) -> None:
    assert assessed(cells, seconds_unchanged, *running).state is state


@pytest.mark.parametrize("status", ["SAVED", "STAGING", "COMPLETED", "FAILED"])
def test_a_batch_without_pending_work_rests(status: str) -> None:
    assert assessed(CellCounts(waiting=5), 1e6, status=status).state is WorkState.AT_REST


def test_a_paused_batch_does_not_wait_for_a_processor_but_its_running_rows_do() -> None:
    assert assessed(CellCounts(waiting=1, paused=5), 1e6, status="PAUSED").state is WorkState.AT_REST
    stuck = assessed(CellCounts(running=1, paused=5), 1e6, rows(1), status="PAUSED")
    assert stuck.state is WorkState.STUCK


def test_the_sentence_names_the_connection_the_times_and_the_fix() -> None:
    sentence = assessed(CellCounts(running=3), 2_700, rows(3)).sentence
    assert sentence == (
        "3 rows of gpt, which never needed more than 15 min 00 s, taken 45 min 00 s ago or longer and not "
        "finished: check whether the processor that took them is still running"
    )
    assert "no row was taken for 10 min 00 s: check whether a processor is running" in (
        assessed(CellCounts(waiting=1), 600).sentence
    )


def age(batch: Sample, seconds: int) -> None:
    batch.doc_eval(
        "UPDATE batch_progress SET observed_at = observed_at - make_interval(secs => :s)", s=seconds
    )


def test_untaken_rows_are_found_until_one_is_taken(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    poll(batch.databases)
    age(batch, 200)
    assert assess_open_batches(batch.databases)[batch.id].state is WorkState.UNTAKEN
    assert assess_batch(batch.databases, batch.id).state is WorkState.UNTAKEN
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert assess_batch(batch.databases, batch.id).state is WorkState.MOVING
    poll(batch.databases)
    assert assess_open_batches(batch.databases)[batch.id].state is WorkState.MOVING


def test_how_long_a_row_may_run_is_learnt_from_what_the_connection_needed(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', time_taken_seconds = 1800")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    reprocess(batch.databases, batch.id, Mode.all, lambda *_: None)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'P', started_processing_at = now() - interval '25 minutes' "
        "WHERE attempt = 2"
    )
    poll(batch.databases)
    assert assess_batch(batch.databases, batch.id).state is WorkState.MOVING
    batch.knowledge("UPDATE llm_responses SET started_processing_at = now() - interval '31 minutes'")
    assert assess_batch(batch.databases, batch.id).state is WorkState.STUCK


def test_the_usual_gap_is_that_of_the_newest_batches(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "BATCHES_WITH_GAPS", 1)
    for name, seconds in (("old", 9_000), ("new", 900)):
        batch = batch_of(documents=1, name=name)
        for waiting in range(30, 0, -1):
            batch.doc_eval(
                "INSERT INTO batch_progress "
                "VALUES (:id, now() - make_interval(secs => :seconds * :n), :n, 0, 0, 30 - :n, 0, 0)",
                n=waiting,
                seconds=seconds,
            )
    with batch.databases.doc_eval.connect() as connection:
        assert usual_gap(connection, 30) == pytest.approx(900, abs=1)


def test_a_processor_that_comes_every_quarter_of_an_hour_is_no_alarm(batch_of: BatchOf) -> None:
    batch = batch_of(documents=30, connections=1, prompts=1)
    batch.stage()
    with batch.databases.doc_eval.connect() as connection:
        assert usual_gap(connection, 30) is None
    for waiting in range(30, 5, -1):
        batch.doc_eval(
            "INSERT INTO batch_progress "
            "VALUES (:id, now() - make_interval(secs => 900 * :n), :n, 0, 0, :d, 0, 0)",
            n=waiting,
            d=30 - waiting,
        )
    with batch.databases.doc_eval.connect() as connection:
        assert usual_gap(connection, 30) == pytest.approx(900, abs=1)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S' WHERE id IN (SELECT id FROM llm_responses LIMIT 25)"
    )
    batch.doc_eval("UPDATE batch_progress SET observed_at = observed_at + interval '62 minutes'")
    assert assess_open_batches(batch.databases)[batch.id].state is WorkState.MOVING
    age(batch, 600)
    assert assess_open_batches(batch.databases)[batch.id].state is WorkState.UNTAKEN


def test_nothing_is_called_stalled_before_the_floor(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    poll(batch.databases)
    age(batch, int(SECONDS_FLOOR) - 20)
    assert assess_open_batches(batch.databases)[batch.id].state is WorkState.MOVING
    pause(batch.databases, batch.id)
    age(batch, 10_000)
    assert assess_batch(batch.databases, batch.id).state is WorkState.AT_REST


def wait(rows: int, due: float | None = None, uncounted: int = 1) -> DeferredRows:
    moment = datetime(2026, 11, 27, 14, 5, tzinfo=UTC) if rows else None
    return DeferredRows(1, rows, moment, moment, uncounted, due)


@pytest.mark.parametrize(
    ("deferred", "state"),
    [
        (wait(5), WorkState.DEFERRED),
        (wait(5, due=900), WorkState.DEFERRED),
        (wait(4), WorkState.UNTAKEN),
        (wait(0, due=10), WorkState.MOVING),
        (wait(0, due=130), WorkState.UNTAKEN),
        (None, WorkState.UNTAKEN),
    ],
)
def test_deferred_rows_do_not_count_as_untaken(deferred: DeferredRows | None, state: WorkState) -> None:
    cells = CellCounts(waiting=5)
    assert assess(Status("ANALYZING"), cells, 1_800, [], LIMITS, deferred).state is state


def test_rows_that_wait_say_until_when_and_how_often_they_were_given_back() -> None:
    assert wait(1).sentence == "1 row waits until 2026-11-27 14:05:00 UTC, as the processor asked"
    assert wait(12, uncounted=37).sentence == (
        "12 rows wait until 2026-11-27 14:05:00 UTC, as the processor asked; "
        "given back up to 37 of 1,000 times without counting"
    )
    assert wait(1, uncounted=1_000).sentence.endswith(
        "given back up to 1,000 of 1,000 times without counting; "
        "further ones count towards the five deliveries"
    )


def test_a_shared_moment_is_named_once() -> None:
    first = datetime(2026, 11, 27, 14, 5, 0, 100, tzinfo=UTC)
    assert DeferredRows(1, 5, first, first.replace(microsecond=900_000), 1, None).sentence == (
        "5 rows wait until 2026-11-27 14:05:00 UTC, as the processor asked"
    )


def test_rows_under_a_lease_do_not_stall_and_the_sentence_says_when_they_come_back() -> None:
    ends = datetime(2026, 11, 27, 14, 5, tzinfo=UTC)
    leased = RunningRows(1, 1, "gpt", 2, 2_700, ends)
    found = assessed(CellCounts(running=2), 2_700, leased)
    assert found == StallAssessment(
        WorkState.SLOW,
        "2 rows of gpt, which never needed more than 15 min 00 s, taken 45 min 00 s ago or longer and not "
        "finished; the last lease on them runs until 2026-11-27 14:05:00 UTC unless it is renewed, and rows "
        "without a result then return to the queue",
    )
    assert assessed(CellCounts(running=3), 2_700, leased, rows(1)).state is WorkState.STUCK


def test_a_row_stalls_only_once_its_lease_is_over(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    claim(batch.databases.knowledge, 1, lease="1 hour")
    batch.plant("UPDATE llm_responses SET started_processing_at = now() - interval '30 minutes'")
    poll(batch.databases)
    assert "the last lease on them runs until" in assess_batch(batch.databases, batch.id).sentence
    batch.plant("UPDATE llm_responses SET lease_expires_at = now() - interval '1 second' WHERE status = 'P'")
    assert assess_batch(batch.databases, batch.id).state is WorkState.STUCK


def test_status_and_assessment_show_deferred_rows(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    poll(batch.databases)
    age(batch, 3_600)
    for row in claim(batch.databases.knowledge, 2):
        call(
            batch.databases.knowledge, "fail", row.token, "busy", retry=True, not_before="1 h", counted=False
        )
    assert assess_open_batches(batch.databases)[batch.id].state is WorkState.DEFERRED
    (progress,) = every_progress(batch.databases)
    assert progress.deferred is not None
    assert progress.as_json()["deferred"] | {"first": 0, "last": 0} == {
        "rows": 2,
        "first": 0,
        "last": 0,
        "uncounted": 1,
    }
