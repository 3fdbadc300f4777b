"""What people do to a batch that is staged: reprocess, pause, resume, cancel.

Each works under the batch's lock, can be asked for twice, and made good after a kill by asking again.
Nothing that was paid for is deleted: a new attempt stands beside the earlier ones.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.locks import batch_lock, lock_if_free
from doceval_pipeline.batches.monitoring.completion import Seen, complete_if_done
from doceval_pipeline.batches.staging.rescanning import assign
from doceval_pipeline.batches.staging.steps import Queued, queue_cells, seal_batch, store_documents
from doceval_pipeline.batches.staging.storing import Progress
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Action, Status, possible, require, transition
from doceval_pipeline.doc_eval.runs.requests import withdraw_staging
from doceval_pipeline.errors import BatchStateError, DatabaseError
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.counts import CellCounts, count_cells
from doceval_pipeline.knowledge.outcomes import Outcome
from doceval_pipeline.lock_waits import holder_note, is_lock_timeout, wait_at_most
from doceval_pipeline.reports.formatting import counted

CANCELLED = "cancelled by a person before it was processed"
# Of rows that a processor has locked, after all others were held or closed.
SECONDS_FOR_LOCKED_ROWS = 3.0
SECONDS_FOR_LOCKED_ROWS_IN_A_TICK = 0.1


class Mode(StrEnum):
    """Which cells get a new attempt, besides what is missing; named as people write them."""

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
    """What a rescan found in files, rows that were missing, and evaluations that got a new attempt."""

    files_new: int
    files_changed: int
    files_gone: int
    rows_added: int
    new_attempts: int


def reprocess(
    databases: Databases,
    batch_id: int,
    mode: Mode,
    progress: Progress,
    new_look: bool = False,
    request: str | None = None,
) -> Reprocessed:
    """Repair what is missing of a batch, and queue a new attempt for the evaluations that `mode` names.

    With `new_look` the folders are looked at again first: new files and changed contents get rows,
    and the rows of contents that are gone are set aside. `request` is as in `queue_attempts`.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        batch_by_id(connection, batch_id).require_reprocessable()
    seal_batch(databases, batch_id)
    _, looked = assign(databases, batch_id, new_look)
    store_documents(databases, batch_id, progress)
    queued, attempts = queue_attempts(databases, batch_id, mode, request)
    return Reprocessed(looked.new, looked.changed, looked.gone, queued.added, attempts)


def queue_attempts(
    databases: Databases, batch_id: int, mode: Mode, request: str | None
) -> tuple[Queued, int]:
    """Step 4 of staging, and then a new attempt for each evaluation that `mode` names.

    Rows that wait or run are left alone. A closed batch is open again if anything was queued. A batch that
    step 4 holds gets no new attempt.

    Parameters
    ----------
    request
        Identity of the request. One that was fulfilled before queues no attempts, whatever became of
        those that it queued then. None makes each call a request of its own.

    Returns
    -------
    tuple[Queued, int]
        The rows of the batch, and how many new attempts the request has queued.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
        BatchStateError where new attempts are asked for and the batch's state does not allow them.
    """
    outcomes = OUTCOMES[mode]
    if outcomes:
        _require_rows_to_repeat(databases, batch_id)
    queued = queue_cells(databases, batch_id, ask_all=mode is Mode.all)
    if not outcomes or queued.held is not None:
        return queued, queued.returned
    with batch_lock(databases, batch_id) as connection:
        priority = batch_by_id(connection, batch_id).priority
        connection.commit()
        with databases.knowledge.begin() as knowledge:
            fulfilled = None if request is None else queue.fulfilled_attempts(knowledge, batch_id, request)
            if fulfilled is not None:
                # Killed before it was reopened, a batch is reopened by the sensor response_status.
                return queued, queued.returned + fulfilled
            attempts = queue.requeue(knowledge, batch_id, outcomes, priority)
            if request is not None:
                queue.fulfil_request(knowledge, batch_id, request, attempts)
        with connection.begin():
            if attempts:
                transition(connection, batch_id, Action.REOPEN)
    return queued, queued.returned + attempts


def _require_rows_to_repeat(databases: Databases, batch_id: int) -> None:
    """Refuse a batch without results before `queue_cells` records a failed staging for it."""
    with database_errors(), databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        batch.require_reprocessable()
        if batch.status is not Status.STAGING:
            return
        waiting = len(files.unstaged_files(connection, batch_id))
        if waiting or not files.stored_ids(connection, batch_id):
            raise BatchStateError(
                f"{batch.key} is being staged, there is nothing to reprocess: wait until it is STAGED, or "
                "materialize the whole group staging"
            )


def pause(databases: Databases, batch_id: int) -> int:
    """Hold the waiting rows of a batch; what runs may finish. Returns how many rows were held.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        DatabaseError also where a processor has locked some rows: the batch is paused, all other rows are
        held, and `finish_requests` holds the rest.
    """
    with batch_lock(databases, batch_id) as connection:
        _complete_if_done(databases, connection, batch_id)
        with connection.begin():
            require(connection, batch_id, Action.PAUSE)
        with databases.knowledge.begin() as knowledge:
            held = queue.hold_free(knowledge, batch_id)
        return held + _do_the_rest(
            databases, batch_id, queue.hold, f"is paused and {held:,} of its rows are held"
        )


