"""Advisory locks of batches: only one process works on a batch at a time.

A lock belongs to a session of PostgreSQL, so it ends with its process. Abandoned stagings are batches in
STAGING whose lock is free.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.runs.live import IS_ALIVE
from doceval_pipeline.lock_waits import MAY_WRITE_BATCHES, AdvisoryLock, held_numbers, take_advisory_lock

# First key of the advisory locks; the second is the batch. "doce" as bytes.
LOCK_CLASS = 0x646F6365
_UNLOCK = text("SELECT pg_advisory_unlock(:lock_class, :batch_id)")
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:lock_class, :batch_id)")
_LOCKED = text(held_numbers(LOCK_CLASS))
# A staging without a process counts as abandoned this long after it began. Between two steps of a live run
# the batch is not locked.
SECONDS_ABANDONED = 60
# A condition on `batches AS b`.
IS_ABANDONED = f"""
    b.status = 'STAGING' AND b.status_changed_at < now() - interval '{SECONDS_ABANDONED} seconds'
    AND b.id NOT IN ({held_numbers(LOCK_CLASS)})
    AND NOT EXISTS (SELECT 1 FROM live_runs r WHERE r.batch_id = b.id AND {IS_ALIVE})
"""
_ABANDONED = text(f"SELECT b.id FROM batches b WHERE b.id = ANY(CAST(:ids AS int[])) AND {IS_ABANDONED}")


def abandoned_stagings(connection: Connection, batch_ids: Iterable[int]) -> set[int]:
    """The given batches that have been in STAGING for a while without a working process."""
    return set(connection.scalars(_ABANDONED, {"ids": arrays.of_numbers(batch_ids)}))


def batches_at_work(connection: Connection) -> set[int]:
    """The batches that a process is working on now."""
    return set(connection.scalars(_LOCKED))


@contextmanager
def batch_lock(databases: Databases, batch_id: int) -> Iterator[Connection]:
    """Hold the lock of a batch that is not archived; waits until it is free.

    Yields the connection to doc_eval that holds the lock, outside a transaction.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        BatchStateError if the batch is archived.
    """
    with locked_batch(databases, batch_id) as (connection, _):
        yield connection


@contextmanager
def locked_batch(databases: Databases, batch_id: int) -> Iterator[tuple[Connection, BatchRecord]]:
    """As `batch_lock`; also yields the batch, read under the lock."""
    with _locked(databases, batch_id) as connection:
        batch = batch_by_id(connection, batch_id)
        batch.require_rows()
        connection.commit()
        yield connection, batch


@contextmanager
def number_lock(databases: Databases, batch_id: int) -> Iterator[Connection]:
    """Hold the lock of a batch's number, whether the batch exists or not; waits until it is free.

    Yields the connection to doc_eval that holds the lock, outside a transaction. If the lock is lost, so is
    the connection, and nothing more can be written through it.

    Raises
    ------
    DatabaseError
        A role that may not work on batches holds the lock.
    """
    with _locked(databases, batch_id) as connection:
        connection.commit()
        yield connection


@contextmanager
def _locked(databases: Databases, batch_id: int) -> Iterator[Connection]:
    """Take the lock of a number, which ends with the block; yields inside of the first transaction."""
    with (
        database_errors(),
        databases.doc_eval.connect() as connection,
        _unlocked_after(connection, batch_id),
    ):
        lock = AdvisoryLock(LOCK_CLASS, batch_id)
        what = partition_key(batch_id)
        take_advisory_lock(connection, lock, MAY_WRITE_BATCHES, what, for_session=True)
        yield connection


@contextmanager
def lock_if_free(databases: Databases, batch_id: int) -> Iterator[Connection | None]:
    """As `batch_lock`, but yields None at once if the lock is held.

    Raises
    ------
    DatabaseError
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        if not connection.scalar(_TRY_LOCK, {"lock_class": LOCK_CLASS, "batch_id": batch_id}):
            yield None
            return
        with _unlocked_after(connection, batch_id):
            connection.commit()
            yield connection


@contextmanager
def _unlocked_after(connection: Connection, batch_id: int) -> Iterator[None]:
    """Release the lock of a batch number, which the block takes, at the end of the block."""
    try:
        yield
        connection.rollback()
        connection.execute(_UNLOCK, {"lock_class": LOCK_CLASS, "batch_id": batch_id})
        connection.commit()
    except BaseException:
        # Closing the connection ends its session, and with it the lock.
        connection.invalidate()
        raise
