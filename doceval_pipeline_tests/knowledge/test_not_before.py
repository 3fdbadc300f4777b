"""Rows that are given back until a time: who gets them, when, and at what cost."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.knowledge import queue
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim
from doceval_pipeline_tests.knowledge.test_queue_order import fill, pages

BatchOf = Callable[..., Sample]
STATE = (
    "SELECT status, deferred, not_before IS NOT NULL, deliveries, uncounted FROM llm_responses ORDER BY id"
)
DEFER_ALL = """
    UPDATE llm_responses SET deferred = true, not_before = now() + interval '1 hour' WHERE status = 'QUEUED'
"""
# As if the time of every row had come.
TIME_PASSES = """
    UPDATE llm_responses SET not_before = clock_timestamp() - interval '1 millisecond' WHERE deferred
"""


def let_time_pass(batch: Sample) -> None:
    """The time of every row has come, and the next look is due, to whose time sessions hold for a second."""
    batch.knowledge(TIME_PASSES)
    batch.knowledge("SELECT look_for_leases_at(clock_timestamp() - interval '1 second')")
    batch.databases.knowledge.dispose()


def staged(batch_of: BatchOf, documents: int = 1) -> Sample:
    batch = batch_of(documents=documents, connections=1, prompts=1)
    batch.stage()
    return batch


def give_back(batch: Sample, wait: str = "1 hour", *, counted: bool = False) -> int:
    """Take the next row and give it back; its id."""
    (row,) = claim(batch.databases.knowledge)
    changed, _ = call(
        batch.databases.knowledge, "fail", row.token, "busy", retry=True, not_before=wait, counted=counted
    )
    assert changed
    return int(row.id)


def pass_time(batch: Sample) -> None:
    """Put all rows back whose time has come, and let it come for all."""
    batch.knowledge(TIME_PASSES)
    batch.knowledge("SELECT expire_leases()")


def test_a_row_is_not_handed_out_before_its_time_and_then_it_is(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    knowledge = batch.databases.knowledge
    (row,) = claim(knowledge)
    changed, message = call(
        knowledge, "fail", row.token, "busy", retry=True, not_before="1 hour", counted=False
    )
    assert (changed, message[: message.index(" until 20")]) == (True, f"row {row.id} is QUEUED and waits")
    assert claim(knowledge) == []
    assert batch.knowledge(STATE) == [("QUEUED", True, True, 1, 1)]
    let_time_pass(batch)
    (again,) = claim(knowledge)
    assert (again.id, again.delivery) == (row.id, 2)
    assert batch.knowledge(STATE) == [("P", False, False, 2, 1)]


def test_others_are_handed_out_meanwhile_and_it_is_found_although_they_wait(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=12)
    deferred = give_back(batch)
    assert deferred not in [row.id for row in claim(batch.databases.knowledge, 5)]
    let_time_pass(batch)
    assert deferred in [row.id for row in claim(batch.databases.knowledge, 2)]


@pytest.mark.parametrize("wait", ["-1 second", "25 hours", "1 month"])
def test_a_time_without_sense_is_refused_and_the_lease_lasts(batch_of: BatchOf, wait: str) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    with pytest.raises(DataError, match="not_before is an interval from 0 to a day"):
        call(batch.databases.knowledge, "fail", row.token, "busy", retry=True, not_before=wait)
    assert call(batch.databases.knowledge, "complete", row.token, 1)[0]


@pytest.mark.parametrize("named", [{"not_before": "1 minute"}, {"counted": False}])
def test_a_failure_for_good_waits_for_no_time(batch_of: BatchOf, named: dict[str, object]) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    with pytest.raises(DataError, match="add retry => true"):
        call(batch.databases.knowledge, "fail", row.token, "busy", **named)


@pytest.mark.parametrize("named", [{}, {"not_before": None}, {"not_before": "0"}, {"counted": None}])
def test_without_a_time_a_row_is_there_at_once(batch_of: BatchOf, named: dict[str, object]) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    call(batch.databases.knowledge, "fail", row.token, "busy", retry=True, **named)
    assert batch.knowledge(STATE) == [("QUEUED", False, False, 1, 0)]
    assert [again.id for again in claim(batch.databases.knowledge)] == [row.id]


def test_what_is_not_counted_fails_no_row_and_five_counted_ones_still_do(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    for _ in range(40):
        give_back(batch, "0")
        pass_time(batch)
    for _ in range(5):
        assert batch.knowledge("SELECT status FROM llm_responses") == [("QUEUED",)]
        give_back(batch, "0", counted=True)
    assert batch.knowledge("SELECT status, error_message FROM llm_responses") == [
        ("F", "given up after 45 deliveries, the last of which failed: busy")
    ]


@pytest.mark.parametrize(
    ("uncounted", "asked", "waits"),
    [
        (0, "0", 0),
        (1, "0", 1),
        (7, "1 second", 7),
        (7, "30 seconds", 30),
        (999, "0", 60),
        (1000, "1 second", 60),
    ],
)
def test_each_give_back_that_does_not_count_waits_longer_up_to_a_minute(
    batch_of: BatchOf, uncounted: int, asked: str, waits: int
) -> None:
    batch = staged(batch_of)
    batch.plant(f"UPDATE llm_responses SET deliveries = {uncounted}, uncounted = {uncounted}")
    give_back(batch, asked)
    ((found,),) = batch.knowledge(
        "SELECT coalesce(extract(epoch FROM not_before - clock_timestamp()), 0)::float FROM llm_responses"
    )
    assert waits - 1 < found <= waits


def test_a_give_back_that_counts_waits_only_as_asked(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    batch.plant("UPDATE llm_responses SET deliveries = 7, uncounted = 7")
    give_back(batch, "0", counted=True)
    assert batch.knowledge(STATE) == [("QUEUED", False, False, 8, 7)]


def test_the_thousand_and_first_give_back_counts(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    batch.plant("UPDATE llm_responses SET deliveries = 1000, uncounted = 1000")
    for _ in range(5):
        give_back(batch, "0")
        pass_time(batch)
    assert batch.knowledge("SELECT status, deliveries, uncounted FROM llm_responses") == [("F", 1005, 1000)]


def test_a_retry_of_null_is_none(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    call(batch.databases.knowledge, "fail", row.token, "busy", retry=None, counted=None)
    assert batch.knowledge("SELECT status, error_message FROM llm_responses") == [("F", "busy")]


def test_a_pause_holds_a_deferred_row_and_a_resume_keeps_its_time(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2)
    knowledge = batch.databases.knowledge
    give_back(batch)
    with knowledge.begin() as connection:
        assert queue.hold(connection, batch.id) == 2
    assert batch.knowledge(STATE)[0] == ("PAUSED", True, True, 1, 1)
    with knowledge.begin() as connection:
        queue.release(connection, batch.id, 10)
    assert len(claim(knowledge, 10)) == 1
    assert batch.knowledge(STATE)[0] == ("QUEUED", True, True, 1, 1)


def test_a_time_that_passes_while_the_batch_is_paused_is_over_when_it_is_resumed(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    knowledge = batch.databases.knowledge
    give_back(batch)
    with knowledge.begin() as connection:
        queue.hold(connection, batch.id)
    batch.knowledge(TIME_PASSES)
    assert claim(knowledge) == []
    with knowledge.begin() as connection:
        queue.release(connection, batch.id, 10)
    assert batch.knowledge(STATE) == [("QUEUED", False, True, 1, 1)]
    assert len(claim(knowledge)) == 1


def test_a_row_that_is_given_back_to_a_paused_batch_is_held_and_keeps_its_time(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    knowledge = batch.databases.knowledge
    (row,) = claim(knowledge)
    with knowledge.begin() as connection:
        queue.hold(connection, batch.id)
    call(knowledge, "fail", row.token, "busy", retry=True, not_before="1 hour", counted=False)
    assert batch.knowledge(STATE) == [("PAUSED", True, True, 1, 1)]


def test_a_cancel_closes_deferred_rows_at_once(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2)
    knowledge = batch.databases.knowledge
    (late,) = claim(knowledge)
    give_back(batch)
    with knowledge.begin() as connection:
        assert queue.close(connection, batch.id, "cancelled") == 1
    call(knowledge, "fail", late.token, "busy", retry=True, not_before="1 hour", counted=False)
    assert {row[:3] for row in batch.knowledge(STATE)} == {("F", False, False)}


@pytest.mark.parametrize("word", ["P", "S", "F", "HUH"])
def test_a_plain_update_ends_the_wait(batch_of: BatchOf, word: str) -> None:
    batch = staged(batch_of)
    give_back(batch)
    batch.knowledge("UPDATE llm_responses SET status = :word", word=word)
    assert batch.knowledge(STATE)[0][:3] == (word, False, False)


def test_a_time_of_a_row_that_runs_is_refused_by_the_database(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    claim(batch.databases.knowledge)
    with pytest.raises(DBAPIError, match="llm_responses_not_before"):
        batch.knowledge("UPDATE llm_responses SET not_before = now()")


def test_a_deferral_without_a_time_is_refused_by_the_database(batch_of: BatchOf) -> None:
    batch = batch_of()
    batch.stage()
    with pytest.raises(IntegrityError, match="llm_responses_not_before"):
        batch.knowledge("UPDATE llm_responses SET deferred = true")


def test_a_deferred_row_counts_as_waiting(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    give_back(batch)
    batch.knowledge("SELECT fold_response_counts()")
    assert batch.knowledge("SELECT waiting, running, failed FROM response_counts") == [(1, 0, 0)]


@pytest.mark.slow
def test_a_hundred_thousand_deferred_rows_cost_a_claim_nothing(databases: Databases, tmp_path: Path) -> None:
    batch = Sample(databases, 1, "large", tmp_path)
    fill(batch, documents=25_025, prompts=4)
    with databases.knowledge.connect().execution_options(isolation_level="AUTOCOMMIT") as worker:
        worker.execute(text("VACUUM ANALYZE llm_responses"))
        pages(worker)
        without = statistics.median(pages(worker) for _ in range(9))
        batch.knowledge(DEFER_ALL + " AND id <= (SELECT max(id) - 100 FROM llm_responses)")
        with_them = statistics.median(pages(worker) for _ in range(9))
    assert batch.knowledge("SELECT count(*) > 99000 FROM llm_responses WHERE deferred") == [(True,)]
    assert with_them <= without + 3


def test_many_that_come_back_at_once_keep_no_other_batch_from_its_turn(
    batch_of: BatchOf, databases: Databases, tmp_path: Path
) -> None:
    batch = Sample(databases, 77, "large", tmp_path)
    fill(batch, documents=3_000, prompts=1, batch_id=77)
    batch.knowledge("SELECT recount_responses(77)")
    batch.knowledge(DEFER_ALL)
    batch.knowledge(TIME_PASSES)
    for _ in range(4):
        batch.knowledge("SELECT tidy_queue()")
    small = staged(batch_of, documents=10)
    turns = [row.batch_id for row in claim(databases.knowledge, 60)]
    assert turns.count(small.id) == 10
    assert len(set(turns[:12])) == 2
