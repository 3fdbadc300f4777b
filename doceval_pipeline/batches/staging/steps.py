"""The four steps of staging: snapshot, assignment, documents, queue.

Each may be run any number of times, killed anywhere, or run twice at once: an advisory lock per
batch lets one run work at a time, and each step does only what is still missing. What a step
reports is counted from the databases after its commit.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
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
from doceval_pipeline.batches.locks import batch_lock
from doceval_pipeline.batches.monitoring.completion import complete_if_done
from doceval_pipeline.batches.staging.limits import why_held
from doceval_pipeline.batches.staging.storing import Progress, store_missing
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval import snapshot
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.files import Tally
from doceval_pipeline.doc_eval.lifecycle import Action, Status, transition
from doceval_pipeline.doc_eval.recurring.occurrences import has_only_changes
from doceval_pipeline.doc_eval.snapshot import Snapshot
from doceval_pipeline.documents.walk import EXCLUDED, NOT_INCLUDED
from doceval_pipeline.errors import DatabaseError, DocEvalError, StagingError
from doceval_pipeline.knowledge import documents as bulk_load
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.queue import Enqueued
from doceval_pipeline.reports.formatting import counted, size_text

_SET_EXPECTED = text("UPDATE batches SET expected_cells = :cells WHERE id = :batch_id")
_SET_HELD = text("UPDATE batches SET held_reason = :reason WHERE id = :batch_id")


@dataclass(frozen=True)
class Assigned:
    """What the walk of a batch's folders found, counted from the database."""

    tallies: list[Tally]
    fresh: bool
    seconds: float

    def files(self, *states: str) -> int:
        """Files in any of some states."""
        return sum(tally.files for tally in self.tallies if tally.state in states)

    @property
    def bytes(self) -> int:
        """Size of the usable files in bytes."""
        return sum(tally.bytes for tally in self.tallies if tally.state in ("ASSIGNED", "STAGED"))

    @property
    def sentence(self) -> str:
        """What was found, for a log."""
        usable = counted(self.files("ASSIGNED", "STAGED"), "usable file", "usable files")
        looked = "the folders were looked at" if self.fresh else "as they were assigned before"
        return f"{usable} of {size_text(self.bytes)}; {left_out(self.tallies)}; {looked}"


@dataclass(frozen=True)
class Stored:
    """What is stored of a batch, counted from both databases; `copied_bytes` before encoding."""

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
        """What was stored, for a log."""
        stored = f"{self.copied:,} stored now ({size_text(self.copied_bytes)})"
        earlier = f"{self.distinct - self.copied:,} earlier"
        return f"{staged(self.files, self.distinct)}: {stored}, {earlier}; {left_out(self.tallies)}"


