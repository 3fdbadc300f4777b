"""Case 7: the SQL of a tick of the sensor `response_status`.

Measures the time from sending a statement to receiving its rows, over both databases, of the poll that finds
the changes; if nothing changed, the median of several polls.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from sqlalchemy import Engine, event

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, ratio, reported
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring import completion
from doceval_pipeline.knowledge.digests import digest
from doceval_pipeline.knowledge.incremental_counts import newest_version

IDLE, FEW, MANY = "idle", "100 changes", "100,000 changes"
# An idle poll is so short that a single one mostly measures the machine.
IDLE_POLLS = 15
ALONE, BESIDE = "alone", "beside closed batches"
COLUMNS = 10
CELLS = COLUMNS * COLUMNS
# Short, because creating so many rows takes long enough.
ANSWER = 1
_BATCHES = """
    INSERT INTO batches (id, batch_number, batch_name, status, config_snapshot, config_sha256, expected_cells,
                         result_digest, reported_digest, completed_at)
    SELECT n, n, 'batch ' || n, :status, '{}', 'of nothing', :cells, :digest, :digest,
           CASE WHEN :status = 'COMPLETED' THEN now() END
    FROM generate_series(:first, :last) AS n
"""
# Reopens the finished rows of the given batches.
_OPEN = """
    UPDATE llm_responses SET status = 'QUEUED', overall_score = NULL, response_text = NULL,
        error_message = NULL, task_id = NULL, completed_processing_at = NULL, started_processing_at = NULL
"""
# A processor's answers, spread over all batches, each in a separate statement.
_ANSWER = """
    DO $$
    DECLARE
        answered bigint;
    BEGIN
        FOR answered IN SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY batch_id ORDER BY id) AS turn FROM llm_responses
            WHERE status = 'QUEUED') AS waiting ORDER BY turn, id LIMIT {changes}
        LOOP
            UPDATE llm_responses SET status = 'S', overall_score = 50, response_text = 'An answer.'
            WHERE id = answered;
        END LOOP;
    END $$
"""


class SqlClock:
    """Adds up how long the statements of the given engines take."""

    def __init__(self, *engines: Engine) -> None:
        self.seconds = 0.0
        self._started = 0.0
        for engine in engines:
            event.listen(engine, "before_cursor_execute", self._begin)
            event.listen(engine, "after_cursor_execute", self._end)

    def _begin(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._started


def poll(databases: Databases, changes: int) -> Timed:
    """One poll after `changes` changes, on connections that have polled before, like those of the daemon."""
    with databases.knowledge.connect() as connection:
        newest = newest_version(connection)
    before = completion.poll(databases, newest)
    with databases.knowledge.begin() as connection:
        connection.exec_driver_sql(_ANSWER.format(changes=changes))
    clock = SqlClock(databases.doc_eval, databases.knowledge)

    def timed() -> Figures:
        found = completion.poll(databases, before.version)
        took = [clock.seconds * 1000]
        for _ in range(0 if changes else IDLE_POLLS - 1):
            clock.seconds = 0.0
            completion.poll(databases, found.version)
            took.append(clock.seconds * 1000)
        done = sum(seen.cells.done for seen in found.open)
        return {
            "sql_ms": median(took),
            "open": len(found.open),
            "new": done - sum(seen.cells.done for seen in before.open),
            "completed": len(found.completed),
        }

    return timed


def ticks(*, quick: bool) -> Case:
    """Case 7."""
    batches, documents, closed = (4, 2, 2) if quick else (100, 100, 1_000)
    few, many = (2, 40) if quick else (100, 100_000)
    rows = documents * CELLS

    def open_batches(installation: Installation) -> None:
        installation.empty()
        _store_documents(installation, documents)
        material.finished_rows(installation, range(1, batches + 1), COLUMNS, COLUMNS, ANSWER)
        installation.make_rows(_OPEN, range(1, batches + 1))
        installation.vacuum("llm_responses")
        _add_batches(installation, range(1, batches + 1), "ANALYZING", rows, None)

    def closed_batches(installation: Installation) -> None:
        numbers = range(batches + 1, batches + 1 + closed)
        material.finished_rows(installation, numbers, COLUMNS, COLUMNS, ANSWER)
        with installation.databases.knowledge.connect() as connection:
            # A batch's number is not part of its digest, and these batches are alike.
            result = digest(connection, numbers.start)
        _add_batches(installation, numbers, "COMPLETED", rows, result)

    def before(changes: int) -> Callable[[Installation], dict[str, Any]]:
        def settle(installation: Installation) -> dict[str, Any]:
            again = f"{_OPEN} WHERE status = 'S' AND batch_id <= {batches}"
            installation.make_rows(again, range(1, batches + 1))
            for table in ("llm_responses", "response_deltas"):
                installation.vacuum(table)
            installation.checkpoint()
            return {"changes": changes}

        return settle

    def check(changes: int, _: Installation, figures: Figures) -> None:
        if (figures["open"], figures["new"], figures["completed"]) != (batches, changes, 0):
            raise WrongResult(f"expected {changes} changes in {batches} open batches, found {figures}")

    sides = [
        Side(name, poll, before(changes), partial(check, changes))
        for name, changes in ((IDLE, 0), (FEW, few), (MANY, many))
    ]
    rounds = 1 if quick else 5
    experiments = [
        Experiment(ALONE, open_batches, sides, rounds),
        Experiment(BESIDE, closed_batches, sides, rounds),
    ]
    work = f"SQL of a response_status tick: {batches * rows:,} rows in {batches} open batches"
    return Case("7", work, f"the same beside {closed * rows:,} rows of closed batches", experiments, _judge)


def _judge(measured: Measured) -> list[Figure]:
    sql = reported("sql_ms")
    together = [*_named(measured, ALONE), *_named(measured, BESIDE)]
    return [
        absolute("idle", "ms", measured[ALONE], IDLE, sql, 5),
        absolute("100 changes", "ms", measured[ALONE], FEW, sql, 100),
        absolute("100,000 changes", "ms", measured[ALONE], MANY, sql, 100),
        absolute("idle, beside closed batches", "ms", measured[BESIDE], IDLE, sql, 5),
        ratio("idle, beside / alone", together, f"{BESIDE}: {IDLE}", f"{ALONE}: {IDLE}", 1.25, sql),
        ratio(
            "100,000 changes, beside / alone", together, f"{BESIDE}: {MANY}", f"{ALONE}: {MANY}", 1.25, sql
        ),
    ]


def _named(measured: Measured, experiment: str) -> list[Measurement]:
    return [replace(found, side=f"{experiment}: {found.side}") for found in measured[experiment]]


def _store_documents(installation: Installation, documents: int) -> None:
    folder = material.documents(installation.folder / f"tiny-{documents}", documents, 300)
    material.stored_batch(installation, folder, COLUMNS, COLUMNS)
    installation.doc_eval("TRUNCATE batches, batch_folders, batch_connections, batch_prompts CASCADE")


def _add_batches(
    installation: Installation, numbers: range, status: str, cells: int, result: str | None
) -> None:
    installation.doc_eval(
        _BATCHES, status=status, cells=cells, digest=result, first=numbers.start, last=numbers.stop - 1
    )
