"""Gathers the input of a batch's report from both databases, no more of it than a page shows."""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import version

import numpy as np
from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.file_names import FileNames
from doceval_pipeline.batches.results.insights import gather_insights, read_counts
from doceval_pipeline.doc_eval import report_queries as file_queries
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.files import DocumentCounts, count_documents, stored_document_ids
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.current_results import CurrentResults
from doceval_pipeline.domain.files import EvaluatedFile
from doceval_pipeline.domain.insights import NOTHING, Provenance
from doceval_pipeline.domain.results import CellDetails, ReportCell
from doceval_pipeline.domain.snapshot import Snapshot
from doceval_pipeline.errors import BatchStateError
from doceval_pipeline.knowledge import report_queries as result_queries
from doceval_pipeline.knowledge.digests import digest_meanwhile
from doceval_pipeline.knowledge.failures import group_failures
from doceval_pipeline.knowledge.scores import read_current_results
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.reports.html import CHANGES_SHOWN, GROUPS_SHOWN, NAMES_SHOWN
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, rows_shown
from doceval_pipeline.reports.model import ReportColumn, ReportInput

INPUT_VERSION = 4
# The limit of all messages and responses together, as HTML in UTF-8, so that a page stays small.
DETAILS_BYTES = 800_000


@dataclass(frozen=True, slots=True)
class _Sources:
    """A batch, the connections it is read from, and what all parts of its report need.

    `stored` are the documents of its staged files, by `docs.id`.
    """

    doc_eval: Connection
    knowledge: Connection
    batch: BatchRecord
    sealed: Snapshot
    stored: Sequence[int]
    names: FileNames
    results: CurrentResults


@dataclass(frozen=True, slots=True)
class _ShownRows:
    """The rows that the matrix shows, and the number of all its rows."""

    files: Sequence[EvaluatedFile]
    total: int

    @property
    def documents(self) -> list[int]:
        """The documents of the rows, each once."""
        return [*dict.fromkeys(file.document_id for file in self.files if file.document_id is not None)]


def gather(databases: Databases, batch_id: int, provenance: Provenance = NOTHING.provenance) -> ReportInput:
    """The input of a batch's report, as the databases are now.

    Parameters
    ----------
    provenance
        The runs that made the parts of the batch; the databases do not know them.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError if the batch has no sealed configuration yet, or is archived.
    """
    # One snapshot of the results, so that the digest covers exactly the results shown.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with databases.doc_eval.connect() as doc_eval, repeatable.connect() as knowledge:
        data = read_report_input(doc_eval, knowledge, batch_id, provenance)
    with databases.doc_eval.connect() as doc_eval:
        # If the batch is not archived now, all of its rows existed when they were read.
        batch_by_id(doc_eval, batch_id).require_rows()
    return data


def read_report_input(
    doc_eval: Connection,
    knowledge: Connection,
    batch_id: int,
    provenance: Provenance = NOTHING.provenance,
) -> ReportInput:
    """The input of a batch's report from open transactions; that of `knowledge` must be REPEATABLE READ.

    Raises
    ------
    UnknownBatch, BatchStateError
        As `gather`.
    """
    batch = batch_by_id(doc_eval, batch_id)
    batch.require_rows()
    sealed = read_snapshot(doc_eval, batch_id)
    if sealed is None:
        raise BatchStateError(
            f"{partition_key(batch_id)} is {batch.status.value} and has no results to report: stage it first"
        )
    stored, names = stored_document_ids(doc_eval, batch_id), FileNames(doc_eval, batch_id)
    results = read_current_results(knowledge, batch_id)
    data = _gather(_Sources(doc_eval, knowledge, batch, sealed, stored, names, results))
    counts = read_counts(doc_eval, knowledge, data, stored)
    with digest_meanwhile(knowledge, batch_id) as digest:
        insights = gather_insights(doc_eval, knowledge, data, counts, names, results, provenance)
        return replace(data, insights=insights, digest=digest())


