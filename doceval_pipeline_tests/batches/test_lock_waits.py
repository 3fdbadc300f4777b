"""Nobody who keeps a transaction open makes the pipeline wait without a word."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread

import pytest
from sqlalchemy import create_engine, text

from doceval_pipeline import lock_waits
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.locks import batch_lock
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging import reprocessing
from doceval_pipeline.batches.staging.reprocessing import (
    Mode,
    cancel,
    finish_pauses_and_cancels,
    pause,
    queue_attempts,
    resume,
    what_closes_it,
)
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.errors import BatchStateError, DatabaseError
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
STATUSES = "SELECT status, count(*)::int FROM llm_responses WHERE batch_id = :id GROUP BY 1 ORDER BY 1"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_waits, "SECONDS_BETWEEN_QUERIES", 0.05)
    monkeypatch.setattr(reprocessing, "SECONDS_FOR_LOCKED_ROWS", 0.2)


@contextmanager
def somebody(databases: Databases, statement: str) -> Iterator[int]:
    """Another program's transaction that has executed a statement and stays open; gives its pid."""
    engine = create_engine(databases.knowledge.url, connect_args={"application_name": "their-program"})
    with engine.connect() as connection:
        connection.execute(text(statement))
        yield int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    engine.dispose()


def a_row_locked(batch: Sample) -> str:
    return f"SELECT FROM llm_responses WHERE batch_id = {batch.id} ORDER BY id LIMIT 1 FOR UPDATE"


