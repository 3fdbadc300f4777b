"""Actions of people on a staged batch: reprocess, pause, resume, cancel.

Each action holds the batch's lock and may be repeated, which also completes an action that was killed. No
result that was paid for is deleted: a new attempt is added to the earlier ones.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.locks import batch_lock, lock_if_free
from doceval_pipeline.batches.monitoring.completion import BatchState, complete_if_done
from doceval_pipeline.batches.staging.rescanning import assign
from doceval_pipeline.batches.staging.steps import Queued, queue_evaluations, seal_batch, store_documents
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.lifecycle import (
    CLOSED,
    OPEN,
    Action,
    Status,
    possible_actions,
    transition,
    transition_or_raise,
)
from doceval_pipeline.doc_eval.runs.requests import withdraw_staging
from doceval_pipeline.domain.evaluations import CellCounts, Outcome
from doceval_pipeline.errors import BatchStateError, DatabaseError
from doceval_pipeline.knowledge import attempts, queue
from doceval_pipeline.knowledge.counts import count_cells
from doceval_pipeline.lock_waits import holder_note, is_lock_timeout, wait_at_most
from doceval_pipeline.portions import Progress, ignore_progress
from doceval_pipeline.reports.formatting import counted

CANCELLED = "cancelled by a person before it was processed"
# How long an action waits for rows that a processor has locked.
SECONDS_FOR_LOCKED_ROWS = 3.0
SECONDS_FOR_LOCKED_ROWS_IN_A_TICK = 0.1


class Mode(StrEnum):
    """Which evaluations get a new attempt, besides missing rows; the values are those of the command line."""

    missing = "missing"
    failed = "failed"
    all = "all"


OUTCOMES = {
    Mode.missing: (),
    Mode.failed: (Outcome.FAILED,),
    Mode.all: (Outcome.SUCCEEDED, Outcome.FAILED),
}


@dataclass(frozen=True)
class Reprocessed:
    """Numbers of files by what a rescan found, of added rows, and of new attempts."""

    files_new: int
    files_changed: int
    files_gone: int
    rows_added: int
    new_attempts: int


def reprocess(
    databases: Databases,
    batch_id: int,
    mode: Mode,
    storing: Progress,
    *,
    finding: Progress = ignore_progress,
    queueing: Progress = ignore_progress,
    rescan: bool = False,
    request: str | None = None,
) -> Reprocessed:
    """Add what is missing of a batch, and queue a new attempt for the evaluations that `mode` names.

    With `rescan` the folders are scanned first: new and changed files get rows, and the rows of documents
    that left the batch are withdrawn. `finding`, `storing` and `queueing` receive the progress of the steps;
    `request` is as in `queue_attempts`.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        batch_by_id(connection, batch_id).require_reprocessable()
    seal_batch(databases, batch_id)
    _, rescanned = assign(databases, batch_id, finding, rescan=rescan)
    store_documents(databases, batch_id, storing)
    queued, new_attempts = queue_attempts(databases, batch_id, mode, request, queueing)
    return Reprocessed(
        files_new=rescanned.new,
        files_changed=rescanned.changed,
        files_gone=rescanned.gone,
        rows_added=queued.added,
        new_attempts=new_attempts,
    )


def queue_attempts(
    databases: Databases,
    batch_id: int,
    mode: Mode,
    request: str | None,
    progress: Progress = ignore_progress,
) -> tuple[Queued, int]:
    """Run step 4 of staging, and then queue a new attempt for each evaluation that `mode` names.

    Waiting and running rows are not changed. A closed batch is reopened if any attempt was queued. A
    batch that step 4 holds gets no new attempt.

    Parameters
    ----------
    request
        Identity of the request. A request that was fulfilled before queues no further attempts. None makes
        each call a request of its own.

    Returns
    -------
    tuple[Queued, int]
        The rows of the batch, and how many new attempts the request has queued.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
        BatchStateError if the batch's state does not allow new attempts.
    """
    outcomes = OUTCOMES[mode]
    if outcomes:
        _require_rows_to_repeat(databases, batch_id)
    queued = queue_evaluations(databases, batch_id, progress, reuses=mode is not Mode.all)
    if not outcomes or queued.held is not None:
        return queued, queued.returned
    with batch_lock(databases, batch_id) as connection:
        priority = batch_by_id(connection, batch_id).priority
        connection.commit()
        with databases.knowledge.begin() as knowledge:
            fulfilled = (
                None if request is None else attempts.attempts_of_request(knowledge, batch_id, request)
            )
            if fulfilled is not None:
                # If the earlier run was killed before it reopened the batch, response_status reopens it.
                return queued, queued.returned + fulfilled
            added = attempts.requeue(knowledge, batch_id, outcomes, priority)
            if request is not None:
                attempts.record_request(knowledge, batch_id, request, added)
        with connection.begin():
            if added:
                transition(connection, batch_id, Action.REOPEN)
    return queued, queued.returned + added


