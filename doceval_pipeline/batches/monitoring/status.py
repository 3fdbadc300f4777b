"""The progress of batches: files, evaluations and throughput, read from both databases. Reads only."""

from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.locks import abandoned_stagings
from doceval_pipeline.batches.monitoring.stalls import StallAssessment, StallInput, assess_batches
from doceval_pipeline.batches.monitoring.throughput import BatchThroughput, measure_throughput
from doceval_pipeline.batches.results.report_files import find_report
from doceval_pipeline.doc_eval.batches import (
    BatchRecord,
    batch_ids,
    batches_in,
    count_batches,
    find_batch,
    overview,
    read_batches,
)
from doceval_pipeline.doc_eval.files import DocumentCounts, count_documents
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status
from doceval_pipeline.doc_eval.progress import read_samples
from doceval_pipeline.doc_eval.recurring.occurrences import recurring_origins
from doceval_pipeline.doc_eval.recurring.stored import list_recurring
from doceval_pipeline.doc_eval.runs.lost import LostRun, lost_runs_of, lost_runs_without_batch
from doceval_pipeline.doc_eval.runs.requests import PendingRun, unreported, unstaged
from doceval_pipeline.doc_eval.webhook_deliveries import undelivered
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.queue_rows import DeferredRows
from doceval_pipeline.domain.recurring import RecurringOrigin
from doceval_pipeline.domain.webhook import UndeliveredMessage
from doceval_pipeline.knowledge.counts import count_cells, count_origins, deferred_rows
from doceval_pipeline.portions import in_portions

# An overview shows all open batches, and this many of the newest.
NEWEST_SHOWN = 200
# Batches whose progress is read at a time, so that 100,000 need no more memory than these.
PORTION = 1_000


