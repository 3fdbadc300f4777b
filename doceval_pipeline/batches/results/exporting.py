"""Writes the results of a batch to a file for other programs, one record per result.

Results and file names are in two databases, which may be on two servers. Both are read in the order of
`docs.id`, side by side, in bounded memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from doceval_pipeline.atomic_file import STANDARD_OUTPUT, atomic_file_or_stdout
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.costs import cost_of
from doceval_pipeline.batches.results.report_input import gather, read_report_input
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id
from doceval_pipeline.doc_eval.criteria import read_thresholds
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.file_listing import files_of_documents
from doceval_pipeline.doc_eval.history import prices_of_batch
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.export_record import DocumentFile, ExportRecord
from doceval_pipeline.domain.snapshot import Snapshot
from doceval_pipeline.errors import BatchStateError, ExportError
from doceval_pipeline.knowledge.export_rows import count_results, read_results
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.reports.exports.overview import NO_OVERVIEW, overview_of
from doceval_pipeline.reports.exports.value_types import VERSION, time_text
from doceval_pipeline.reports.exports.writing import Format, write_records
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html

ReportProgress = Callable[[int, int], None]
"""Called with the number of records written, and of all records."""

# Records between two calls of `ReportProgress`.
PORTION = 1_000


@dataclass(frozen=True)
class Exported:
    """An exported file: its size in bytes, and what it holds."""

    size: int | None
    """None on standard output."""
    records: int
    cut: int
    """Texts that were cut, because they were longer than the format allows."""
    read_at: datetime
    """The moment of the results."""


def export_records(
    databases: Databases,
    batch_id: int,
    format: Format,
    path: Path,
    report_progress: ReportProgress,
    *,
    every_attempt: bool,
) -> Exported:
    """Write the current results of a batch, or every attempt, as they are at one moment.

    `path` may be `STANDARD_OUTPUT`, unless the format needs a file; see `Format.is_stream`. The batch may be
    processed or archived at the same time.

    Raises
    ------
    UnknownBatch, BatchStateError, ExportError, FileError, DatabaseError
        BatchStateError if the batch has no sealed configuration yet or is archived; ExportError if a result
        has no document. The file is then neither created nor changed.
    """
    doc_eval_engine, knowledge_engine = (
        engine.execution_options(isolation_level="REPEATABLE READ")
        for engine in (databases.doc_eval, databases.knowledge)
    )
    with database_errors(), knowledge_engine.connect() as knowledge, doc_eval_engine.connect() as doc_eval:
        # In this order: a batch that is not archived after its results were counted still had all of them.
        total, read_at = count_results(knowledge, batch_id, every_attempt=every_attempt)
        context = _context(doc_eval, batch_id)
        batch, overview = context.batch, NO_OVERVIEW
        if format.has_overview:
            data = read_report_input(doc_eval, knowledge, batch_id)
            overview = overview_of(figures(data), read_at.astimezone(UTC))
        results = read_results(knowledge, batch_id, every_attempt=every_attempt)
        documents = files_of_documents(doc_eval, batch_id)
        records = _with_progress(_records(context, results, documents), total, report_progress)
        metadata = {
            "doceval.export.version": str(VERSION),
            "doceval.export.batch": batch.key,
            "doceval.export.read_at": time_text(read_at),
        }
        with atomic_file_or_stdout(path) as file:
            written = write_records(file, format, records, metadata, overview)
            if written.records != total:
                raise ExportError(
                    f"{batch.key} has {total} results, but only {written.records} of them have a document: "
                    "run doceval check"
                )
    return Exported(_size(path), written.records, written.cut, read_at)


def export_page(databases: Databases, batch_id: int, path: Path) -> int:
    """Write the report of a batch as it is now to `path`; return its size in bytes.

    Unlike with `write_report`, the file does not count as the batch's report.

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
            f"{batch.key} has nothing to export because it is {batch.status.value}: stage it first"
        )
    return sealed


@dataclass(frozen=True)
class _Context:
    """What only `doc_eval` knows of the results of a batch, by the ids of connections and prompts."""

    batch: BatchRecord
    sealed: Snapshot
    prices: Mapping[int, Prices]
    thresholds: Mapping[int, float]


def _context(connection: Connection, batch_id: int) -> _Context:
    batch = batch_by_id(connection, batch_id)
    sealed = _sealed(batch, read_snapshot(connection, batch_id))
    prompts = [prompt["id"] for prompt in sealed.config["prompts"]]
    return _Context(
        batch, sealed, prices_of_batch(connection, batch_id), read_thresholds(connection, prompts)
    )


def _records(
    context: _Context, results: Iterable[tuple[int, ExportRecord]], documents: Iterable[DocumentFile]
) -> Iterator[ExportRecord]:
    """Each result with all names, its judgement and cost, and with keys hidden in its texts."""
    batch, sealed = context.batch, context.sealed
    connections = {connection["id"]: connection for connection in sealed.config["connections"]}
    prompts = {prompt["id"]: prompt["name"] for prompt in sealed.config["prompts"]}
    for result, file in _with_files(results, documents):
        connection = connections.get(result.connection_id, {})
        threshold = context.thresholds.get(result.prompt_id)
        prices = context.prices.get(result.connection_id)
        cost = _cost(result, prices)
        yield result._replace(
            partition_key=batch.key,
            batch_name=batch.name,
            config_sha256=sealed.sha256,
            folder=None if file is None else _hide_keys(file.folder),
            # Without a file, the document left the batch; the queue still has its name.
            file=_hide_keys(result.file if file is None else file.file),
            files=0 if file is None else file.files,
            connection=connection.get("name"),
            provider=connection.get("provider_type"),
            model=connection.get("model_name"),
            prompt=prompts.get(result.prompt_id),
            response_text=_hide_keys(result.response_text),
            response_json=_hide_keys(result.response_json),
            error_message=_hide_keys(result.error_message),
            worker=_hide_keys(result.worker),
            task_id=_hide_keys(result.task_id),
            threshold=threshold,
            below_threshold=_is_below(result, threshold),
            cost=cost,
            currency=None if prices is None or cost is None else prices.currency,
        )


def _is_below(result: ExportRecord, threshold: float | None) -> bool | None:
    """Whether a result scores below a threshold; None without a threshold or a score that counts."""
    if threshold is None or result.score is None or result.outcome != Outcome.SUCCEEDED:
        return None
    return result.score < threshold


def _cost(result: ExportRecord, prices: Prices | None) -> float | None:
    """The cost of a finished result, by the rules of the report; None if unknown or if it is reused."""
    is_finished = result.outcome in (Outcome.SUCCEEDED, Outcome.FAILED) and result.reused_from is None
    if prices is None or not is_finished:
        return None
    return cost_of(prices, result.input_tokens, result.output_tokens)


def _with_files(
    results: Iterable[tuple[int, ExportRecord]], documents: Iterable[DocumentFile]
) -> Iterator[tuple[ExportRecord, DocumentFile | None]]:
    """Each result with the file of its document; both are in the order of `docs.id` and read once."""
    files = iter(documents)
    file = next(files, None)
    for document_id, result in results:
        while file is not None and file.document_id < document_id:
            file = next(files, None)
        yield result, file if file is not None and file.document_id == document_id else None


def _with_progress(
    records: Iterable[ExportRecord], total: int, report_progress: ReportProgress
) -> Iterator[ExportRecord]:
    report_progress(0, total)
    for done, record in enumerate(records, start=1):
        yield record
        if done % PORTION == 0 or done == total:
            report_progress(done, total)


def _hide_keys(text: str | None) -> str | None:
    return None if text is None else without_keys(text)