def resume(databases: Databases, batch_id: int) -> int:
    """Release the held rows of a batch. Returns how many.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        Where a processor has locked one of the rows, none is released.
    """
    with batch_lock(databases, batch_id) as connection, connection.begin():
        require(connection, batch_id, Action.RESUME)
        # Committed before the state: killed in between, the batch is still paused and can be
        # resumed again.
        priority = batch_by_id(connection, batch_id).priority
        with (
            _a_line_for_locked_rows(f"{partition_key(batch_id)} is still paused: a row of it is locked: "),
            databases.knowledge.begin() as knowledge,
        ):
            wait_at_most(knowledge, SECONDS_FOR_LOCKED_ROWS)
            return queue.release(knowledge, batch_id, priority)


def cancel_staging(databases: Databases, batch_id: int) -> bool:
    """Take back the request to stage a batch, whose staging has not begun; False where there is none.

    A run that Dagster has created for the request is not ended.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
    """
    with batch_lock(databases, batch_id) as connection, connection.begin():
        return withdraw_staging(connection, batch_id)


def cancel(databases: Databases, batch_id: int) -> int:
    """Close the rows of a batch that wait or are held; what runs may finish, and its result counts.

    The batch becomes FAILED when its last running row is done. Returns how many rows were closed.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        BatchStateError also where no row waits any more: the batch then ends with its running rows, or is
        completed at once where all are done. DatabaseError also where a processor has locked some rows: the
        batch is cancelled, all other rows are closed, and `finish_requests` closes the rest.
    """
    with batch_lock(databases, batch_id) as connection:
        _complete_if_done(databases, connection, batch_id)
        with databases.knowledge.begin() as knowledge:
            closed = queue.close_free(knowledge, batch_id, CANCELLED)
            locked = queue.has_waiting(knowledge, batch_id)
            # Committed before the rows: killed in between, the batch is known as cancelled and can be
            # cancelled again. The other way round its rows would have failed by themselves.
            with connection.begin():
                require(connection, batch_id, Action.CANCEL)
                if not closed and not locked:
                    raise BatchStateError(
                        f"batch {batch_id} has no waiting row left to cancel: "
                        f"{what_ends_it(count_cells(knowledge, [batch_id])[batch_id])}"
                    )
        done = f"is cancelled and {closed:,} of its rows are closed"
        return closed + _do_the_rest(databases, batch_id, _close, done)


def what_ends_it(cells: CellCounts) -> str:
    """What ends a batch that has no waiting rows, as a part of a sentence."""
    last = "last running one is" if cells.running == 1 else f"last {cells.running:,} running ones are"
    running = f"it ends when its {last} done" if cells.running else "it ends when it is looked at next"
    if not cells.unknown:
        return running
    rows = counted(cells.unknown, "row has", "rows have")
    correct = f"{rows} an unknown status: correct llm_responses.status"
    return f"{running}, and {correct}" if cells.running else correct


def finish_requests(databases: Databases, looked_at: Iterable[Seen]) -> int:
    """Hold or close rows that processors had locked when their batch was paused or cancelled.

    Waits for nobody: what is still locked is left to the next call, as is a batch that somebody works on.
    Returns how many rows were held or closed.

    Raises
    ------
    DatabaseError
    """
    return sum(_finish(databases, seen.batch.id) for seen in looked_at if _is_left(seen))


def _is_left(seen: Seen) -> bool:
    """Whether a batch has rows that a person wanted to be held or closed."""
    wanted = _wanted(seen.batch)
    return bool(wanted and (seen.cells.waiting or (wanted is _close and seen.cells.paused)))


def _wanted(batch: BatchRecord) -> Callable[[Connection, int], int] | None:
    """What is done to the waiting rows of a batch by request of a person."""
    if batch.status is Status.PAUSED:
        return queue.hold
    return _close if batch.status in OPEN and batch.cancelled_at is not None else None


def _finish(databases: Databases, batch_id: int) -> int:
    with lock_if_free(databases, batch_id) as connection:
        if connection is None:
            return 0
        with connection.begin():
            act = _wanted(batch_by_id(connection, batch_id))
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


def _do_the_rest(
    databases: Databases, batch_id: int, act: Callable[[Connection, int], int], done: str
) -> int:
    """Hold or close what waits after the rows that nobody had locked, and all that goes back from now on."""
    before = f"{partition_key(batch_id)} {done}, but the rest is locked: "
    with (
        _a_line_for_locked_rows(before, "; doceval up does the rest by itself once it is free"),
        databases.knowledge.begin() as knowledge,
    ):
        wait_at_most(knowledge, SECONDS_FOR_LOCKED_ROWS)
        return act(knowledge, batch_id)


@contextmanager
def _a_line_for_locked_rows(before: str, after: str = "") -> Iterator[None]:
    """Name a batch, and who holds a lock on it, where a statement has waited for one in vain."""
    try:
        yield
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise DatabaseError(f"{before}{holder_note(error.orig)}{after}") from None


def _complete_if_done(databases: Databases, connection: Connection, batch_id: int) -> None:
    """Complete an open batch whose rows are all done, which nobody has looked at since; then refuse to act.

    Raises
    ------
    BatchStateError
        It is completed now.
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
            f"all rows of batch {batch_id} were done already, and it is {status} now: {possible(status)}"
        )