@dataclass(frozen=True)
class BatchProgress:
    """A batch with its data from both databases."""

    batch: BatchRecord
    documents: DocumentCounts
    cells: CellCounts
    throughput: BatchThroughput | None = None
    """Of an open batch that has samples, which the sensor `response_status` stores."""
    assessment: StallAssessment | None = None
    """Whether such a batch progresses."""
    webhook: UndeliveredMessage | None = None
    """Why the webhook's receiver has not accepted the completion."""
    report: Path | None = None
    """The file of its newest report."""
    request: PendingRun | None = None
    """The run that must stage or report the batch and has not succeeded yet."""
    notices: tuple[str, ...] = ()
    """Sentences about what is missing and what to do."""
    deferred: DeferredRows | None = None
    """Waiting rows that are not handed out yet, because their processor asked for that."""
    origins: int = 0
    """How many batches the reused results come from."""
    is_from_elsewhere: bool = False
    """Whether some of them come from another installation."""
    recurring: RecurringOrigin | None = None
    """The recurring evaluation that made the batch, unless it was deleted."""

    @property
    def reuse(self) -> str | None:
        """A sentence on how many evaluations have a reused result; None if none has."""
        cells = self.cells
        if not cells.reused:
            return None
        # Most batches reuse nothing, and the model of reports takes a while to import.
        from doceval_pipeline.reports.labels import origins_text
        from doceval_pipeline.reports.model import NOTHING_ASKED

        whole = cells.reused == cells.done == self.batch.expected_cells
        many = "all" if whole else f"{cells.reused:,}"
        places = origins_text(self.origins, is_elsewhere=self.is_from_elsewhere)
        counts = f"{cells.done:,} done, {many} of them reused from {places}"
        return f"{counts}: {NOTHING_ASKED}" if whole else counts

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval status --json` prints; its names are a public interface."""
        return {
            "batch": self.batch.id,
            "name": self.batch.name,
            "partition": self.batch.key,
            "status": self.batch.status.value,
            "archived": None if self.batch.archived_at is None else self.batch.archived_at.isoformat(),
            "reason": self.batch.failure_reason,
            "held_reason": self.batch.held_reason,
            "recurring": None if self.recurring is None else self.recurring.as_json(),
            "documents": asdict(self.documents),
            "cells": {"expected": self.batch.expected_cells or 0, **self.cells.outcomes},
            "cells_reused": self.cells.reused,
            "reused_from_batches": self.origins,
            "pace": None if self.throughput is None else self.throughput.as_json(),
            "movement": None if self.assessment is None else self.assessment.as_json(),
            "webhook": None if self.webhook is None else self.webhook.as_json(),
            "report": None if self.report is None else str(self.report),
            "request": None if self.request is None else self.request.as_json(),
            "notices": list(self.notices),
            "deferred": None if self.deferred is None else self.deferred.as_json(),
        }


def every_progress(databases: Databases) -> Iterator[BatchProgress]:
    """The progress of all batches, oldest first, read in portions."""
    with databases.doc_eval.connect() as connection:
        ids = batch_ids(connection)
    for portion in in_portions(ids, PORTION):
        with databases.doc_eval.connect() as connection:
            batches = read_batches(connection, portion)
        yield from progress_of(databases, batches)


def progress_overview(databases: Databases, shown: Collection[int] = ()) -> tuple[list[BatchProgress], int]:
    """The progress of batches that are not closed and of the newest ones; and how many batches exist.

    Parameters
    ----------
    shown
        The numbers of batches that are included in any case.
    """
    with databases.doc_eval.connect() as connection:
        batches, total = overview(connection, NEWEST_SHOWN, shown), count_batches(connection)
    return progress_of(databases, batches), total


def batch_progress(databases: Databases, wanted: str) -> BatchProgress:
    """The progress of a batch, given by number, key or name.

    Raises
    ------
    UnknownBatch
        The batch does not exist.
    """
    (progress,) = progress_of(databases, [find_batch(databases.doc_eval, wanted)])
    return progress


def progress_of(databases: Databases, batches: list[BatchRecord]) -> list[BatchProgress]:
    """The progress of the given batches, in their order; a few statements for all of them."""
    numbers = [batch.id for batch in batches]
    throughputs = batch_throughputs(databases, batches)
    with databases.doc_eval.connect() as connection:
        documents = count_documents(connection, numbers)
        undelivered_by_batch = undelivered(connection, numbers)
        pending = {**unstaged(connection, numbers), **unreported(connection, numbers)}
        abandoned = abandoned_stagings(connection, numbers)
        lost = lost_runs_of(connection, numbers)
        recurring = recurring_origins(connection, numbers)
    with databases.knowledge.connect() as connection:
        cells = count_cells(connection, numbers)
        origins = count_origins(connection, [n for n in numbers if cells[n].reused])
        deferred = {n: rows for n, rows in deferred_rows(connection, numbers).items() if rows.rows}
    inputs = [
        StallInput(batch, cells[batch.id], throughputs[batch.id].seconds_unchanged)
        for batch in batches
        if batch.id in throughputs
    ]
    assessments = assess_batches(databases, inputs) if inputs else {}
    progress = []
    for batch in batches:
        number = batch.id
        request = pending.get(number)
        number_of_origins, is_from_elsewhere = origins.get(number, (0, False))
        notices = _notices(batch, documents[number], request, abandoned)
        progress.append(
            BatchProgress(
                batch,
                documents[number],
                cells[number],
                throughput=throughputs.get(number),
                assessment=assessments.get(number),
                webhook=undelivered_by_batch.get(number),
                report=find_report(databases, batch),
                request=request,
                notices=(*notices, *(run.sentence for run in lost if run.batch_id == number)),
                deferred=deferred.get(number),
                origins=number_of_origins,
                is_from_elsewhere=is_from_elsewhere,
                recurring=recurring.get(number),
            )
        )
    return progress


def closed_batches(databases: Databases) -> list[BatchRecord]:
    """All closed batches that are not archived, oldest first."""
    with databases.doc_eval.connect() as connection:
        return batches_in(connection, CLOSED)


def batches_with_failures(databases: Databases, batches: Sequence[BatchRecord]) -> list[BatchRecord]:
    """The given batches that are closed and have failed evaluations; one statement for all.

    Cancelled batches are left out: the cancellation ended their evaluations.
    """
    closed = [
        batch
        for batch in batches
        if batch.status in CLOSED and batch.archived_at is None and batch.cancelled_at is None
    ]
    with databases.knowledge.connect() as connection:
        cells = count_cells(connection, [batch.id for batch in closed])
    return [batch for batch in closed if cells[batch.id].failed]


def failed_occurrences(databases: Databases) -> list[str]:
    """A sentence for each recurring evaluation whose newest occurrence failed, so that it has no batch."""
    with databases.doc_eval.connect() as connection:
        return [record.failure for record in list_recurring(connection) if record.failure is not None]


def lost_without_batch(databases: Databases) -> list[LostRun]:
    """Runs that ended before they started and belong to no batch, such as runs of `create_batch`."""
    with databases.doc_eval.connect() as connection:
        return lost_runs_without_batch(connection)


def _notices(
    batch: BatchRecord,
    documents: DocumentCounts,
    request: PendingRun | None,
    abandoned: Container[int],
) -> Iterator[str]:
    """Notices about missing parts of a batch, each with the command that fixes it."""
    if batch.held_notice is not None:
        yield batch.held_notice
    if batch.id in abandoned:
        yield f"no process is working on its staging: run doceval stage {batch.id} to continue it"
    if batch.status is Status.SAVED and batch.config_sha256 is not None and request is None:
        missing = ", ".join(_missing_assets(documents))
        yield (
            f"some of its assets are not materialized ({missing}): materialize the group staging, or "
            f"run doceval stage {batch.id}"
        )
    if request is None:
        return
    if request.is_late:
        is_staged = batch.status not in (Status.SAVED, Status.FAILED_STAGING)
        yield request.missing_report if is_staged else request.missing_staging


def _missing_assets(documents: DocumentCounts) -> Iterator[str]:
    if not documents.assigned + documents.staged:
        yield "document_assignment"
    if documents.assigned or not documents.staged:
        yield "encoded_documents"
    yield "queue_rows"


def batch_throughputs(databases: Databases, batches: list[BatchRecord]) -> dict[int, BatchThroughput]:
    """The throughput of each open batch that has samples."""
    are_open = [batch for batch in batches if batch.status in OPEN]
    if not are_open:
        return {}
    with databases.doc_eval.connect() as connection:
        samples = read_samples(connection, [batch.id for batch in are_open])
    measured = {
        batch.id: measure_throughput(
            samples[batch.id], batch.expected_cells or 0, cancelled=batch.cancelled_at is not None
        )
        for batch in are_open
    }
    return {number: throughput for number, throughput in measured.items() if throughput is not None}
