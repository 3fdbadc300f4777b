"""Decides from what the databases hold whether batches progressed or completed.

Level-triggered: each look asks what is, never what changed since. A cursor over timestamps or
sequences would lose updates that commit out of order (docs/decisions.md).
"""

from collections.abc import (
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import (
    dataclass,
    replace,
)

from sqlalchemy import (
    text,
)

from doceval_pipeline.batches.databases import (
    Databases,
)
from doceval_pipeline.doc_eval.batches import (
    BatchRecord,
    batches_by_ids,
    batches_in,
    unreported,
)
from doceval_pipeline.doc_eval.history import (
    save_experience,
)
from doceval_pipeline.doc_eval.lifecycle import (
    CLOSED,
    OPEN,
    Action,
    Status,
    transition,
)
from doceval_pipeline.doc_eval.progress import (
    keep_samples,
)
from doceval_pipeline.domain.evaluations import (
    CellCounts,
)
from doceval_pipeline.knowledge.counts import (
    count_cells,
    count_documents,
)
from doceval_pipeline.knowledge.digests import (
    digests,
)
from doceval_pipeline.knowledge.incremental_counts import (
    IncrementalCounts,
    fold,
    newest_version,
    read_counts,
    recount,
)
from doceval_pipeline.knowledge.queue import (
    tidy,
)
from doceval_pipeline.knowledge.usage import (
    read_experience,
)

# Closed batches are looked at again where a processor wrote late or flipped F to S; as many of them
# a look as have about this many cells together.
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

    `open` are the batches that are not done, and `changed` those of them whose numbers are new since
    the version that the look was given; `completed` those that this look closed or whose result it
    found changed, or that an earlier one did of which nobody was told; `reports` the batches, with their
    digest, whose newest result has no report yet; `seen` the version from which the next look goes on.
    """

    open: list[Seen]
    changed: list[Seen]
    completed: list[Seen]
    reports: dict[int, str]
    seen: int


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
    # A reused result was there from the beginning: no processor has touched it.
    touched = seen.cells.rows - seen.cells.waiting - seen.cells.paused - seen.cells.reused
    if status is Status.STAGED and touched:
        return Action.START_ANALYZING
    return None


def look(databases: Databases, seen: int = 0, told: Mapping[int, str] | None = None) -> Look:
    """Look at every open batch, and at closed ones whose rows changed, and move each where its rows say.

    Which batches have rows that are not done is asked of the counts that the database keeps; a batch
    is completed after its rows were counted. Rows whose processor is gone go back to the queue first,
    or fail.

    Parameters
    ----------
    seen
        The version that the last look gave; 0 looks at all batches, in portions.
    told
        The `reports` of the last look whose findings were handed on; None where nobody is told.
    """
    with databases.knowledge.begin() as connection:
        tidy(connection)
        fold(connection)
    with databases.doc_eval.connect() as connection:
        batches = {batch.id: batch for batch in batches_in(connection, OPEN)}
    with databases.knowledge.connect() as connection:
        # Before the counts: what changes in between is then looked at twice, and not missed.
        newest = newest_version(connection)
        # Of a cursor that somebody edited, or of a database that was restored since.
        seen = seen if seen <= newest else 0
        counts = {kept.batch_id: kept for kept in read_counts(connection, list(batches), seen)}
    with databases.doc_eval.connect() as connection:
        # Closed ones, and such that were queued just now.
        others = batches_by_ids(connection, counts.keys() - batches.keys())
    batches |= {batch.id: batch for batch in others if batch.status in OPEN}
    closed, next_seen = _in_turn([b for b in others if b.status in CLOSED], counts, seen, newest)
    items = [_as_kept(batch, counts.get(batch.id)) for batch in batches.values()]
    exact = _see(databases, [*(item.batch for item in items if _may_be_done(item)), *closed])
    exactly = {item.batch.id: item for item in exact}
    found = _act(
        databases,
        [exactly.pop(item.batch.id, item) for item in items] + list(exactly.values()),
        {number for number, kept in counts.items() if kept.version > seen or kept.pending},
        next_seen,
    )
    if told is None:
        return found
    return replace(found, completed=[*found.completed, *_untold(databases, found, told)])


def _act(databases: Databases, items: Sequence[Seen], changed: set[int], next_seen: int) -> Look:
    """Move batches where their rows say, and keep what was seen of those that changed."""
    still_open, completed = [], []
    for item in items:
        action = decide(item)
        if action is not None:
            _settle(databases, item, action)
        if action in (Action.COMPLETE, Action.FAIL):
            completed.append(item)
        elif not item.is_done:
            still_open.append(item)
    news = [item for item in still_open if item.batch.id in changed]
    with databases.doc_eval.begin() as connection:
        if news or completed:
            keep_samples(connection, {item.batch.id: item.cells.sample for item in (*news, *completed)})
        reports = unreported(connection)
    return Look(still_open, news, completed, reports, next_seen)


def _untold(databases: Databases, found: Look, told: Mapping[int, str]) -> list[Seen]:
    """Batches that an earlier look completed, and whose caller was killed before it could tell."""
    known = {seen.batch.id for seen in found.completed}
    lost = [
        number
        for number, digest in found.reports.items()
        if number not in known and told.get(number) != digest
    ]
    with databases.doc_eval.connect() as connection:
        batches = batches_by_ids(connection, lost)
    return [seen for seen in _see(databases, batches) if seen.digest == found.reports[seen.batch.id]]


def recount_batches(databases: Databases, batch_ids: Iterable[int]) -> None:
    """Count batches anew from their rows; a difference is found by the next look."""
    with databases.knowledge.begin() as connection:
        for batch_id in batch_ids:
            recount(connection, batch_id)


def settle(databases: Databases, batch: BatchRecord) -> None:
    """Move one batch where its rows say, without waiting for the next look."""
    (seen,) = _see(databases, [batch])
    action = decide(seen)
    if action is not None:
        _settle(databases, seen, action)


def complete_if_done(databases: Databases, batch: BatchRecord) -> None:
    """Complete an open batch whose cells are all done, without waiting for the next look."""
    (seen,) = _see(databases, [batch])
    action = decide(seen)
    if seen.is_done and action is not None:
        _settle(databases, seen, action)


def _as_kept(batch: BatchRecord, kept: IncrementalCounts | None) -> Seen:
    return Seen(batch, CellCounts() if kept is None else kept.cells, None, 0)


def _may_be_done(seen: Seen) -> bool:
    cells = seen.cells
    return not (cells.waiting or cells.running or cells.paused or cells.unknown)


def _see(databases: Databases, batches: Sequence[BatchRecord]) -> list[Seen]:
    """Count the rows of some batches, and of those that are done make the digest, in one snapshot."""
    if not batches:
        return []
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        counts = count_cells(connection, [batch.id for batch in batches])
        seen = [Seen(batch, counts[batch.id], None, 0) for batch in batches]
        done = [item.batch.id for item in seen if item.is_done]
        results = digests(connection, done)
        finished = count_documents(connection, done)
    return [
        replace(item, digest=results[item.batch.id], finished_documents=finished[item.batch.id])
        if item.batch.id in results
        else item
        for item in seen
    ]


def _settle(databases: Databases, seen: Seen, action: Action) -> None:
    took = {}
    if action in (Action.COMPLETE, Action.FAIL):
        with databases.knowledge.connect() as knowledge:
            took = read_experience(knowledge, seen.batch.id)
    with databases.doc_eval.begin() as connection:
        transition(connection, seen.batch.id, action, _failure(seen) if action is Action.FAIL else None)
        if seen.digest is not None:
            connection.execute(
                _RECORD_RESULT,
                {"batch_id": seen.batch.id, "digest": seen.digest, "documents": seen.finished_documents},
            )
            save_experience(connection, seen.batch.id, took)


def _failure(seen: Seen) -> str:
    if seen.batch.cancelled_at is not None:
        return f"cancelled; {seen.cells.succeeded} of {seen.expected} cells had succeeded"
    return f"all {seen.cells.failed} cells failed: doceval report {seen.batch.id} shows their messages"


def _in_turn(
    closed: Sequence[BatchRecord], counts: Mapping[int, IncrementalCounts], seen: int, newest: int
) -> tuple[list[BatchRecord], int]:
    """The closed batches to look at now, in the order of their changes, and the version they lead to."""
    changed = sorted(
        (batch for batch in closed if counts[batch.id].version > seen),
        key=lambda batch: counts[batch.id].version,
    )
    cells = 0
    for position, batch in enumerate(changed):
        if position and cells + (batch.expected_cells or 0) > RECHECKED_CELLS:
            return changed[:position], counts[changed[position - 1].id].version
        cells += batch.expected_cells or 0
    # Open ones that nobody works on may all be older than what was seen.
    return changed, newest
