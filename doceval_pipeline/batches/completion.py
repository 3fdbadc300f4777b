"""Decides from what the databases hold whether batches progressed or completed.

Level-triggered: each look asks what is, never what changed since. A cursor over timestamps or
sequences would lose updates that commit out of order (docs/decisions.md).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import BatchRecord, batches_in, partition_key, unreported
from doceval_pipeline.doc_eval.history import remember
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Action, Status, transition
from doceval_pipeline.doc_eval.progress import keep_samples
from doceval_pipeline.knowledge.history import experience_of
from doceval_pipeline.knowledge.queue import tidy
from doceval_pipeline.knowledge.responses import CellCounts, count_cells, digest, finished_documents

# Closed batches are looked at again, in turn, because a processor may write late or flip F to S.
# As many of them a look as have about this many cells together.
RECHECKED_CELLS = 20_000

_RECORD_RESULT = text("""
    UPDATE batches SET result_digest = :digest, processed_documents = :documents
    WHERE id = :batch_id AND archived_at IS NULL
""")


@dataclass(frozen=True)
class Seen:
    """A batch and its cells as one look found them; `digest` only where no cell is left to do."""

    batch: BatchRecord
    cells: CellCounts
    digest: str | None
    finished_documents: int

    @property
    def expected(self) -> int:
        """Cells that the batch must have."""
        return self.batch.expected_cells or 0

    @property
    def is_done(self) -> bool:
        """Whether every expected cell is there, and each of them succeeded or failed."""
        return self.cells.done == self.cells.rows >= self.expected > 0


@dataclass(frozen=True)
class Look:
    """What one look found and did.

    `open` are the batches that are not done; `completed` those that this look closed or whose
    result it found changed; `reports` the batches, with their digest, whose newest result has no
    report yet; `recheck_after` the closed batch at which the next look goes on.
    """

    open: list[Seen]
    completed: list[Seen]
    reports: dict[int, str]
    recheck_after: int


def decide(seen: Seen) -> Action | None:
    """What a batch's rows say should happen to it. Pure: no database, no clock."""
    status = seen.batch.status
    if seen.is_done:
        failed = seen.cells.succeeded == 0 or seen.batch.cancelled_at is not None
        target = Status.FAILED if failed else Status.COMPLETED
        if status is target and seen.batch.result_digest == seen.digest:
            return None
        return Action.FAIL if target is Status.FAILED else Action.COMPLETE
    if status in CLOSED:
        return Action.REOPEN
    touched = seen.cells.rows - seen.cells.waiting - seen.cells.paused
    if status is Status.STAGED and touched:
        return Action.START_ANALYZING
    return None


def look(databases: Databases, recheck_after: int = 0) -> Look:
    """Look at every open batch and at some closed ones, and move each where its rows say.

    Rows whose processor is gone go back to the queue first, or fail.

    Parameters
    ----------
    recheck_after
        The number of the closed batch at which the last look ended; 0 begins with the newest.
    """
    with databases.knowledge.begin() as connection:
        tidy(connection)
    with databases.doc_eval.connect() as connection:
        open_batches = batches_in(connection, OPEN)
        closed = _in_turn(batches_in(connection, CLOSED), recheck_after)
    seen = _see(databases, [*open_batches, *closed])
    still_open, completed = [], []
    for item in seen:
        action = decide(item)
        if action is not None:
            _settle(databases, item, action)
        if action in (Action.COMPLETE, Action.FAIL):
            completed.append(item)
        elif not item.is_done:
            still_open.append(item)
    with databases.doc_eval.begin() as connection:
        keep_samples(connection, {item.batch.id: asdict(item.cells) for item in (*still_open, *completed)})
        reports = unreported(connection)
    return Look(still_open, completed, reports, closed[-1].id if closed else 0)


def settle(databases: Databases, batch: BatchRecord) -> None:
    """Move one batch where its rows say, without waiting for the next look."""
    (seen,) = _see(databases, [batch])
    action = decide(seen)
    if action is not None:
        _settle(databases, seen, action)


def report_run_key(batch_id: int, result_digest: str) -> str:
    """The key under which a result's report is asked for: the same result never asks twice."""
    return f"report-{partition_key(batch_id)}-{result_digest}"


def _see(databases: Databases, batches: Sequence[BatchRecord]) -> list[Seen]:
    with databases.knowledge.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        counts = count_cells(connection, [batch.id for batch in batches])
        return [_see_one(connection, batch, counts[batch.id]) for batch in batches]


def _see_one(connection: Connection, batch: BatchRecord, cells: CellCounts) -> Seen:
    seen = Seen(batch, cells, None, 0)
    if not seen.is_done:
        return seen
    return Seen(batch, cells, digest(connection, batch.id), finished_documents(connection, batch.id))


def _settle(databases: Databases, seen: Seen, action: Action) -> None:
    took = {}
    if action in (Action.COMPLETE, Action.FAIL):
        with databases.knowledge.connect() as knowledge:
            took = experience_of(knowledge, seen.batch.id)
    with databases.doc_eval.begin() as connection:
        transition(connection, seen.batch.id, action, _failure(seen) if action is Action.FAIL else None)
        if seen.digest is not None:
            connection.execute(
                _RECORD_RESULT,
                {"batch_id": seen.batch.id, "digest": seen.digest, "documents": seen.finished_documents},
            )
            remember(connection, seen.batch.id, took)


def _failure(seen: Seen) -> str:
    if seen.batch.cancelled_at is not None:
        return f"cancelled; {seen.cells.succeeded} of {seen.expected} cells had succeeded"
    return f"all {seen.cells.failed} cells failed: doceval report {seen.batch.id} shows their messages"


def _in_turn(closed: Sequence[BatchRecord], after: int) -> list[BatchRecord]:
    """The next closed batches to look at again, newest first, from `after` on and around."""
    newest_first = sorted(closed, key=lambda batch: -batch.id)
    older = [batch for batch in newest_first if batch.id < after]
    chosen: list[BatchRecord] = []
    cells = 0
    for batch in older or newest_first:
        cells += batch.expected_cells or 0
        if chosen and cells > RECHECKED_CELLS:
            break
        chosen.append(batch)
    return chosen
