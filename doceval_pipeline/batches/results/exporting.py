"""Writes the results of a batch into a file for other programs, one record per result.

Results and names are in two databases, which may be on two servers: both are read in the order of
`docs.id`, side by side, and neither is ever in memory as a whole.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from doceval_pipeline.atomic_file import STANDARD_OUTPUT, atomic_file_or_stdout
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id
from doceval_pipeline.doc_eval.exported import NamedDocument, named_documents
from doceval_pipeline.doc_eval.snapshot import Snapshot, read_snapshot
from doceval_pipeline.errors import BatchStateError, ExportError
from doceval_pipeline.knowledge.exported import Result, count_results, read_results
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.reports.exports.record import VERSION, Record, time_text
from doceval_pipeline.reports.exports.writing import Format, write_records
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html

Progress = Callable[[int, int], None]
"""Told how many records are written, and how many there are."""

# Records between two words to the progress.
PORTION = 1_000


@dataclass(frozen=True)
class Exported:
    """An exported file: its `size` in bytes (None on standard output) and its contents.

    `records` were counted as they were written; `cut` of their texts are longer than the format allows.
    `read_at` is the moment that the results are of.
    """

    size: int | None
    records: int
    cut: int
    read_at: datetime


def export_records(
    databases: Databases, batch_id: int, format: Format, path: Path, every_attempt: bool, progress: Progress
) -> Exported:
    """Write the current results of a batch, or every attempt, as they are at one moment.

    `path` may be `STANDARD_OUTPUT`, unless the format needs a file; see `Format.is_stream`.

    Somebody may work on the batch, or archive it, meanwhile.

    Raises
    ------
    UnknownBatch, BatchStateError, ExportError, FileError, DatabaseError
        BatchStateError where the batch has no sealed configuration yet, or is archived; ExportError where
        a result has no document. No file is left or changed then.
    """
    doc_eval_engine, knowledge_engine = (
        engine.execution_options(isolation_level="REPEATABLE READ")
        for engine in (databases.doc_eval, databases.knowledge)
    )
    with database_errors(), knowledge_engine.connect() as knowledge, doc_eval_engine.connect() as doc_eval:
        # In this order: a batch that is not archived after the results were looked at had all of them.
        total, read_at = count_results(knowledge, batch_id, every_attempt)
        batch = batch_by_id(doc_eval, batch_id)
        sealed = _sealed(batch, read_snapshot(doc_eval, batch_id))
        results = read_results(knowledge, batch_id, every_attempt)
        documents = named_documents(doc_eval, batch_id)
        records = _told(_records(batch, sealed, results, documents), total, progress)
        metadata = {
            "doceval.export.version": str(VERSION),
            "doceval.export.batch": batch.key,
            "doceval.export.read_at": time_text(read_at),
        }
        with atomic_file_or_stdout(path) as file:
            written = write_records(file, format, records, metadata)
            if written.records != total:
                raise ExportError(
                    f"{batch.key} has {total} results and {written.records} of them have a document: doceval "
                    "check says what is wrong"
                )
    return Exported(_size(path), written.records, written.cut, read_at)


def export_page(databases: Databases, batch_id: int, path: Path) -> int:
    """Write the report of a batch as it is now under a name of one's own; returns its size in bytes.

    Unlike `write_report`, it does not count as the batch's report.

    Raises
    ------
    UnknownBatch, BatchStateError, FileError, DatabaseError
        As `export_records`.
    """
    with database_errors():
        data = gather(databases, batch_id)
    page = render_html(data, figures(data)).encode()
    with atomic_file_or_stdout(path) as file:
        file.write(page)
    return len(page)


def _size(path: Path) -> int | None:
    return None if path == STANDARD_OUTPUT else path.stat().st_size


def _sealed(batch: BatchRecord, sealed: Snapshot | None) -> Snapshot:
    batch.require_rows()
    if sealed is None:
        raise BatchStateError(
            f"{batch.key} has nothing to export, it is {batch.status.value}: stage it first"
        )
    return sealed


def _records(
    batch: BatchRecord, sealed: Snapshot, results: Iterable[Result], documents: Iterable[NamedDocument]
) -> Iterator[Record]:
    """Each result with the names of all that it is about. No text of it holds what looks like a key."""
    config = sealed.config
    connections = {c["id"]: (c["name"], c["provider_type"], c["model_name"]) for c in config["connections"]}
    prompts = {prompt["id"]: prompt["name"] for prompt in config["prompts"]}
    for result, document in _side_by_side(results, documents):
        connection, provider, model = connections.get(result.connection_id, (None, None, None))
        yield Record(
            partition_key=batch.key,
            batch_id=batch.id,
            batch_name=batch.name,
            config_sha256=sealed.sha256,
            document_id=result.document_id,
            sha256=result.sha256,
            folder=_shown(document and document.folder),
            # Of a document that left the batch, the queue still knows the name.
            file=_shown(document.file if document else result.file_name),
            files=document.files if document else 0,
            file_size=result.file_size,
            content_type=result.content_type,
            doc_type=result.doc_type,
            connection_id=result.connection_id,
            connection=connection,
            provider=provider,
            model=model,
            prompt_id=result.prompt_id,
            prompt=prompts.get(result.prompt_id),
            attempt=result.attempt,
            current=result.current,
            outcome=result.outcome,
            status=result.status,
            score=result.score,
            response_text=_shown(result.response_text),
            response_json=_shown(result.response_json),
            error_message=_shown(result.error_message),
            input_tokens=result.input_tokens,
            output_tokens=result.output_tokens,
            seconds=result.seconds,
            simulated=result.simulated,
            worker=_shown(result.worker),
            task_id=_shown(result.task_id),
            deliveries=result.deliveries,
            queued_at=_utc(result.queued_at),
            started_at=_utc(result.started_at),
            completed_at=_utc(result.completed_at),
            withdrawn_at=_utc(result.withdrawn_at),
            reused_from_batch=result.reused_batch_id,
            reused_from=result.reused_from,
        )


def _side_by_side(
    results: Iterable[Result], documents: Iterable[NamedDocument]
) -> Iterator[tuple[Result, NamedDocument | None]]:
    """Each result with its document; both are in the order of `docs.id`, and walked once."""
    named = iter(documents)
    document = next(named, None)
    for result in results:
        while document is not None and document.stored_as < result.stored_as:
            document = next(named, None)
        found = document is not None and document.stored_as == result.stored_as
        yield result, document if found else None


def _told(records: Iterable[Record], total: int, progress: Progress) -> Iterator[Record]:
    progress(0, total)
    for done, record in enumerate(records, start=1):
        yield record
        if done % PORTION == 0 or done == total:
            progress(done, total)


def _shown(text: str | None) -> str | None:
    return None if text is None else without_keys(text)


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)
