"""How far batches are: files, cells and pace, counted from both databases. Changes nothing."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.locks import abandoned_stagings
from doceval_pipeline.batches.monitoring.stalls import Judgement, Question, judge_batches
from doceval_pipeline.batches.monitoring.throughput import Pace, pace_of
from doceval_pipeline.batches.results.report_files import find_report
from doceval_pipeline.doc_eval.batches import BatchRecord, batches_in, find_batch, list_batches
from doceval_pipeline.doc_eval.files import DocumentCounts, count_documents
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status
from doceval_pipeline.doc_eval.progress import read_samples
from doceval_pipeline.doc_eval.recurring import Origin, list_recurring, origins_of
from doceval_pipeline.doc_eval.runs.lost import LostRun, lost_runs_of, lost_runs_without_batch
from doceval_pipeline.doc_eval.runs.requests import Waiting, unreported, unstaged
from doceval_pipeline.doc_eval.webhook_deliveries import Trouble, troubles
from doceval_pipeline.knowledge.counts import (
    CellCounts,
    DeferredRows,
    count_cells,
    count_origins,
    deferred_rows,
)


@dataclass(frozen=True)
class BatchProgress:
    """A batch with what both databases hold of it.

    `pace` and `judgement` are there for open batches that were looked at by the sensor
    `response_status`, which keeps the samples they rest on. `webhook` is there where the receiver of
    completions could not be told. `report` is the file of its newest report. `request` is there where a run
    that stages or reports the batch is awaited, and `notices` are sentences about what is missing and what
    to do. `deferred` is there where waiting rows are not handed out yet, because their processor asked so.
    `origins` counts the batches that reused results come from; `is_from_elsewhere` where some come from
    another installation.
    `recurring` is there for the batch of a recurring evaluation that is not deleted.
    """

    batch: BatchRecord
    documents: DocumentCounts
    cells: CellCounts
    pace: Pace | None = None
    judgement: Judgement | None = None
    webhook: Trouble | None = None
    report: Path | None = None
    request: Waiting | None = None
    notices: tuple[str, ...] = ()
    deferred: DeferredRows | None = None
    origins: int = 0
    is_from_elsewhere: bool = False
    recurring: Origin | None = None

    @property
    def reuse(self) -> str | None:
        """How many cells have a reused result, for people; None where none has."""
        cells = self.cells
        if not cells.reused:
            return None
        # Most batches reuse nothing, and the model of reports takes a while to import.
        from doceval_pipeline.reports.insights import origins_text
        from doceval_pipeline.reports.model import NOTHING_ASKED

        whole = cells.reused == cells.done == self.batch.expected_cells
        many = "all" if whole else f"{cells.reused:,}"
        places = origins_text(self.origins, self.is_from_elsewhere)
        said = f"{cells.done:,} done, {many} of them reused from {places}"
        return f"{said}: {NOTHING_ASKED}" if whole else said

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
            "pace": None if self.pace is None else self.pace.as_json(),
            "movement": None if self.judgement is None else asdict(self.judgement),
            "webhook": None if self.webhook is None else self.webhook.as_json(),
            "report": None if self.report is None else str(self.report),
            "request": None if self.request is None else self.request.as_json(),
            "notices": list(self.notices),
            "deferred": None if self.deferred is None else self.deferred.as_json(),
        }


def batch_progress(databases: Databases, wanted: str | None = None) -> list[BatchProgress]:
    """The progress of one batch, by number, key or name, or of all batches, oldest first.

    Raises
    ------
    UnknownBatch
        There is no such batch.
    """
    if wanted is not None:
        batches = [find_batch(databases.doc_eval, wanted)]
    else:
        with databases.doc_eval.connect() as connection:
            batches = list_batches(connection)
    return progress_of(databases, batches)


def progress_of(databases: Databases, batches: list[BatchRecord]) -> list[BatchProgress]:
    """The progress of the given batches, in their order; a few statements for all of them."""
    numbers = [batch.id for batch in batches]
    paces = batch_paces(databases, batches)
    with databases.doc_eval.connect() as connection:
        documents = count_documents(connection, numbers)
        not_told = troubles(connection, numbers)
        awaited = {**unstaged(connection, numbers), **unreported(connection, numbers)}
        abandoned = abandoned_stagings(connection, numbers)
        lost = lost_runs_of(connection, numbers)
        recurring = origins_of(connection, numbers)
    with databases.knowledge.connect() as connection:
        cells = count_cells(connection, numbers)
        origins = count_origins(connection, [n for n in numbers if cells[n].reused])
        deferred = {n: found for n, found in deferred_rows(connection, numbers).items() if found.rows}
    questions = [
        Question(batch, cells[batch.id], paces[batch.id].still_for) for batch in batches if batch.id in paces
    ]
    judgements = judge_batches(databases, questions) if questions else {}
    return [
        BatchProgress(
            batch,
            documents[batch.id],
            cells[batch.id],
            paces.get(batch.id),
            judgements.get(batch.id),
            not_told.get(batch.id),
            find_report(databases, batch),
            awaited.get(batch.id),
            (
                *_notices(batch, documents[batch.id], awaited.get(batch.id), abandoned),
                *(run.sentence for run in lost if run.batch_id == batch.id),
            ),
            deferred.get(batch.id),
            *origins.get(batch.id, (0, False)),
            recurring.get(batch.id),
        )
        for batch in batches
    ]


def closed_batches(databases: Databases) -> list[BatchRecord]:
    """All closed batches that are not archived, oldest first."""
    with databases.doc_eval.connect() as connection:
        return batches_in(connection, CLOSED)


def having_failures(databases: Databases, batches: Sequence[BatchRecord]) -> list[BatchRecord]:
    """Those of the given batches that are closed and have failed evaluations; one statement for all.

    A batch that a person cancelled is left out: its evaluations were closed, and did not fail.
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
    """A sentence for each recurring evaluation whose newest occurrence failed, and so has no batch."""
    with databases.doc_eval.connect() as connection:
        return [record.failure for record in list_recurring(connection) if record.failure is not None]


def lost_without_batch(databases: Databases) -> list[LostRun]:
    """Runs that ended before they began and belong to no batch, such as those that were to create one."""
    with databases.doc_eval.connect() as connection:
        return lost_runs_without_batch(connection)


def _notices(
    batch: BatchRecord,
    documents: DocumentCounts,
    request: Waiting | None,
    abandoned: Container[int],
) -> Iterator[str]:
    """Notices about missing parts of a batch, each with the command that fixes it."""
    if batch.held_notice is not None:
        yield batch.held_notice
    if batch.id in abandoned:
        yield f"no process works on its staging: doceval stage {batch.id} goes on with it"
    if batch.status is Status.SAVED and batch.config_sha256 is not None and request is None:
        missing = ", ".join(_missing_assets(documents))
        yield (
            f"only some of its assets are materialized, and not {missing}: materialize the group staging, or "
            f"doceval stage {batch.id}"
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


def batch_paces(databases: Databases, batches: list[BatchRecord]) -> dict[int, Pace]:
    """The pace of each open batch of which there are samples."""
    are_open = [batch for batch in batches if batch.status in OPEN]
    if not are_open:
        return {}
    with databases.doc_eval.connect() as connection:
        samples = read_samples(connection, [batch.id for batch in are_open])
    found = {
        batch.id: pace_of(
            samples[batch.id], batch.expected_cells or 0, cancelled=batch.cancelled_at is not None
        )
        for batch in are_open
    }
    return {number: pace for number, pace in found.items() if pace is not None}