def _require_rows_to_repeat(databases: Databases, batch_id: int) -> None:
    """Refuse a batch without results before `queue_evaluations` records a failed staging for it."""
    with database_errors(), databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        batch.require_reprocessable()
        if batch.status is not Status.STAGING:
            return
        states = {tally.state for tally in files.tally(connection, batch_id)}
        if "ASSIGNED" in states or "STAGED" not in states:
            raise BatchStateError(
                f"{batch.key} is being staged and has nothing to reprocess: wait until it is STAGED, or "
                "materialize the whole group staging"
            )


def pause(databases: Databases, batch_id: int) -> int:
    """Hold the waiting rows of a batch; running rows may finish. Returns how many rows were held.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        DatabaseError also if a processor has locked some rows: the batch is paused, all other rows are
        held, and `finish_pauses_and_cancels` holds the rest.
    """
    with batch_lock(databases, batch_id) as connection:
        _complete_if_done(databases, connection, batch_id)
        with connection.begin():
            transition_or_raise(connection, batch_id, Action.PAUSE)
        with databases.knowledge.begin() as knowledge:
            rows = queue.hold_free(knowledge, batch_id)
        return rows + _change_remaining(
            databases, batch_id, queue.hold, f"is paused and {rows:,} of its rows are held"
        )


def resume(databases: Databases, batch_id: int) -> int:
    """Release the held rows of a batch. Returns how many.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        If a processor has locked one of the rows, none is released.
    """
    with batch_lock(databases, batch_id) as connection, connection.begin():
        transition_or_raise(connection, batch_id, Action.RESUME)
        # Committed before the state: after a kill in between, the batch is still paused and can be resumed.
        priority = batch_by_id(connection, batch_id).priority
        with (
            _lock_timeout_as_error(
                f"{partition_key(batch_id)} is still paused, because one of its rows is locked: "
            ),
            databases.knowledge.begin() as knowledge,
        ):
            wait_at_most(knowledge, SECONDS_FOR_LOCKED_ROWS)
            return queue.release(knowledge, batch_id, priority)


def cancel_staging(databases: Databases, batch_id: int) -> bool:
    """Withdraw the request to stage a batch before its staging begins; False without a request.

    A run that Dagster has created for the request continues.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
    """
    with batch_lock(databases, batch_id) as connection, connection.begin():
        return withdraw_staging(connection, batch_id)


def cancel(databases: Databases, batch_id: int) -> int:
    """Close the waiting and held rows of a batch; running rows may finish, and their results count.

    The batch becomes FAILED when its last running row is done. Returns how many rows were closed.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        BatchStateError also if no row is waiting: the batch then ends with its running rows, or is completed
        at once if all rows are done. DatabaseError also if a processor has locked some rows: the batch is
        cancelled, all other rows are closed, and `finish_pauses_and_cancels` closes the rest.
    """
    with batch_lock(databases, batch_id) as connection:
        _complete_if_done(databases, connection, batch_id)
        with databases.knowledge.begin() as knowledge:
            closed = queue.close_free(knowledge, batch_id, CANCELLED)
            locked = queue.has_waiting(knowledge, batch_id)
            # Committed before the rows: after a kill in between, the batch is marked as cancelled and can be
            # cancelled again. In the other order, its rows would look like failures.
            with connection.begin():
                transition_or_raise(connection, batch_id, Action.CANCEL)
                if not closed and not locked:
                    raise BatchStateError(
                        f"batch {batch_id} has no waiting rows to cancel: "
                        f"{what_closes_it(count_cells(knowledge, [batch_id])[batch_id])}"
                    )
        done = f"is cancelled and {closed:,} of its rows are closed"
        return closed + _change_remaining(databases, batch_id, _close, done)


