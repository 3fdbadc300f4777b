"""How far batches are: their files and cells, counted from both databases. Changes nothing."""

from dataclasses import asdict, dataclass
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batch_documents import DocumentCounts, count_documents
from doceval_pipeline.doc_eval.batches import BatchRecord, find_batch, list_batches
from doceval_pipeline.knowledge.responses import CellCounts, count_cells


@dataclass(frozen=True)
class BatchProgress:
    """A batch with what both databases hold of it."""

    batch: BatchRecord
    documents: DocumentCounts
    cells: CellCounts

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval status --json` prints; its names are a public interface."""
        return {
            "batch": self.batch.id,
            "name": self.batch.name,
            "partition": self.batch.key,
            "status": self.batch.status.value,
            "archived": None if self.batch.archived_at is None else self.batch.archived_at.isoformat(),
            "reason": self.batch.failure_reason,
            "documents": asdict(self.documents),
            "cells": {"expected": self.batch.expected_cells or 0, **asdict(self.cells)},
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
    numbers = [batch.id for batch in batches]
    with databases.doc_eval.connect() as connection:
        documents = count_documents(connection, numbers)
    with databases.knowledge.connect() as connection:
        cells = count_cells(connection, numbers)
    return [BatchProgress(batch, documents[batch.id], cells[batch.id]) for batch in batches]
