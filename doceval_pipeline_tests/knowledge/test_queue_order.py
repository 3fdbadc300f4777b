"""Batches take turns, and a claim costs the same whatever lies behind it."""

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.reprocessing import Mode, pause, reprocess, resume
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old
from doceval_pipeline_tests.knowledge.processing import claim

BatchOf = Callable[..., Sample]
PAGES_OF_A_CLAIM = 25
ONE_DOC = """
    INSERT INTO docs (document_id, sha256, content, content_type, doc_type, file_size)
    SELECT 'sha256:' || s, s, 'AAAA', 'text/plain', 'txt', 3
    FROM (SELECT encode(sha256(n::text::bytea), 'hex') AS s FROM generate_series(1, :documents) AS n) AS d
"""
MANY_ROWS = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details,
                               queue_position)
    SELECT :batch_id, id, prompt, 1, '{"model_name": "m"}', (SELECT last_value FROM llm_responses_queue_clock)
           + row_number() OVER (ORDER BY id, prompt) * 100000
    FROM docs, generate_series(1, :prompts) AS prompt
"""
FINISH = "UPDATE llm_responses SET status = 'S', lease_expires_at = NULL WHERE status = 'P'"


def staged(batch_of: BatchOf, name: str, documents: int, priority: int = 10) -> Sample:
    batch = batch_of(documents=documents, connections=1, prompts=1, name=name)
    batch.doc_eval("UPDATE batches SET priority = :priority WHERE id = :id", priority=priority)
    batch.stage()
    return batch


def delivered(databases: Databases, rows: int, at_once: int = 1) -> "Counter[int]":
    """How many of the next rows are of which batch."""
    return Counter(
        row.batch_id for _ in range(rows // at_once) for row in claim(databases.knowledge, at_once)
    )


@pytest.mark.parametrize("at_once", [1, 5])
def test_a_small_batch_does_not_wait_behind_a_large_one(batch_of: BatchOf, at_once: int) -> None:
    large = staged(batch_of, "large", 200)
    delivered(large.databases, 50)
    small = staged(batch_of, "small", 10)
    found = delivered(large.databases, 25, at_once)
    assert found[small.id] == 10
    assert found[large.id] == 15


def test_ten_batches_take_turns(batch_of: BatchOf) -> None:
    batches = [staged(batch_of, f"batch {letter}", 10) for letter in "abcdefghij"]
    found = delivered(batches[0].databases, 30)
    assert all(2 <= found[batch.id] <= 4 for batch in batches), found


def test_a_batch_of_three_times_the_priority_gets_three_times_the_deliveries(batch_of: BatchOf) -> None:
    usual = staged(batch_of, "usual", 60, priority=10)
    urgent = staged(batch_of, "urgent", 60, priority=30)
    found = delivered(usual.databases, 40)
    assert abs(found[urgent.id] - 30) <= 1, found


def test_a_batch_that_comes_late_gets_no_more_than_its_share(batch_of: BatchOf) -> None:
    first = staged(batch_of, "first", 60)
    # Plain processors do not move the virtual time.
    first.knowledge("UPDATE llm_responses SET status = 'S' WHERE id IN "
                    "(SELECT id FROM llm_responses ORDER BY id LIMIT 30)")  # fmt: skip
    second = staged(batch_of, "second", 30)
    found = delivered(first.databases, 20)
    assert abs(found[second.id] - 10) <= 1, found


def test_new_attempts_and_resumed_rows_are_queued_at_the_present(batch_of: BatchOf) -> None:
    paused = staged(batch_of, "paused", 20)
    pause(paused.databases, paused.id)
    failed = staged(batch_of, "failed", 20)
    failed.knowledge("UPDATE llm_responses SET status = 'F' WHERE batch_id = :id")
    other = staged(batch_of, "other", 100)
    delivered(other.databases, 40)
    resume(paused.databases, paused.id)
    reprocess(failed.databases, failed.id, Mode.failed, lambda *_: None)
    found = delivered(other.databases, 30)
    assert all(9 <= found[batch.id] <= 11 for batch in (paused, failed, other)), found


def test_the_priority_is_a_key_of_the_evaluation_and_may_change_after_sealing(
    databases: Databases, tmp_path: Path
) -> None:
    write_old(tmp_path / "a.txt", "a")
    number = 0
    for priority in (10, 30, 30):
        located = evaluation_of([{"name": "b", "folders": [str(tmp_path)], "priority": priority}])
        applied = apply_evaluation(databases.doc_eval, located)
        number = applied.numbers["b"]
        Sample(databases, number, "b", tmp_path).stage()
    assert not applied.changed
    batch = Sample(databases, number, "b", tmp_path)
    assert batch.doc_eval("SELECT priority FROM batches") == [(30,)]


def pages(connection: Connection) -> int:
    plan: Any = connection.execute(
        text("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM claim_responses(1)")
    ).scalar_one()
    connection.commit()
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


def fill(batch: Sample, documents: int, prompts: int, batch_id: int = 1) -> None:
    batch.knowledge(ONE_DOC, documents=documents)
    batch.knowledge(
        "INSERT INTO batch_configs (batch_id, config, sha256) VALUES (:batch_id, '{}', repeat('0', 64))",
        batch_id=batch_id,
    )
    batch.knowledge(MANY_ROWS, prompts=prompts, batch_id=batch_id)


@pytest.mark.slow
def test_a_claim_reads_no_more_after_100_000_finished_rows_that_vacuum_may_not_remove(
    databases: Databases, tmp_path: Path
) -> None:
    batch = Sample(databases, 1, "large", tmp_path)
    fill(batch, documents=25_025, prompts=4)
    batch.knowledge("ANALYZE llm_responses")
    old = databases.knowledge.connect().execution_options(isolation_level="REPEATABLE READ")
    with old, databases.knowledge.connect().execution_options(isolation_level="AUTOCOMMIT") as worker:
        assert old.execute(text("SELECT count(*) FROM llm_responses")).scalar_one() == 100_100
        for _ in range(10):
            claim(databases.knowledge, 10_000)
        batch.plant(FINISH)
        # A session's first call reads the catalogs, once.
        pages(worker)
        counted = [pages(worker) for _ in range(15)]
        # A new version that does not fit where the last one went looks for a place, which takes some
        # pages more for that one claim: how often and how many depends on what vacuum left free. The
        # finished rows would cost thousands of pages in each.
        assert statistics.quantiles(counted)[0] <= PAGES_OF_A_CLAIM, counted
        assert statistics.mean(counted) <= 2 * PAGES_OF_A_CLAIM, counted
        assert old.execute(text("SELECT count(*) FROM llm_responses WHERE status = 'S'")).scalar_one() == 0


def test_a_plan_that_was_made_at_an_empty_queue_does_not_read_the_whole_table_later(
    databases: Databases, tmp_path: Path
) -> None:
    batch = Sample(databases, 1, "large", tmp_path)
    with databases.knowledge.connect().execution_options(isolation_level="AUTOCOMMIT") as worker:
        # Autovacuum would have the plans made anew, sooner or later: this is about the time before.
        worker.execute(text("ALTER TABLE llm_responses SET (autovacuum_enabled = false)"))
        try:
            worker.execute(text("VACUUM ANALYZE llm_responses"))
            for _ in range(8):
                pages(worker)
            fill(batch, documents=5_000, prompts=4)
            counted = [pages(worker) for _ in range(9)]
        finally:
            worker.execute(text("ALTER TABLE llm_responses RESET (autovacuum_enabled)"))
        assert statistics.median(counted) <= PAGES_OF_A_CLAIM + 10, counted