def what_closes_it(cells: CellCounts) -> str:
    """What closes a batch without waiting rows, as a part of a sentence."""
    rows = "last running row has" if cells.running == 1 else f"last {cells.running:,} running rows have"
    running = f"it ends when its {rows} finished" if cells.running else "it ends at the next poll"
    if not cells.unknown:
        return running
    rows = counted(cells.unknown, "row has", "rows have")
    fix = f"{rows} an unknown status: fix llm_responses.status"
    return f"{running}, and {fix}" if cells.running else fix


def finish_pauses_and_cancels(databases: Databases, states: Iterable[BatchState]) -> int:
    """Hold or close rows that processors had locked when their batch was paused or cancelled.

    Does not wait: rows that are still locked, and batches that a process works on, are left to the next call.
    Returns how many rows were held or closed.

    Raises
    ------
    DatabaseError
    """
    return sum(_finish(databases, state.batch.id) for state in states if _has_remaining(state))


def _has_remaining(state: BatchState) -> bool:
    """Whether a batch has rows that are still to be held or closed."""
    action = _action_on_waiting(state.batch)
    return bool(action and (state.cells.waiting or (action is _close and state.cells.paused)))


def _action_on_waiting(batch: BatchRecord) -> Callable[[Connection, int], int] | None:
    """How the waiting rows of a paused or cancelled batch are changed; None for other batches."""
    if batch.status is Status.PAUSED:
        return queue.hold
    return _close if batch.status in OPEN and batch.cancelled_at is not None else None


def _finish(databases: Databases, batch_id: int) -> int:
    with lock_if_free(databases, batch_id) as connection:
        if connection is None:
            return 0
        with connection.begin():
            act = _action_on_waiting(batch_by_id(connection, batch_id))
        if act is None:
            return 0
        with databases.knowledge.begin() as knowledge:
            done = _close_free(knowledge, batch_id) if act is _close else queue.hold_free(knowledge, batch_id)
        try:
            with databases.knowledge.begin() as knowledge:
                wait_at_most(knowledge, SECONDS_FOR_LOCKED_ROWS_IN_A_TICK)
                return done + act(knowledge, batch_id)
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
            return done


def _close(knowledge: Connection, batch_id: int) -> int:
    return queue.close(knowledge, batch_id, CANCELLED)


def _close_free(knowledge: Connection, batch_id: int) -> int:
    return queue.close_free(knowledge, batch_id, CANCELLED)


def _change_remaining(
    databases: Databases, batch_id: int, act: Callable[[Connection, int], int], done: str
) -> int:
    """Hold or close the rows that were locked before, and rows that return to the queue later."""
    before = f"{partition_key(batch_id)} {done}, but other rows are locked: "
    with (
        _lock_timeout_as_error(before, "; doceval up changes them once they are free"),
        databases.knowledge.begin() as knowledge,
    ):
        wait_at_most(knowledge, SECONDS_FOR_LOCKED_ROWS)
        return act(knowledge, batch_id)


@contextmanager
def _lock_timeout_as_error(before: str, after: str = "") -> Iterator[None]:
    """Turn a lock timeout into one line that names the batch and the holder of the lock."""
    try:
        yield
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise DatabaseError(f"{before}{holder_note(error.orig)}{after}") from None


def _complete_if_done(databases: Databases, connection: Connection, batch_id: int) -> None:
    """Complete an open batch whose rows are all done, and then refuse the action.

    Raises
    ------
    BatchStateError
        The batch has just been completed.
    """
    with connection.begin():
        batch = batch_by_id(connection, batch_id)
    if batch.status not in OPEN or batch.archived_at is not None:
        return
    complete_if_done(databases, batch)
    with connection.begin():
        status = batch_by_id(connection, batch_id).status
    if status in CLOSED:
        raise BatchStateError(
            f"batch {batch_id} is {status} now, because all its rows are done; {possible_actions(status)}"
        )
