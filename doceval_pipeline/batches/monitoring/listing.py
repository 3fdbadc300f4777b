"""Lists batches with the counts of both databases, by filters. Reads only."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.report_files import find_report
from doceval_pipeline.doc_eval.batch_listing import BatchFilter, newest_batches
from doceval_pipeline.doc_eval.batches import BatchRecord
from doceval_pipeline.doc_eval.files import DocumentCounts, count_documents
from doceval_pipeline.doc_eval.recurring.occurrences import recurring_origins
from doceval_pipeline.doc_eval.recurring.stored import find_recurring
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.recurring import RecurringOrigin
from doceval_pipeline.knowledge.incremental_counts import batches_with_failures, read_counts


@dataclass(frozen=True)
class ListedBatch:
    """A batch with its counts; those of an archived batch are in its archive."""

    batch: BatchRecord
    documents: DocumentCounts
    cells: CellCounts
    report: Path | None
    """The file of its newest report."""
    recurring: RecurringOrigin | None
    """The recurring evaluation that made it, unless it was deleted."""

    @property
    def is_archived(self) -> bool:
        """Whether its counts are unknown here."""
        return self.batch.archived_at is not None

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval list --json` prints; its names are a public interface."""
        batch = self.batch
        return {
            "batch": batch.id,
            "name": batch.name,
            "partition": batch.key,
            "status": batch.status.value,
            "archived": _iso(batch.archived_at),
            "held_reason": batch.held_reason,
            "created": _iso(batch.created_at),
            "completed": _iso(batch.completed_at),
            "documents": None if self.is_archived else asdict(self.documents),
            "cells": None
            if self.is_archived
            else {"expected": batch.expected_cells or 0, **self.cells.outcomes},
            "recurring": None if self.recurring is None else self.recurring.as_json(),
            "report": None if self.report is None else str(self.report),
        }


def find_listed(
    databases: Databases, wanted: BatchFilter, limit: int, *, recurring: str | None, failed: bool
) -> tuple[list[ListedBatch], int]:
    """The newest batches that match, and the number of all that match.

    Parameters
    ----------
    recurring
        Only batches that the recurring evaluation of this name made.
    failed
        Only batches with failed evaluations; archived ones are left out.

    Raises
    ------
    UnknownRecurring
    """
    if failed:
        with databases.knowledge.connect() as connection:
            wanted = replace(wanted, ids=batches_with_failures(connection))
    with databases.doc_eval.connect() as connection:
        if recurring is not None:
            wanted = replace(wanted, recurring_id=find_recurring(connection, recurring).id)
        batches, matching = newest_batches(connection, wanted, limit)
        ids = [batch.id for batch in batches]
        documents = count_documents(connection, ids)
        origins = recurring_origins(connection, ids)
    cells = _counts(databases, ids)
    return [
        ListedBatch(
            batch,
            documents[batch.id],
            cells.get(batch.id, CellCounts()),
            find_report(databases, batch),
            origins.get(batch.id),
        )
        for batch in batches
    ], matching


def _counts(databases: Databases, ids: Sequence[int]) -> dict[int, CellCounts]:
    """The counts that triggers keep, because counting the rows of large batches takes seconds."""
    if not ids:
        return {}
    with databases.knowledge.connect() as connection:
        return {count.batch_id: count.cells for count in read_counts(connection, ids)}


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
