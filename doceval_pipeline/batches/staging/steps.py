"""The four steps of staging: snapshot, assignment, documents, queue.

Each step may run any number of times, be killed anywhere, or run twice at once: an advisory lock per batch
lets one run work at a time, and each step does only what is missing. The counts that a step reports are read
from the databases after its commit.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.file_counts import left_out, staged
from doceval_pipeline.batches.files.folders import found_files
from doceval_pipeline.batches.files.no_documents import no_documents
from doceval_pipeline.batches.locks import locked_batch
from doceval_pipeline.batches.monitoring.completion import complete_if_done
from doceval_pipeline.batches.staging.limits import held_reason
from doceval_pipeline.batches.staging.storing import store_missing
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval import snapshot
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.files import Tally
from doceval_pipeline.doc_eval.lifecycle import Action, Status, transition
from doceval_pipeline.doc_eval.recurring.occurrences import has_only_changes
from doceval_pipeline.documents.walk import EXCLUDED, NOT_INCLUDED
from doceval_pipeline.domain.files import DocumentRange
from doceval_pipeline.domain.snapshot import Snapshot
from doceval_pipeline.errors import DatabaseError, DocEvalError, StagingError
from doceval_pipeline.knowledge import attempts, queue
from doceval_pipeline.knowledge.documents import missing_documents
from doceval_pipeline.knowledge.queue import Enqueued, QueuedRows
from doceval_pipeline.portions import Progress, ignore_progress
from doceval_pipeline.reports.formatting import counted, size_text

_SET_EXPECTED = text("UPDATE batches SET expected_cells = :cells WHERE id = :batch_id")
_SET_HELD = text("UPDATE batches SET held_reason = :reason WHERE id = :batch_id")


@dataclass(frozen=True)
class Assigned:
    """The assigned files of a batch, counted from the database."""

    tallies: list[Tally]
    fresh: bool
    seconds: float

    def files(self, *states: str) -> int:
        """How many files are in any of the given states."""
        return _count_files(self.tallies, *states)

    @property
    def bytes(self) -> int:
        """Size of the usable files in bytes."""
        return sum(tally.bytes for tally in self.tallies if tally.state in ("ASSIGNED", "STAGED"))

    @property
    def sentence(self) -> str:
        """The counts, for a log."""
        usable = counted(self.files("ASSIGNED", "STAGED"), "usable file", "usable files")
        origin = "the folders were scanned now" if self.fresh else "assigned earlier"
        return f"{usable} of {size_text(self.bytes)}; {left_out(self.tallies)}; {origin}"


@dataclass(frozen=True)
class Stored:
    """The stored documents of a batch, counted from both databases; `copied_bytes` before encoding."""

    tallies: list[Tally]
    distinct: int
    copied: int
    copied_bytes: int
    seconds: float

    @property
    def files(self) -> int:
        """Files whose documents are stored."""
        return sum(tally.files for tally in self.tallies if tally.state == "STAGED")

    @property
    def bytes(self) -> int:
        """Size of these files in bytes."""
        return sum(tally.bytes for tally in self.tallies if tally.state == "STAGED")

    @property
    def sentence(self) -> str:
        """The counts, for a log."""
        stored = f"{self.copied:,} stored now ({size_text(self.copied_bytes)})"
        earlier = f"{self.distinct - self.copied:,} earlier"
        return f"{staged(self.files, self.distinct)}: {stored}, {earlier}; {left_out(self.tallies)}"


@dataclass(frozen=True)
class Queued:
    """The queue rows of a batch, counted after the commit.

    `added` rows were queued now, `reused` of them with a result of an earlier batch. `cells_reused` counts
    all rows of the batch with such a result, and `returned` the new attempts for documents that are in the
    batch again. `held` is the reason why the batch was held.
    """

    documents: int
    prompts: int
    connections: int
    cells: int
    added: int
    seconds: float
    reused: int = 0
    held: str | None = None
    cells_reused: int = 0
    returned: int = 0

    @property
    def sentence(self) -> str:
        """The counts, for a log."""
        cells = counted(self.cells, "evaluation", "evaluations")
        factors = f"{self.documents:,} x {self.prompts:,} x {self.connections:,}"
        return (
            f"{cells} in the queue (documents x prompts x connections: {factors}), "
            f"{self.added:,} of them added now"
            + (f", {self.reused:,} with a result of an earlier batch" if self.reused else "")
            + ("; all reused, no model is called" if self.cells_reused == self.cells else "")
            + (f"; held: {self.held}" if self.held else "")
        )


def seal_batch(databases: Databases, batch_id: int) -> Snapshot:
    """Step 1: seal the batch's configuration, in both databases.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
    """
    with staging_step(databases, batch_id) as (connection, _):
        with connection.begin():
            sealed = snapshot.seal(connection, batch_id)
            transition(connection, batch_id, Action.BEGIN_STAGING)
        with databases.knowledge.begin() as knowledge:
            queue.publish_config(knowledge, batch_id, sealed.canonical, sealed.sha256)
        return sealed


def assign_documents(databases: Databases, batch_id: int, progress: Progress = ignore_progress) -> Assigned:
    """Step 2: list every file of the batch's folders once; the list is frozen as soon as a file is usable.

    A batch of new and changed files keeps the files that it was created with.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
        StagingError also if no file is usable; the reasons are stored.
    """
    started = time.monotonic()
    with staging_step(databases, batch_id) as (connection, batch):
        begun = _begin(connection, batch)
        tallies, fresh = begun.tallies, not _count_files(begun.tallies, "ASSIGNED", "STAGED")
        if fresh:
            with connection.begin():
                files = found_files(begun.sealed.config, databases.settings)
                if has_only_changes(connection, batch_id):
                    batch_documents.assign_usable_now(connection, batch_id, files, progress)
                else:
                    batch_documents.write_assignment(connection, batch_id, files, progress)
            with connection.begin():
                tallies = batch_documents.tally(connection, batch_id)
        _require_usable(connection, batch_id, begun.sealed, tallies)
        return Assigned(tallies, fresh, time.monotonic() - started)


def store_documents(databases: Databases, batch_id: int, progress: Progress) -> Stored:
    """Step 3: store the document of every assigned file that is not stored yet.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
        StagingError also if every file turns out to be unusable.
    """
    started = time.monotonic()
    with staging_step(databases, batch_id) as (connection, batch):
        begun = _begin(connection, batch)
        _require_assignment(connection, begun)
        if _count_files(begun.tallies, "STAGED"):
            _unmark_deleted_documents(databases, connection, batch_id)
        settings = databases.settings
        copied, copied_bytes = store_missing(
            databases.knowledge,
            connection,
            batch_id,
            settings.max_document_bytes,
            settings.readers,
            progress,
        )
        with connection.begin():
            tallies = batch_documents.tally(connection, batch_id)
            absent, documents = _absent_documents(databases, connection, batch_id)
        _require_usable(connection, batch_id, begun.sealed, tallies)
        if absent:
            raise StagingError(
                f"{partition_key(batch_id)}: {len(absent)} of {documents} documents are not in docs after "
                "commit: another program deleted them meanwhile; materialize again"
            )
        return Stored(tallies, documents, copied, copied_bytes, time.monotonic() - started)


def queue_evaluations(
    databases: Databases, batch_id: int, progress: Progress = ignore_progress, *, reuses: bool = True
) -> Queued:
    """Step 4: add all queue rows of the batch in one transaction, and count them after the commit.

    Parameters
    ----------
    reuses
        False reuses no results, even in a batch with `reuse: finished`.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
    """
    started = time.monotonic()
    with staging_step(databases, batch_id) as (connection, batch):
        work = _read_work(connection, batch)
        added, rows = _enqueue_missing(databases, connection, work, progress, reuses=reuses)
        reason = None
        if batch.expected_cells is None:
            reason = _hold_if_too_large(databases, connection, work, rows.documents)
        _finish_staging(connection, batch_id, rows.wanted, added, reason)
        if added.reused and not (added.queued or added.returned):
            # No processor will finish a row of this batch, so it may be done now.
            with connection.begin():
                batch = batch_by_id(connection, batch_id)
            complete_if_done(databases, batch)
        return Queued(
            documents=rows.documents,
            prompts=len(work.prompts),
            connections=len(work.connections),
            cells=rows.wanted,
            added=added.queued + added.reused,
            seconds=time.monotonic() - started,
            reused=added.reused,
            held=reason,
            cells_reused=rows.reused,
            returned=added.returned,
        )


@dataclass(frozen=True)
class _WorkToQueue:
    """A batch whose documents are all stored, and its sealed configuration."""

    batch: BatchRecord
    config: dict[str, Any]

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """The sealed prompts."""
        prompts: list[dict[str, Any]] = self.config["prompts"]
        return prompts

    @property
    def connections(self) -> list[dict[str, Any]]:
        """The sealed connections."""
        connections: list[dict[str, Any]] = self.config["connections"]
        return connections

    def expected(self, documents: int) -> int:
        """How many evaluations the batch must have."""
        return documents * len(self.prompts) * len(self.connections)


def _read_work(connection: Connection, batch: BatchRecord) -> _WorkToQueue:
    """Read what step 4 must queue; refuse a batch with documents that are not stored yet."""
    begun = _begin(connection, batch)
    _require_assignment(connection, begun)
    waiting = _count_files(begun.tallies, "ASSIGNED")
    if waiting or not _count_files(begun.tallies, "STAGED"):
        raise StagingError(
            f"{batch.key}: {waiting} documents are not stored yet: materialize encoded_documents first"
        )
    return _WorkToQueue(batch, begun.sealed.config)


def _enqueue_missing(
    databases: Databases, connection: Connection, work: _WorkToQueue, progress: Progress, *, reuses: bool
) -> tuple[Enqueued, QueuedRows]:
    """Add the rows that are missing, and count all rows of the batch after the commit."""
    batch, added = work.batch, Enqueued(0, 0)
    with databases.knowledge.connect() as knowledge:
        has_rows = queue.has_rows(knowledge, batch.id)
        if has_rows:
            rows = _count_queued(knowledge, connection, work)
            if (rows.wanted, rows.others) == (work.expected(rows.documents), 0):
                return added, rows
        # Brings the queue clock up to date, so that the new rows start at the current position.
        queue.tidy(knowledge)
        knowledge.commit()
        reuses = reuses and batch.reuse == "finished"
        added = _enqueue(knowledge, connection, work, progress, only_missing=has_rows, reuses=reuses)
        rows = _count_queued(knowledge, connection, work)
    expected = work.expected(rows.documents)
    if rows.wanted != expected:
        raise StagingError(
            f"{batch.key}: {rows.wanted} of {expected} evaluations are in the queue after commit: "
            "another program deleted rows meanwhile; materialize again"
        )
    return added, rows


def _enqueue(
    knowledge: Connection,
    connection: Connection,
    work: _WorkToQueue,
    progress: Progress,
    *,
    only_missing: bool,
    reuses: bool,
) -> Enqueued:
    """Add rows in one transaction; `only_missing` says whether the batch may have some already."""
    batch, returned = work.batch, 0
    try:
        with knowledge.begin(), connection.begin():
            if only_missing:
                for part in batch_documents.stored_ranges(connection, batch.id):
                    returned += attempts.requeue_returning(
                        knowledge, batch.id, part, batch.priority, returned
                    )
                    queue.withdraw_others(knowledge, batch.id, part)
            names = _reported_ranges(connection, work, progress)
            added = queue.enqueue(
                knowledge, batch.id, names, work.prompts, work.connections, batch.priority, reuse=reuses
            )
            if batch.is_limited and batch.expected_cells is None:
                queue.hold(knowledge, batch.id)
            return replace(added, returned=returned)
    except queue.DocumentsGone:
        raise StagingError(
            f"{batch.key}: some of its documents were archived with another batch meanwhile: "
            "materialize again"
        ) from None


def _reported_ranges(
    connection: Connection, work: _WorkToQueue, progress: Progress
) -> Iterator[DocumentRange]:
    """The documents to queue; `progress` receives the evaluations of each range after its rows were added."""
    counts = batch_documents.count_documents(connection, [work.batch.id])[work.batch.id]
    documents, expected = 0, work.expected(counts.distinct)
    progress(0, expected, 0)
    for part in batch_documents.named_ranges(connection, work.batch.id):
        yield part
        documents += len(part.ids)
        progress(work.expected(documents), expected, 0)


def _count_queued(knowledge: Connection, connection: Connection, work: _WorkToQueue) -> QueuedRows:
    with connection.begin():
        documents = batch_documents.stored_ranges(connection, work.batch.id)
        rows = queue.count_queued(knowledge, work.batch.id, documents, work.prompts, work.connections)
    knowledge.commit()
    return rows


def _finish_staging(
    connection: Connection, batch_id: int, expected: int, added: Enqueued, reason: str | None
) -> None:
    with connection.begin():
        connection.execute(_SET_EXPECTED, {"batch_id": batch_id, "cells": expected})
        is_first = transition(connection, batch_id, Action.FINISH_STAGING) is not None
        if not is_first and (added.queued or added.reused or added.returned):
            transition(connection, batch_id, Action.REOPEN)
        if reason is not None:
            transition(connection, batch_id, Action.PAUSE)
            connection.execute(_SET_HELD, {"batch_id": batch_id, "reason": reason})


def count_rows(databases: Databases, batch_id: int) -> int:
    """How many queue rows a batch has, with all attempts."""
    with databases.knowledge.connect() as knowledge:
        return queue.count_rows(knowledge, batch_id)


def interrupt_staging(databases: Databases, batch_id: int, reason: str) -> bool:
    """Record that a staging was interrupted; False if the batch is not being staged.

    A request for the staging is kept, so that another run is requested from Dagster.
    """
    with databases.doc_eval.begin() as connection:
        return transition(connection, batch_id, Action.INTERRUPT_STAGING, reason) is not None


def rest_staging(databases: Databases, batch_id: int) -> bool:
    """Record that a run executed only some steps of a staging; False if the batch is not being staged."""
    with databases.doc_eval.begin() as connection:
        return transition(connection, batch_id, Action.REST) is not None


@contextmanager
def staging_step(databases: Databases, batch_id: int) -> Iterator[tuple[Connection, BatchRecord]]:
    """Lock a batch for one step, and read it; a failure sets it to FAILED_STAGING with the reason."""
    with locked_batch(databases, batch_id) as (connection, batch):
        action, failure = Action.INTERRUPT_STAGING, f"the run was interrupted: doceval stage {batch_id}"
        try:
            with database_errors():
                yield connection, batch
            failure = ""
        except DocEvalError as error:
            # An unreachable database is not a failure of the batch.
            if not isinstance(error, DatabaseError):
                action = Action.FAIL_STAGING
            failure = str(error)
            raise
        finally:
            if failure:
                _record_failure(databases, connection, batch_id, action, failure)


def _record_failure(
    databases: Databases, connection: Connection, batch_id: int, action: Action, reason: str
) -> None:
    """Record a failure before another process gets the lock; without the lock if the connection is lost."""
    try:
        connection.rollback()
        with connection.begin():
            transition(connection, batch_id, action, reason)
    except SQLAlchemyError:
        # If the database is unreachable, nothing can be recorded now; the sensor staging_failure finds
        # batches whose staging no process works on.
        with suppress(SQLAlchemyError):
            interrupt_staging(databases, batch_id, reason)


@dataclass(frozen=True)
class _Begun:
    """A batch at the beginning of a step: its sealed configuration, and the states of its files."""

    batch: BatchRecord
    sealed: Snapshot
    tallies: list[Tally]


def _begin(connection: Connection, batch: BatchRecord) -> _Begun:
    with connection.begin():
        sealed = snapshot.read_snapshot(connection, batch.id)
        if sealed is None:
            raise StagingError(f"{batch.key} is not sealed yet: materialize batch_config_snapshot first")
        if batch.status is Status.PAUSED:
            raise StagingError(
                f"{batch.key} is paused, but new rows would not be: run doceval resume {batch.id} first"
            )
        if batch.status in (Status.SAVED, Status.FAILED_STAGING):
            transition(connection, batch.id, Action.BEGIN_STAGING)
        return _Begun(batch, sealed, batch_documents.tally(connection, batch.id))


def _hold_if_too_large(
    databases: Databases, connection: Connection, work: _WorkToQueue, documents: int
) -> str | None:
    """Hold a batch that exceeds its limits, and return the reason.

    Its rows were already held when they were added, so that no processor takes one first. They are held again
    here, because a killed run may have released them before a price changed.
    """
    batch = work.batch
    if not batch.is_limited:
        return None
    with databases.knowledge.begin() as knowledge, connection.begin():
        ranges = batch_documents.stored_ranges(connection, batch.id)
        reason = held_reason(databases, knowledge, batch, work.config, documents, ranges)
        if reason is None:
            queue.release(knowledge, batch.id, batch.priority)
        else:
            queue.hold(knowledge, batch.id)
        return reason


def _unmark_deleted_documents(databases: Databases, connection: Connection, batch_id: int) -> None:
    with connection.begin():
        absent, _ = _absent_documents(databases, connection, batch_id)
        if absent:
            batch_documents.unmark_staged(connection, batch_id, absent)


def _absent_documents(databases: Databases, connection: Connection, batch_id: int) -> tuple[list[int], int]:
    """The `docs.id` of staged files that are not stored, and how many documents the batch has."""
    absent, documents = [], 0
    with databases.knowledge.connect() as knowledge:
        for part in batch_documents.stored_ranges(connection, batch_id):
            absent += missing_documents(knowledge, part.ids)
            documents += len(part.ids)
    return absent, documents


def _count_files(tallies: Sequence[Tally], *states: str) -> int:
    """How many files are in any of the given states."""
    return sum(tally.files for tally in tallies if tally.state in states)


def _require_assignment(connection: Connection, begun: _Begun) -> None:
    if not begun.tallies:
        raise StagingError(
            f"{begun.batch.key} has no documents assigned: materialize document_assignment first"
        )
    _require_usable(connection, begun.batch.id, begun.sealed, begun.tallies)


def _require_usable(
    connection: Connection, batch_id: int, sealed: Snapshot, tallies: Sequence[Tally]
) -> None:
    if _count_files(tallies, "ASSIGNED", "STAGED"):
        return
    with connection.begin():
        by_patterns = chain.from_iterable(
            batch_documents.paths(connection, batch_id, reason) for reason in (NOT_INCLUDED, EXCLUDED)
        )
        problem = no_documents(sealed.config, tallies, by_patterns)
    raise StagingError(f"{partition_key(batch_id)} {problem}")
