"""Shared by the tests of archives: completed batches, and all of their rows."""

from collections.abc import Callable
from pathlib import Path

from doceval_pipeline.batches.archiving.archive import ArchivedBatch, archive
from doceval_pipeline.batches.archiving.restore import RestoredBatch, open_incoming, restore
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.portions import Progress
from doceval_pipeline_tests.conftest import EMPTY_DOC_EVAL, EMPTY_KNOWLEDGE, Sample

BatchOf = Callable[..., Sample]
Holdings = dict[str, list[str]]

# Rows as text, in which times, numbers and texts are exact. The row of a batch shows that it is archived.
_KNOWLEDGE = {"llm_responses": "id", "docs": "id", "batch_configs": "batch_id"}
_DOC_EVAL = {
    "batch_documents": "batch_id, document_id",
    "documents": "id",
    "batch_progress": "batch_id, observed_at",
    "connection_history": "batch_id, connection_id, measure",
    "batch_folders": "batch_id, folder_id",
    "batch_connections": "batch_id, connection_id",
    "batch_prompts": "batch_id, prompt_id",
    "folders": "id",
    "connections": "id",
    "prompts": "id",
    "llm_providers": "provider_type",
    "models": "model_name",
    "batches": "id",
}
GONE = ("llm_responses", "docs", "batch_configs", "batch_documents", "documents")
WAITS_FOR_A_LOCK = """
    SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


def quiet(*_: int) -> None:
    """A progress callback that does nothing."""


def holdings(batch: Sample) -> Holdings:
    """Every row of both databases, by table."""
    found = {
        table: batch.knowledge(f"SELECT t::text FROM {table} t ORDER BY {order}")
        for table, order in _KNOWLEDGE.items()
    } | {
        table: batch.doc_eval(f"SELECT t::text FROM {table} t ORDER BY {order}")
        for table, order in _DOC_EVAL.items()
    }
    return {table: [row[0] for row in rows] for table, rows in found.items()}


def archive_batch(batch: Sample) -> ArchivedBatch:
    return archive(batch.databases, batch.id, quiet, quiet)


def restore_batch(batch: Sample, archived: ArchivedBatch) -> RestoredBatch:
    return restore_file(batch.databases, archived.path)


def restore_file(databases: Databases, path: Path, storing: Progress = quiet) -> RestoredBatch:
    """Restores an archive with accepted connections."""
    with open_incoming(databases, path, quiet) as incoming:
        return restore(databases, incoming, storing, accept_connections=True)


def done(batch: Sample) -> Sample:
    """Stages a batch, writes all of its results, completes it and writes its report."""
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', overall_score = 50.5, response_text = 'fine' "
        "WHERE batch_id = :id"
    )
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    assert batch.status() == "COMPLETED"
    return batch


def is_marked_archived(batch: Sample) -> bool:
    """Whether the batch is marked as archived."""
    return bool(batch.doc_eval("SELECT archived_at IS NOT NULL FROM batches WHERE id = :id")[0][0])


def audit(batch: Sample) -> list[tuple[str, str]]:
    """The findings of a full audit: batch and invariant."""
    return [(v.batch, v.invariant) for v in audit_installation(batch.databases, quiet, every_document=True)]


def empty_installation(batch: Sample) -> None:
    """Empties both databases and restarts their ids, as in a new installation."""
    batch.doc_eval(f"{EMPTY_DOC_EVAL.text} RESTART IDENTITY")
    batch.knowledge(f"{EMPTY_KNOWLEDGE.text} RESTART IDENTITY")