def _gather(source: _Sources) -> ReportInput:
    batch, knowledge = source.batch, source.knowledge
    total, by_column = source.results.total, source.results.columns
    columns = _columns(source.sealed)
    files = count_documents(source.doc_eval, [batch.id])[batch.id]
    shown = _shown_rows(source, files.assigned + files.staged, {*by_column, *map(_key, columns)})
    failed = group_failures(knowledge, [batch.id], groups=GROUPS_SHOWN, names=NAMES_SHOWN)[batch.id]
    changes = result_queries.read_changes(knowledge, batch.id, CHANGES_SHOWN) if total.reprocessed else []
    source.names.load(shown.documents)
    source.names.load(change.document_id for change in changes)
    source.names.load(document_id for group in failed.groups for document_id in group.document_ids)
    return ReportInput(
        version=INPUT_VERSION,
        partition_key=batch.key,
        batch_id=batch.id,
        name=batch.name,
        status=batch.status.value,
        description=batch.description,
        created_at=batch.created_at,
        started_at=batch.started_at,
        completed_at=batch.completed_at,
        expected_cells=batch.expected_cells or 0,
        files=_by_state(files),
        contents=files.distinct,
        labels=source.names.labels,
        not_evaluated=file_queries.files_left_out(source.doc_eval, batch.id, NAMES_SHOWN),
        columns=columns,
        total=total,
        column_sums=by_column,
        failure_messages=failed.kinds,
        failures=list(failed.groups),
        changes=changes,
        rows_total=shown.total,
        rows=shown.files,
        cells=_cells(knowledge, batch.id, shown.documents),
        config=source.sealed.config,
        config_sha256=source.sealed.sha256,
        digest="",
        versions={"doceval_pipeline": version("doceval-pipeline")},
        insights=NOTHING,
    )


def _by_state(files: DocumentCounts) -> dict[str, int]:
    return {
        "ASSIGNED": files.assigned,
        "STAGED": files.staged,
        "SKIPPED": files.skipped,
        "REJECTED": files.rejected,
    }


def _shown_rows(source: _Sources, files: int, columns: Collection[Column]) -> _ShownRows:
    """The rows of the matrix; if it does not show all, documents with failures come first."""
    limit = rows_shown(len(columns))
    scores = source.results.scores
    unlisted = np.setdiff1d(scores.documents, np.array(source.stored, np.int64), assume_unique=True)
    first: Sequence[int] = []
    if files > limit:
        # Some of these documents may have no file.
        first = scores.urgent_documents()[: limit + unlisted.size].tolist()
    evaluated = file_queries.evaluated_files(source.doc_eval, source.batch.id, first, limit)
    without_file = [
        EvaluatedFile(None, document_id) for document_id in unlisted[: limit - len(evaluated)].tolist()
    ]
    return _ShownRows([*evaluated, *without_file], files + unlisted.size)


def _columns(sealed: Snapshot) -> list[ReportColumn]:
    return [
        ReportColumn(connection["id"], connection["name"], prompt["id"], prompt["name"])
        for connection in sealed.config["connections"]
        for prompt in sealed.config["prompts"]
    ]


def _key(column: ReportColumn) -> Column:
    return column.connection_id, column.prompt_id


def _cells(knowledge: Connection, batch_id: int, documents: Sequence[int]) -> list[ReportCell]:
    """The cells of the given documents; only the first `DETAILS_SHOWN` have details."""
    cells = result_queries.read_cells(knowledge, batch_id, documents)
    ids = [row_id for row_id, cell in cells.items() if cell.has_details][:DETAILS_SHOWN]
    details = {
        row_id: _without_keys(text) for row_id, text in result_queries.read_details(knowledge, ids).items()
    }
    most = _fitting_characters(details.values())
    for row_id, text in details.items():
        cells[row_id] = cells[row_id]._replace(details=_cut(text, most))
    return [*cells.values()]


def _without_keys(details: CellDetails) -> CellDetails:
    """Details without keys, cut to what a page shows: a key that is cut first would not be recognised."""
    message, message_characters = _hidden(
        details.message, details.message_characters, result_queries.MESSAGE_CHARACTERS
    )
    response, response_characters = _hidden(
        details.response, details.response_characters, result_queries.RESPONSE_CHARACTERS
    )
    return details._replace(
        message=message,
        message_characters=message_characters,
        response=response,
        response_characters=response_characters,
    )


def _hidden(text: str | None, characters: int, most: int) -> tuple[str | None, int]:
    """A text without keys, cut to `most` characters, and the length of the whole text without keys."""
    if text is None:
        return None, characters
    hidden = without_keys(text)
    return hidden[:most], characters + len(hidden) - len(text)


def _fitting_characters(details: Iterable[CellDetails]) -> int:
    """The length, in characters, to which each text must be cut so that all together fit into the page."""
    texts = [text for each in details for text in (each.message, each.response) if text]

    def size(characters: int) -> int:
        return sum(len(text[:characters].encode()) for text in texts)

    longest = max(map(len, texts), default=0)
    escaped = sum(len(escape(text).encode()) for text in texts)
    # Escaping makes JSON and HTML in responses longer.
    budget = DETAILS_BYTES * size(longest) // max(1, escaped)
    return bisect_right(range(1, longest + 1), budget, key=size)


def _cut(details: CellDetails, characters: int) -> CellDetails:
    return details._replace(
        message=None if details.message is None else details.message[:characters],
        response=None if details.response is None else details.response[:characters],
    )