def test_a_cancel_closes_unlocked_rows_and_the_sensor_closes_the_rest(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    with somebody(batch.databases, a_row_locked(batch)) as pid:
        with pytest.raises(DatabaseError) as refused:
            cancel(batch.databases, batch.id)
        assert f"{batch.key} is cancelled and 7 of its rows are closed, but other rows are locked" in str(
            refused.value
        )
        named = (
            rf"role postgres \(pid {pid}, their-program, idle in transaction for \d+ s, in llm_responses\)"
        )
        assert re.search(named, str(refused.value))
        assert f"SELECT pg_terminate_backend({pid})" in str(refused.value)
        assert batch.knowledge(STATUSES) == [("F", 7), ("QUEUED", 1)]
        assert finish_pauses_and_cancels(batch.databases, poll(batch.databases).open) == 0
    assert finish_pauses_and_cancels(batch.databases, poll(batch.databases).open) == 1
    assert batch.knowledge(STATUSES) == [("F", 8)]
    poll(batch.databases)
    assert batch.status() == "FAILED"


def test_a_pause_holds_unlocked_rows_and_the_sensor_holds_the_rest(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    with somebody(batch.databases, a_row_locked(batch)):
        with pytest.raises(
            DatabaseError, match="is paused and 7 of its rows are held, but other rows are locked"
        ):
            pause(batch.databases, batch.id)
        assert batch.status() == "PAUSED"
        assert batch.knowledge(STATUSES) == [("PAUSED", 7), ("QUEUED", 1)]
    assert pause(batch.databases, batch.id) == 1
    with (
        somebody(batch.databases, a_row_locked(batch)) as pid,
        pytest.raises(
            DatabaseError,
            match=f"^{batch.key} is still paused, because one of its rows is locked: .*pid {pid}",
        ),
    ):
        resume(batch.databases, batch.id)
    assert batch.status() == "PAUSED"
    assert batch.knowledge(STATUSES) == [("PAUSED", 8)]
    assert resume(batch.databases, batch.id) == 8


def test_a_pause_does_not_wait_for_a_processor_that_gives_a_row_back_and_does_not_commit(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    claimed = batch.knowledge("SELECT id, token FROM claim_responses(1)")[0]
    giving_back = f"SELECT fail_response('{claimed.token}', 'later', true)"
    with somebody(batch.databases, giving_back) as pid:
        with pytest.raises(DatabaseError, match=f"7 of its rows are held, .*pid {pid}"):
            pause(batch.databases, batch.id)
        assert batch.knowledge(STATUSES) == [("P", 1), ("PAUSED", 7)]
    # Rolled back: the row still runs, and is held once it goes back.
    assert pause(batch.databases, batch.id) == 0
    batch.knowledge(f"SELECT fail_response('{claimed.token}', 'later', true)")
    assert batch.knowledge(STATUSES) == [("PAUSED", 8)]


def test_new_attempts_for_a_cancelled_batch_are_not_closed_by_the_cancel(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge("SELECT FROM claim_responses(1)")
    assert cancel(batch.databases, batch.id) == 7
    queue_attempts(batch.databases, batch.id, Mode.failed, None)
    assert finish_pauses_and_cancels(batch.databases, poll(batch.databases).open) == 0
    assert ("QUEUED", 7) in batch.knowledge(STATUSES)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE llm_responses SET file_name = file_name",
        "UPDATE batch_configs SET sha256 = sha256",
        "DELETE FROM docs",
        "LOCK TABLE response_counts IN SHARE UPDATE EXCLUSIVE MODE",
    ],
)
def test_any_statement_that_waits_for_a_lock_ends_with_who_holds_it(
    batch_of: BatchOf, statement: str
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    everything = """
        WITH a AS (SELECT FROM llm_responses FOR UPDATE), b AS (SELECT FROM batch_configs FOR UPDATE),
             c AS (SELECT FROM docs FOR UPDATE) SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b),
             (SELECT count(*) FROM c), fold_response_counts()
    """
    batch.knowledge("INSERT INTO response_deltas (batch_id) VALUES (:id)")
    with (
        somebody(batch.databases, everything) as pid,
        pytest.raises(DatabaseError) as refused,
        database_errors(),
        batch.databases.knowledge.begin() as connection,
    ):
        connection.execute(text(f"SET LOCAL lock_timeout = 100; {statement}"))
    database = batch.databases.knowledge.url.database
    assert str(refused.value).startswith(
        f"timed out waiting for a lock: database {database}: a lock is held by role postgres "
        f"(pid {pid}, their-program, idle"
    )
    assert len(str(refused.value).splitlines()) == 1


ANOTHER_ROW = "SELECT FROM docs ORDER BY id DESC LIMIT 1 FOR UPDATE"
A_ROW = "SELECT FROM docs ORDER BY id LIMIT 1 FOR UPDATE"


def refusal(batch: Sample, statement: str) -> str:
    """What is said of a statement that waits for a lock in vain."""
    with (
        pytest.raises(DatabaseError) as refused,
        database_errors(),
        batch.databases.knowledge.begin() as connection,
    ):
        connection.execute(text(f"SET LOCAL lock_timeout = 100; {statement}"))
    return str(refused.value)


def test_nobody_is_to_be_ended_where_another_session_may_hold_the_lock(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    changed = "UPDATE docs SET content_type = content_type WHERE id = (SELECT min(id) FROM docs)"
    with somebody(batch.databases, ANOTHER_ROW) as innocent, somebody(batch.databases, A_ROW) as blocker:
        line = refusal(batch, changed)
    assert "at least one of these sessions holds the lock" in line
    assert f"pid {innocent}," in line
    assert f"pid {blocker}," in line
    assert "terminate" not in line


def test_a_session_in_other_tables_may_hold_the_lock_too(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    other = "SELECT FROM batch_configs FOR UPDATE"
    with somebody(batch.databases, other) as innocent, somebody(batch.databases, A_ROW) as blocker:
        line = refusal(batch, "DELETE FROM docs")
    assert line.index(f"pid {blocker},") < line.index(f"pid {innocent},")
    assert "terminate" not in line


def test_a_session_that_only_reads_is_named_where_a_definition_is_changed_and_nowhere_else(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    with somebody(batch.databases, "SELECT count(*) FROM docs") as reader:
        for statement in ("DELETE FROM docs", "UPDATE llm_responses SET status = status"):
            assert lock_waits.find_holders(batch.databases.knowledge, statement) == ([], 0)
        line = refusal(batch, "ALTER TABLE docs DROP COLUMN content")
        assert f"pid {reader}, their-program" in line
        assert ", in docs" in line


def test_a_session_that_is_left_of_several_is_not_said_to_hold_the_lock() -> None:
    left = lock_waits.LockHolder(7, "3/4", "other", "", None, None)
    assert lock_waits.holders_sentence([left], 2).startswith(
        "the lock may be held by role other (pid 7): try again"
    )
    assert "pg_terminate_backend(7)" in lock_waits.holders_sentence([left], 1)


def test_the_sensor_does_not_wait_for_a_batch_that_was_locked_after_the_poll(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    with somebody(batch.databases, a_row_locked(batch)), pytest.raises(DatabaseError):
        cancel(batch.databases, batch.id)
    seen = poll(batch.databases).open
    done: list[int] = []
    with batch_lock(batch.databases, batch.id):
        sensor = Thread(
            target=lambda: done.append(finish_pauses_and_cancels(batch.databases, seen)), daemon=True
        )
        sensor.start()
        sensor.join(10)
        assert done == [0]
    assert finish_pauses_and_cancels(batch.databases, seen) == 1


def test_a_cancel_without_running_rows_names_those_of_an_unknown_status(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.plant("UPDATE llm_responses SET status = 'WHATEVER'")
    with pytest.raises(BatchStateError, match="4 rows have an unknown status: fix"):
        cancel(batch.databases, batch.id)
    cells = partial(CellCounts, succeeded=1)
    assert what_closes_it(cells(running=1)) == "it ends when its last running row has finished"
    assert what_closes_it(cells()) == "it ends at the next poll"
    assert what_closes_it(cells(running=2, unknown=1)) == (
        "it ends when its last 2 running rows have finished, and 1 row has an unknown status: "
        "fix llm_responses.status"
    )


def test_every_session_of_ours_gives_up_waiting_and_may_itself_be_idle(databases: Databases) -> None:
    for engine in (databases.doc_eval, databases.knowledge):
        with engine.connect() as connection:
            connection.rollback()
            for name, limit in (("lock_timeout", "20s"), ("idle_in_transaction_session_timeout", "0")):
                assert connection.scalar(text("SELECT current_setting(:name)"), {"name": name}) == limit


def test_a_line_says_what_is_known_of_a_holder() -> None:
    known = lock_waits.LockHolder(7, "3/4", "w\x1borker", "psql", "idle in transaction", 65.2)
    hidden = lock_waits.LockHolder(8, "3/5", "other", "", None, None)
    line = lock_waits.holders_sentence([known, hidden])
    assert "pid 7, psql, idle in transaction for 65 s" in line
    assert "(pid 8)" in line
    assert "\x1b" not in line
    assert "is gone: try again" in lock_waits.holders_sentence([])
