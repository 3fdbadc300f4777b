"""Nobody who keeps a transaction open makes the pipeline wait without a word."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, text

from doceval_pipeline import lock_waits
from doceval_pipeline.batches import reprocessing
from doceval_pipeline.batches.completion import look
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.reprocessing import (
    Mode,
    cancel,
    finish_requests,
    pause,
    queue_attempts,
    resume,
)
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
STATUSES = "SELECT status, count(*)::int FROM llm_responses WHERE batch_id = :id GROUP BY 1 ORDER BY 1"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_waits, "SECONDS_BETWEEN_LOOKS", 0.05)
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


def test_a_cancel_closes_what_nobody_has_locked_names_the_rest_and_the_sensor_ends_it(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    with somebody(batch.databases, a_row_locked(batch)) as pid:
        with pytest.raises(DatabaseError) as refused:
            cancel(batch.databases, batch.id)
        assert f"{batch.key} is cancelled and 7 of its rows are closed, but the rest is locked" in str(
            refused.value
        )
        assert f"role postgres (pid {pid}, their-program, idle in transaction for 0 s)" in str(refused.value)
        assert f"SELECT pg_terminate_backend({pid})" in str(refused.value)
        assert batch.knowledge(STATUSES) == [("F", 7), ("QUEUED", 1)]
        assert finish_requests(batch.databases, look(batch.databases).open) == 0
    assert finish_requests(batch.databases, look(batch.databases).open) == 1
    assert batch.knowledge(STATUSES) == [("F", 8)]
    look(batch.databases)
    assert batch.status() == "FAILED"


def test_a_pause_holds_what_nobody_has_locked_and_the_sensor_holds_the_rest(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    with somebody(batch.databases, a_row_locked(batch)):
        with pytest.raises(
            DatabaseError, match="is paused and 7 of its rows are held, but the rest is locked"
        ):
            pause(batch.databases, batch.id)
        assert batch.status() == "PAUSED"
        assert batch.knowledge(STATUSES) == [("PAUSED", 7), ("QUEUED", 1)]
    assert pause(batch.databases, batch.id) == 1
    with (
        somebody(batch.databases, a_row_locked(batch)) as pid,
        pytest.raises(DatabaseError, match=f"waited for a lock in vain: .*pid {pid}"),
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
    assert finish_requests(batch.databases, look(batch.databases).open) == 0
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
    assert str(refused.value).startswith(
        f"waited for a lock in vain: a lock is held by role postgres (pid {pid}, their-program, idle"
    )
    assert len(str(refused.value).splitlines()) == 1


def test_every_session_of_ours_gives_up_waiting_and_may_itself_be_idle(databases: Databases) -> None:
    for engine in (databases.doc_eval, databases.knowledge):
        with engine.connect() as connection:
            connection.rollback()
            for name, limit in (("lock_timeout", "20s"), ("idle_in_transaction_session_timeout", "0")):
                assert connection.scalar(text("SELECT current_setting(:name)"), {"name": name}) == limit


def test_a_line_says_what_is_known_of_a_holder() -> None:
    known = lock_waits.Holder(7, "3/4", "w\x1borker", "psql", "idle in transaction", 65.2)
    hidden = lock_waits.Holder(8, "3/5", "other", "", None, None)
    line = lock_waits.described([known, hidden])
    assert "pid 7, psql, idle in transaction for 65 s" in line
    assert "(pid 8)" in line
    assert "\x1b" not in line
    assert "gone by now" in lock_waits.described([])