@dataclass(frozen=True)
class Queued:
    """The queue rows of a batch, counted after commit.

    `added` rows were queued now; `reused` counts those of them with a result of an earlier batch.
    `cells_reused` counts all rows of the batch with such a result, `returned` new attempts for documents that
    are in the batch again. `held` is why the batch was held.
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
        """What is in the queue, for a log."""
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
    with staging_step(databases, batch_id) as connection:
        with connection.begin():
            sealed = snapshot.seal(connection, batch_id)
            transition(connection, batch_id, Action.BEGIN_STAGING)
        with databases.knowledge.begin() as knowledge:
            queue.publish_config(knowledge, batch_id, sealed.canonical, sealed.sha256)
        return sealed


def assign_documents(databases: Databases, batch_id: int) -> Assigned:
    """Step 2: list every file of the batch's folders, once; frozen as soon as any is usable.

    A batch of what changed since another one keeps to the files that it was made of.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
        StagingError also when no file is usable; their reasons are kept.
    """
    started = time.monotonic()
    with staging_step(databases, batch_id) as connection:
        sealed = _begin(connection, batch_id)
        fresh = not _usable(batch_documents.tally(connection, batch_id))
        only_changes = has_only_changes(connection, batch_id)
        connection.commit()
        if fresh:
            with connection.begin():
                found = found_files(sealed.config, databases.settings)
                if only_changes:
                    batch_documents.assign_usable_now(connection, batch_id, found)
                else:
                    batch_documents.write_assignment(connection, batch_id, found)
        with connection.begin():
            tallies = batch_documents.tally(connection, batch_id)
        _require_usable(connection, batch_id, sealed, tallies)
        return Assigned(tallies, fresh, time.monotonic() - started)


def store_documents(databases: Databases, batch_id: int, progress: Progress) -> Stored:
    """Step 3: store the content of every assigned file that is not stored yet.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
        StagingError also when every file turned out unusable.
    """
    started = time.monotonic()
    with staging_step(databases, batch_id) as connection:
        sealed = _begin(connection, batch_id)
        _require_assignment(connection, batch_id, sealed)
        _forget_vanished_contents(databases, connection, batch_id)
        limit = databases.settings.max_document_bytes
        copied, copied_bytes = store_missing(databases.knowledge, connection, batch_id, limit, progress)
        with connection.begin():
            tallies = batch_documents.tally(connection, batch_id)
            stored = batch_documents.stored_ids(connection, batch_id)
        _require_usable(connection, batch_id, sealed, tallies)
        with databases.knowledge.connect() as knowledge:
            absent = bulk_load.absent_contents(knowledge, stored)
        if absent:
            raise StagingError(
                f"{partition_key(batch_id)}: {len(absent)} of {len(stored)} contents are not in docs after "
                "commit: somebody deleted them meanwhile; materialize again"
            )
        return Stored(tallies, len(stored), copied, copied_bytes, time.monotonic() - started)


def queue_cells(databases: Databases, batch_id: int, ask_all: bool = False) -> Queued:
    """Step 4: make all queue rows of the batch visible in one transaction, and count them after.

    Parameters
    ----------
    ask_all
        Reuse no results, even in a batch that does.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
    """
    started = time.monotonic()
    with staging_step(databases, batch_id) as connection:
        sealed = _begin(connection, batch_id)
        _require_assignment(connection, batch_id, sealed)
        waiting = len(batch_documents.unstaged_files(connection, batch_id))
        names = batch_documents.stored_names(connection, batch_id)
        documents, batch = list(names), batch_by_id(connection, batch_id)
        connection.commit()
        if waiting or not documents:
            raise StagingError(
                f"{partition_key(batch_id)}: {waiting} documents are not stored yet: materialize "
                "encoded_documents first"
            )
        prompts, connections = sealed.config["prompts"], sealed.config["connections"]
        expected = len(documents) * len(prompts) * len(connections)
        added, held = Enqueued(0, 0), None
        with databases.knowledge.connect() as knowledge:
            cells, others, reused = queue.queued_cells(knowledge, batch_id, documents, prompts, connections)
        if (cells, others) != (expected, 0):
            reuse = batch.reuse == "finished" and not ask_all
            added = _enqueue(databases, batch, names, prompts, connections, reuse)
            with databases.knowledge.connect() as knowledge:
                cells, _, reused = queue.queued_cells(knowledge, batch_id, documents, prompts, connections)
        if cells != expected:
            raise StagingError(
                f"{partition_key(batch_id)}: {cells} of {expected} cells are in the queue after commit: "
                "somebody deleted rows meanwhile; materialize again"
            )
        if batch.expected_cells is None:
            held = _hold_if_too_large(databases, batch, sealed.config, documents)
        with connection.begin():
            connection.execute(_SET_EXPECTED, {"batch_id": batch_id, "cells": expected})
            transition(connection, batch_id, Action.FINISH_STAGING)
            if added.queued or added.reused or added.returned:
                transition(connection, batch_id, Action.REOPEN)
            if held is not None:
                transition(connection, batch_id, Action.PAUSE)
                connection.execute(_SET_HELD, {"batch_id": batch_id, "reason": held})
        if added.reused and not (added.queued or added.returned):
            # Nothing was queued that a processor would finish, so that the batch may be done now.
            with connection.begin():
                batch = batch_by_id(connection, batch_id)
            complete_if_done(databases, batch)
        return Queued(
            len(documents),
            len(prompts),
            len(connections),
            cells,
            added.queued + added.reused,
            time.monotonic() - started,
            added.reused,
            held,
            reused,
            added.returned,
        )


def count_rows(databases: Databases, batch_id: int) -> int:
    """The queue rows of a batch, those of earlier attempts included."""
    with databases.knowledge.connect() as knowledge:
        return queue.count_rows(knowledge, batch_id)


def interrupt_staging(databases: Databases, batch_id: int, reason: str) -> bool:
    """Record that a staging was interrupted; False where the batch is not being staged.

    A request for it stands, and Dagster is asked again.
    """
    with databases.doc_eval.begin() as connection:
        return transition(connection, batch_id, Action.INTERRUPT_STAGING, reason) is not None


def rest_staging(databases: Databases, batch_id: int) -> bool:
    """Record that only some steps of a staging were asked for; False where the batch is not being staged."""
    with databases.doc_eval.begin() as connection:
        return transition(connection, batch_id, Action.REST) is not None


@contextmanager
def staging_step(databases: Databases, batch_id: int) -> Iterator[Connection]:
    """One step of one batch: alone on the batch, and FAILED_STAGING with the reason if it fails."""
    with batch_lock(databases, batch_id) as connection:
        action, failure = Action.INTERRUPT_STAGING, f"the run was interrupted: doceval stage {batch_id}"
        try:
            with database_errors():
                yield connection
            failure = ""
        except DocEvalError as error:
            # A database that is out of reach says nothing about the batch.
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
    """Record a failure before anybody else gets the lock, or without it where the connection is gone."""
    try:
        connection.rollback()
        with connection.begin():
            transition(connection, batch_id, action, reason)
    except SQLAlchemyError:
        # With the database out of reach nothing can be recorded now; the sensor staging_failure
        # finds batches whose staging nobody works on.
        with suppress(SQLAlchemyError):
            interrupt_staging(databases, batch_id, reason)


def _begin(connection: Connection, batch_id: int) -> Snapshot:
    with connection.begin():
        batch: BatchRecord = batch_by_id(connection, batch_id)
        sealed = snapshot.read_snapshot(connection, batch_id)
        if sealed is None:
            raise StagingError(f"{batch.key} is not sealed yet: materialize batch_config_snapshot first")
        if batch.status is Status.PAUSED:
            raise StagingError(
                f"{batch.key} is paused, and new rows would not be: doceval resume {batch_id} first"
            )
        if batch.status in (Status.SAVED, Status.FAILED_STAGING):
            transition(connection, batch_id, Action.BEGIN_STAGING)
    return sealed


def _hold_if_too_large(
    databases: Databases, batch: BatchRecord, config: Mapping[str, Any], documents: Sequence[int]
) -> str | None:
    """Hold a batch that is over its limits, and return the reason.

    Its rows were added held, so that no processor takes one before. They are held once more, because a run
    that was killed may have released them, before a price changed.
    """
    if not batch.is_limited:
        return None
    with databases.knowledge.begin() as knowledge:
        reason = why_held(databases, knowledge, batch, config, documents)
        if reason is None:
            queue.release(knowledge, batch.id, batch.priority)
        else:
            queue.hold(knowledge, batch.id)
        return reason


def _enqueue(
    databases: Databases,
    batch: BatchRecord,
    names: Mapping[int, str],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
    reuse: bool,
) -> Enqueued:
    with databases.knowledge.begin() as knowledge:
        # So that the rows are placed where the queue is now, whoever took rows from it.
        queue.tidy(knowledge)
    try:
        with databases.knowledge.begin() as knowledge:
            returned = queue.requeue_returning(knowledge, batch.id, list(names), batch.priority)
            queue.withdraw_others(knowledge, batch.id, list(names))
            added = queue.enqueue(knowledge, batch.id, names, prompts, connections, batch.priority, reuse)
            if batch.is_limited and batch.expected_cells is None:
                queue.hold(knowledge, batch.id)
            return replace(added, returned=returned)
    except queue.ContentsGone:
        raise StagingError(
            f"{batch.key}: some of its documents were archived with another batch meanwhile: "
            "materialize again"
        ) from None


def _forget_vanished_contents(databases: Databases, connection: Connection, batch_id: int) -> None:
    with connection.begin():
        stored = batch_documents.stored_ids(connection, batch_id)
        with databases.knowledge.connect() as knowledge:
            absent = bulk_load.absent_contents(knowledge, stored)
        if absent:
            batch_documents.unmark_staged(connection, batch_id, absent)


def _usable(tallies: Sequence[Tally]) -> int:
    return sum(tally.files for tally in tallies if tally.state in ("ASSIGNED", "STAGED"))


def _require_assignment(connection: Connection, batch_id: int, sealed: Snapshot) -> None:
    with connection.begin():
        tallies = batch_documents.tally(connection, batch_id)
    if not tallies:
        raise StagingError(
            f"{partition_key(batch_id)} has no documents assigned: materialize document_assignment first"
        )
    _require_usable(connection, batch_id, sealed, tallies)


def _require_usable(
    connection: Connection, batch_id: int, sealed: Snapshot, tallies: Sequence[Tally]
) -> None:
    if _usable(tallies):
        return
    with connection.begin():
        by_patterns = chain.from_iterable(
            batch_documents.paths(connection, batch_id, reason) for reason in (NOT_INCLUDED, EXCLUDED)
        )
        problem = no_documents(sealed.config, tallies, by_patterns)
    raise StagingError(f"{partition_key(batch_id)} {problem}")
