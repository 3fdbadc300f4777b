"""Polls the databases and decides whether batches progressed or completed.

Level-triggered: each poll reads the current state, never a list of changes. A cursor over timestamps or
sequences would lose updates that commit out of order (docs/decisions.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import BatchRecord, batches_by_ids, batches_in, unreported
from doceval_pipeline.doc_eval.history import save_experience
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Action, Status, transition
from doceval_pipeline.doc_eval.progress import keep_samples
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.knowledge.counts import count_cells, count_documents
from doceval_pipeline.knowledge.digests import digests
from doceval_pipeline.knowledge.incremental_counts import (
    IncrementalCounts,
    fold,
    newest_version,
    next_changed,
    read_counts,
    recount,
)
from doceval_pipeline.knowledge.queue import tidy
from doceval_pipeline.knowledge.usage import read_experience

# Closed batches are counted again if a processor wrote late or changed F to S. Each poll counts at most this
# many closed batches, with about this many evaluations in total.
RECHECKED_BATCHES, RECHECKED_CELLS = 500, 20_000

_RECORD_RESULT = text("""
    UPDATE batches SET result_digest = :digest, processed_documents = :documents
    WHERE id = :batch_id AND archived_at IS NULL
""")


@dataclass(frozen=True)
class BatchState:
    """A batch and its evaluations as one poll counted them.

    `digest` and `finished_documents` are set only if every evaluation is done.
    """

    batch: BatchRecord
    cells: CellCounts
    digest: str | None = None
    finished_documents: int = 0

    @property
    def expected(self) -> int:
        """How many evaluations the batch must have."""
        return self.batch.expected_cells or 0

    @property
    def is_done(self) -> bool:
        """Whether every expected evaluation exists and has succeeded or failed."""
        return self.cells.done == self.cells.rows >= self.expected > 0


@dataclass(frozen=True)
class PollResult:
    """What one poll found and did."""

    open: list[BatchState]
    """Batches that are not done."""
    changed: list[BatchState]
    """Open batches whose counts have changed since the version that the poll was given."""
    completed: list[BatchState]
    """Batches that this poll closed or whose result changed, and earlier ones that were never reported."""
    reports: dict[int, str]
    """Batches whose newest result has no report yet, with the digest of the result."""
    version: int
    """Where the next poll continues to recheck closed batches."""
    observed: int
    """The newest version among the open batches of this poll and earlier ones."""


def decide(state: BatchState) -> Action | None:
    """The action that a batch's rows require; None if no action is due. Pure."""
    status = state.batch.status
    if state.is_done:
        failed = state.cells.succeeded == 0 or state.batch.cancelled_at is not None
        target = Status.FAILED if failed else Status.COMPLETED
        if status is target and state.batch.result_digest == state.digest:
            return None
        return Action.FAIL if target is Status.FAILED else Action.COMPLETE
    if status in CLOSED:
        return Action.REOPEN
    # A reused result was there from the beginning: no processor has touched it.
    touched = state.cells.rows - state.cells.waiting - state.cells.paused - state.cells.reused
    if status is Status.STAGED and touched:
        return Action.START_ANALYZING
    return None


def poll(
    databases: Databases,
    since_version: int = 0,
    reported: Mapping[int, str] | None = None,
    observed: int | None = None,
) -> PollResult:
    """Check every open batch, and closed ones whose rows changed, and apply the transitions that follow.

    The counts that the database keeps say which batches have unfinished rows; a batch is completed only after
    its rows were counted. Before that, rows whose processor is gone return to the queue, or fail.

    Parameters
    ----------
    since_version
        The `version` of the last poll; 0 checks all batches, in portions.
    reported
        `reports` of the last poll whose result the caller passed on; None if the caller passes on no results.
    observed
        `observed` of the last poll; by default `since_version`. It is ahead while closed batches are
        rechecked in portions, so that no poll reports the same change of an open batch again.
    """
    with databases.knowledge.begin() as connection:
        tidy(connection)
        fold(connection)
    with databases.doc_eval.connect() as connection:
        batches = {batch.id: batch for batch in batches_in(connection, OPEN)}
    with databases.knowledge.connect() as connection:
        # Before the counts: a change in between is then checked twice, and not missed.
        newest = newest_version(connection)
        # The cursor may have been edited, or the database restored.
        since_version = since_version if since_version <= newest else 0
        observed = since_version if observed is None or observed > newest else observed
        portion = next_changed(connection, since_version, RECHECKED_BATCHES)
        counts = {kept.batch_id: kept for kept in read_counts(connection, batches.keys() | portion.keys())}
    with databases.doc_eval.connect() as connection:
        # Closed batches, and batches that were queued just now.
        others = batches_by_ids(connection, counts.keys() - batches.keys())
    batches |= {batch.id: batch for batch in others if batch.status in OPEN}
    closed, next_version = _closed_to_recheck(
        [b for b in others if b.status in CLOSED],
        counts,
        since_version,
        max(portion.values()) if len(portion) == RECHECKED_BATCHES else newest,
    )
    states = [_from_kept_counts(batch, counts.get(batch.id)) for batch in batches.values()]
    exact = _count_batches(databases, [*(s.batch for s in states if _may_be_done(s)), *closed])
    exact_by_id = {state.batch.id: state for state in exact}
    result = _apply_transitions(
        databases,
        [exact_by_id.pop(state.batch.id, state) for state in states] + list(exact_by_id.values()),
        {number for number, kept in counts.items() if kept.version > observed or kept.pending}
        | {batch.id for batch in closed},
        next_version,
        newest,
    )
    if reported is None:
        return result
    return replace(result, completed=[*result.completed, *_unreported(databases, result, reported)])


