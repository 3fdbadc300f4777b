"""Stalled work is told from slow work, by limits that are learnt."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from doceval_pipeline.batches.monitoring.completion import look
from doceval_pipeline.batches.monitoring.stalls import (
    SECONDS_FLOOR,
    Judgement,
    Limits,
    Movement,
    judge,
    judge_one,
    judge_open,
)
from doceval_pipeline.batches.monitoring.status import batch_progress
from doceval_pipeline.batches.staging.reprocessing import Mode, pause, reprocess
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.progress import usual_gap
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.queue_rows import DeferredRows, RunningRows
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim

BatchOf = Callable[..., Sample]
LIMITS = Limits(untaken=120, running={1: 900})


def judged(
    cells: CellCounts, still_for: float, *running: RunningRows, status: str = "ANALYZING"
) -> Judgement:
    return judge(Status(status), cells, still_for, running, LIMITS)


def rows(number: int, oldest: float | None = None, connection: int = 1) -> RunningRows:
    return RunningRows(1, connection, "gpt", number, oldest)


@pytest.mark.parametrize(
    ("cells", "still_for", "running", "movement"),
    [
        (CellCounts(waiting=5), 100, [], Movement.MOVING),
        (CellCounts(waiting=5), 130, [], Movement.UNTAKEN),
        (CellCounts(waiting=5, running=2), 130, [rows(2)], Movement.SLOW),
        (CellCounts(waiting=5, running=2), 130, [rows(2, oldest=899)], Movement.SLOW),
        (CellCounts(waiting=5, running=2), 10, [rows(2, oldest=901)], Movement.STUCK),
        (CellCounts(running=2), 901, [rows(2)], Movement.STUCK),
        (CellCounts(running=2), 599, [rows(2, connection=9)], Movement.SLOW),
        (CellCounts(running=2), 601, [rows(2, connection=9)], Movement.STUCK),
        (CellCounts(unknown=1, succeeded=3), 5, [], Movement.UNREADABLE),
        (CellCounts(running=1, unknown=1), 5, [rows(1)], Movement.MOVING),
        (CellCounts(succeeded=4), 5, [], Movement.AT_REST),
    ],
)
def test_an_absent_a_lost_and_a_slow_processor_are_told_apart(
    cells: CellCounts, still_for: float, running: list[RunningRows], movement: Movement
) -> None:
    assert judged(cells, still_for, *running).movement is movement


@pytest.mark.parametrize("status", ["SAVED", "STAGING", "COMPLETED", "FAILED"])
def test_a_batch_that_waits_for_nobody_rests(status: str) -> None:
    assert judged(CellCounts(waiting=5), 1e6, status=status).movement is Movement.AT_REST


def test_a_paused_batch_does_not_wait_for_a_processor_but_its_running_rows_do() -> None:
    assert judged(CellCounts(waiting=1, paused=5), 1e6, status="PAUSED").movement is Movement.AT_REST
    stuck = judged(CellCounts(running=1, paused=5), 1e6, rows(1), status="PAUSED")
    assert stuck.movement is Movement.STUCK


def test_the_sentence_names_the_connection_the_times_and_the_mend() -> None:
    sentence = judged(CellCounts(running=3), 2_700, rows(3)).sentence
    assert sentence == (
        "3 rows of gpt, which never needed more than 15 min 00 s, taken 45 min 00 s ago or longer and not "
        "finished: see whether the processor that took them still lives"
    )
    assert "none was taken for 10 min 00 s: see whether a processor runs" in (
        judged(CellCounts(waiting=1), 600).sentence
    )


def age(batch: Sample, seconds: int) -> None:
    batch.doc_eval(
        "UPDATE batch_progress SET observed_at = observed_at - make_interval(secs => :s)", s=seconds
    )


def test_rows_that_nobody_takes_are_found_and_one_that_is_taken_ends_it(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    look(batch.databases)
    age(batch, 200)
    assert judge_open(batch.databases)[batch.id].movement is Movement.UNTAKEN
    assert judge_one(batch.databases, batch.id).movement is Movement.UNTAKEN
    batch.knowledge("UPDATE llm_responses SET status = 'P' WHERE id = (SELECT min(id) FROM llm_responses)")
    assert judge_one(batch.databases, batch.id).movement is Movement.MOVING
    look(batch.databases)
    assert judge_open(batch.databases)[batch.id].movement is Movement.MOVING


def test_how_long_a_row_may_run_is_learnt_from_what_the_connection_needed(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', time_taken_seconds = 1800")
    look(batch.databases)
    assert batch.status() == "COMPLETED"
    reprocess(batch.databases, batch.id, Mode.all, lambda *_: None)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'P', started_processing_at = now() - interval '25 minutes' "
        "WHERE attempt = 2"
    )
    look(batch.databases)
    assert judge_one(batch.databases, batch.id).movement is Movement.MOVING
    batch.knowledge("UPDATE llm_responses SET started_processing_at = now() - interval '31 minutes'")
    assert judge_one(batch.databases, batch.id).movement is Movement.STUCK


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
    assert judge_open(batch.databases)[batch.id].movement is Movement.MOVING
    age(batch, 600)
    assert judge_open(batch.databases)[batch.id].movement is Movement.UNTAKEN


def test_nothing_is_called_stalled_before_the_floor(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    look(batch.databases)
    age(batch, int(SECONDS_FLOOR) - 20)
    assert judge_open(batch.databases)[batch.id].movement is Movement.MOVING
    pause(batch.databases, batch.id)
    age(batch, 10_000)
    assert judge_one(batch.databases, batch.id).movement is Movement.AT_REST


def wait(rows: int, due: float | None = None, uncounted: int = 1) -> DeferredRows:
    moment = datetime(2026, 11, 27, 14, 5, tzinfo=UTC) if rows else None
    return DeferredRows(1, rows, moment, moment, uncounted, due)


@pytest.mark.parametrize(
    ("deferred", "movement"),
    [
        (wait(5), Movement.DEFERRED),
        (wait(5, due=900), Movement.DEFERRED),
        (wait(4), Movement.UNTAKEN),
        (wait(0, due=10), Movement.MOVING),
        (wait(0, due=130), Movement.UNTAKEN),
        (None, Movement.UNTAKEN),
    ],
)
def test_rows_that_nobody_may_take_yet_are_not_called_untaken(
    deferred: DeferredRows | None, movement: Movement
) -> None:
    cells = CellCounts(waiting=5)
    assert judge(Status("ANALYZING"), cells, 1_800, [], LIMITS, deferred).movement is movement


def test_rows_that_wait_say_until_when_and_how_often_they_were_given_back() -> None:
    assert wait(1).sentence == "1 row waits until 2026-11-27 14:05:00 UTC, as the processor asked"
    assert wait(12, uncounted=37).sentence == (
        "12 rows wait until 2026-11-27 14:05:00 UTC, as the processor asked; "
        "given back up to 37 of 1,000 times without counting"
    )
    assert wait(1, uncounted=1_000).sentence.endswith(
        "given back up to 1,000 of 1,000 times without counting: further ones count towards the five"
    )


def test_one_moment_is_told_once() -> None:
    first = datetime(2026, 11, 27, 14, 5, 0, 100, tzinfo=UTC)
    assert DeferredRows(1, 5, first, first.replace(microsecond=900_000), 1, None).sentence == (
        "5 rows wait until 2026-11-27 14:05:00 UTC, as the processor asked"
    )


def test_rows_under_a_lease_do_not_stall_and_the_sentence_says_when_they_come_back() -> None:
    ends = datetime(2026, 11, 27, 14, 5, tzinfo=UTC)
    leased = RunningRows(1, 1, "gpt", 2, 2_700, ends)
    found = judged(CellCounts(running=2), 2_700, leased)
    assert found == Judgement(
        Movement.SLOW,
        "2 rows of gpt, which never needed more than 15 min 00 s, taken 45 min 00 s ago or longer and not "
        "finished; the last lease on them runs until 2026-11-27 14:05:00 UTC unless it is renewed, and what "
        "has no result then comes back by itself",
    )
    assert judged(CellCounts(running=3), 2_700, leased, rows(1)).movement is Movement.STUCK


def test_a_row_stalls_only_once_its_lease_is_over(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    claim(batch.databases.knowledge, 1, lease="1 hour")
    batch.plant("UPDATE llm_responses SET started_processing_at = now() - interval '30 minutes'")
    look(batch.databases)
    assert "the last lease on them runs until" in judge_one(batch.databases, batch.id).sentence
    batch.plant("UPDATE llm_responses SET lease_expires_at = now() - interval '1 second' WHERE status = 'P'")
    assert judge_one(batch.databases, batch.id).movement is Movement.STUCK


def test_status_and_judgement_know_of_rows_that_wait_for_their_time(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=1)
    batch.stage()
    look(batch.databases)
    age(batch, 3_600)
    for row in claim(batch.databases.knowledge, 2):
        call(
            batch.databases.knowledge, "fail", row.token, "busy", retry=True, not_before="1 h", counted=False
        )
    assert judge_open(batch.databases)[batch.id].movement is Movement.DEFERRED
    (progress,) = batch_progress(batch.databases)
    assert progress.deferred is not None
    assert progress.as_json()["deferred"] | {"first": 0, "last": 0} == {
        "rows": 2,
        "first": 0,
        "last": 0,
        "uncounted": 1,
    }
