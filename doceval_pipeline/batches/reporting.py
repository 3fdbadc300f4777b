"""Gathers what a report says from both databases, writes the file, and records that it stands.

What the report looks like is the business of `reports`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.doc_eval.batch_documents import list_files
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.doc_eval.snapshot import Snapshot, read_snapshot
from doceval_pipeline.errors import BatchStateError, ReportError
from doceval_pipeline.knowledge.responses import Result, digest, read_results, read_superseded
from doceval_pipeline.reports.figures import (
    ReportCell,
    ReportColumn,
    ReportDocument,
    ReportFigures,
    ReportInput,
    figures,
)
from doceval_pipeline.reports.html import render_html

_RECORD_REPORT = text("""
    UPDATE batches SET reported_digest = :digest WHERE id = :batch_id AND archived_at IS NULL
""")


@dataclass(frozen=True)
class WrittenReport:
    """A report that stands on disk: where, what it says, and its size in bytes."""

    path: Path
    figures: ReportFigures
    digest: str
    size: int


def write_report(databases: Databases, batch_id: int) -> WrittenReport:
    """Write the report of a batch as it is now; the same results give the same file.

    Raises
    ------
    UnknownBatch, BatchStateError, ReportError, DatabaseError
        BatchStateError where the batch has no sealed configuration yet, or is archived.
    """
    with database_errors():
        data = _gather(databases, batch_id)
        computed = figures(data)
        path = report_path(databases, batch_id, data.digest)
        size = write_whole(path, lambda: render_html(data, computed))
        with databases.doc_eval.begin() as connection:
            connection.execute(_RECORD_REPORT, {"batch_id": batch_id, "digest": data.digest})
    return WrittenReport(path, computed, data.digest, size)


def report_path(databases: Databases, batch_id: int, digest: str) -> Path:
    """Where the report of a batch's results stands, by their digest."""
    return databases.settings.reports / f"{partition_key(batch_id)}-{digest}.html"


def write_whole(path: Path, render: Callable[[], str]) -> int:
    """Write a file so that it is either whole or not there; returns its size in bytes.

    Raises
    ------
    ReportError
    """
    content = render().encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise ReportError(
            f"the report cannot be written in {path.parent} ({error.strerror}): make room or give this user "
            "permission"
        ) from None
    return len(content)


def _gather(databases: Databases, batch_id: int) -> ReportInput:
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        batch.require_rows()
        sealed = read_snapshot(connection, batch_id)
        if sealed is None:
            raise BatchStateError(
                f"{partition_key(batch_id)} has nothing to report, it is {batch.status.value}: stage it first"
            )
        documents = [
            ReportDocument(
                name=file.path,
                folder=file.folder,
                state=file.state,
                reason=file.reason,
                size=file.size,
                sha256=file.sha256,
                content_type=file.content_type,
                document_id=file.stored_as,
            )
            for file in list_files(connection, batch_id)
        ]
    # One snapshot of the database, so that the digest is of exactly the results that are shown.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        results = [_cell(result) for result in read_results(connection, batch_id)]
        superseded = [_cell(result) for result in read_superseded(connection, batch_id)]
        result_digest = digest(connection, batch_id)
    with databases.doc_eval.connect() as connection:
        # Not archived now means that the rows were all there when they were read.
        batch_by_id(connection, batch_id).require_rows()
    return ReportInput(
        version=1,
        partition_key=batch.key,
        batch_id=batch_id,
        name=batch.name,
        status=batch.status.value,
        description=batch.description,
        created_at=batch.created_at,
        started_at=batch.started_at,
        completed_at=batch.completed_at,
        expected_cells=batch.expected_cells or 0,
        documents=documents,
        columns=_columns(sealed),
        cells=results,
        superseded=superseded,
        config=sealed.config,
        config_sha256=sealed.sha256,
        digest=result_digest,
        versions={"doceval_pipeline": version("doceval-pipeline")},
    )


def _cell(r: Result) -> ReportCell:
    return ReportCell(
        document_id=r.document_id,
        connection_id=r.connection_id,
        prompt_id=r.prompt_id,
        attempt=r.attempt,
        outcome=r.outcome.value,
        status=r.status,
        score=r.score,
        error=r.error,
        response_text=r.response_text,
        input_tokens=r.input_tokens,
        output_tokens=r.output_tokens,
        seconds=r.seconds,
        simulated=r.simulated,
        response_characters=r.response_characters,
    )


def _columns(sealed: Snapshot) -> list[ReportColumn]:
    return [
        ReportColumn(connection["id"], connection["name"], prompt["id"], prompt["name"])
        for connection in sealed.config["connections"]
        for prompt in sealed.config["prompts"]
    ]