def _apply_transitions(
    databases: Databases, states: Sequence[BatchState], changed: set[int], next_version: int, observed: int
) -> PollResult:
    """Apply the transition of each batch, and store a sample of each whose counts differ from its newest."""
    still_open, completed = [], []
    for state in states:
        action = decide(state)
        if action is not None:
            _apply(databases, state, action)
        if action in (Action.COMPLETE, Action.FAIL):
            completed.append(state)
        elif not state.is_done:
            still_open.append(state)
    with databases.doc_eval.begin() as connection:
        counted = [state for state in (*still_open, *completed) if state.cells.rows]
        sampled = keep_samples(connection, {state.batch.id: state.cells for state in counted})
        reports = unreported(connection)
    progressed = [state for state in still_open if state.batch.id in changed | sampled]
    return PollResult(still_open, progressed, completed, reports, next_version, observed)


def _unreported(databases: Databases, result: PollResult, reported: Mapping[int, str]) -> list[BatchState]:
    """Batches that an earlier poll completed, and whose caller was killed before it passed the result on."""
    known = {state.batch.id for state in result.completed}
    lost = [
        number
        for number, digest in result.reports.items()
        if number not in known and reported.get(number) != digest
    ]
    with databases.doc_eval.connect() as connection:
        batches = batches_by_ids(connection, lost)
    return [
        state
        for state in _count_batches(databases, batches)
        if state.digest == result.reports[state.batch.id]
    ]


def recount_batches(databases: Databases, batch_ids: Iterable[int]) -> None:
    """Recount batches from their rows; the next poll finds a difference."""
    with databases.knowledge.begin() as connection:
        for batch_id in batch_ids:
            recount(connection, batch_id)


def settle(databases: Databases, batch: BatchRecord) -> None:
    """Apply the transition that one batch's rows require, without waiting for the next poll."""
    (state,) = _count_batches(databases, [batch])
    action = decide(state)
    if action is not None:
        _apply(databases, state, action)


def complete_if_done(databases: Databases, batch: BatchRecord) -> None:
    """Complete an open batch whose evaluations are all done, without waiting for the next poll."""
    (state,) = _count_batches(databases, [batch])
    action = decide(state)
    if state.is_done and action is not None:
        _apply(databases, state, action)


def _from_kept_counts(batch: BatchRecord, kept: IncrementalCounts | None) -> BatchState:
    return BatchState(batch, CellCounts() if kept is None else kept.cells)


def _may_be_done(state: BatchState) -> bool:
    cells = state.cells
    return not (cells.waiting or cells.running or cells.paused or cells.unknown)


def _count_batches(databases: Databases, batches: Sequence[BatchRecord]) -> list[BatchState]:
    """Count the rows of the given batches, and compute the digests of done ones, in one snapshot."""
    if not batches:
        return []
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        counts = count_cells(connection, [batch.id for batch in batches])
        states = [BatchState(batch, counts[batch.id]) for batch in batches]
        done = [state.batch.id for state in states if state.is_done]
        results = digests(connection, done)
        finished = count_documents(connection, done)
    return [
        replace(state, digest=results[state.batch.id], finished_documents=finished[state.batch.id])
        if state.batch.id in results
        else state
        for state in states
    ]


def _apply(databases: Databases, state: BatchState, action: Action) -> None:
    longest = {}
    if action in (Action.COMPLETE, Action.FAIL):
        with databases.knowledge.connect() as knowledge:
            longest = read_experience(knowledge, state.batch.id)
    reason = _failure_reason(state) if action is Action.FAIL else None
    with databases.doc_eval.begin() as connection:
        transition(connection, state.batch.id, action, reason)
        if state.digest is not None:
            connection.execute(
                _RECORD_RESULT,
                {
                    "batch_id": state.batch.id,
                    "digest": state.digest,
                    "documents": state.finished_documents,
                },
            )
            save_experience(connection, state.batch.id, longest)


def _failure_reason(state: BatchState) -> str:
    cells = state.cells
    if state.batch.cancelled_at is not None:
        return f"cancelled; {cells.succeeded} of {state.expected} evaluations had succeeded"
    return f"all {cells.failed} evaluations failed: doceval failures {state.batch.id} shows why"


def _closed_to_recheck(
    closed: Sequence[BatchRecord], counts: Mapping[int, IncrementalCounts], since_version: int, until: int
) -> tuple[list[BatchRecord], int]:
    """The closed batches to check now, in the order of their changes, and where the next poll continues."""
    changed = sorted(
        (batch for batch in closed if since_version < counts[batch.id].version <= until),
        key=lambda batch: counts[batch.id].version,
    )
    cells = 0
    for position, batch in enumerate(changed):
        if position and cells + (batch.expected_cells or 0) > RECHECKED_CELLS:
            return changed[:position], counts[changed[position - 1].id].version
        cells += batch.expected_cells or 0
    # Idle open batches may all be older than `since_version`.
    return changed, until
