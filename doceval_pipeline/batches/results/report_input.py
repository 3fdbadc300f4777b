"""Gathers what the report of a batch says from both databases, no more of it than a page shows."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.file_names import Names
from doceval_pipeline.batches.results.insights import gather_insights
from doceval_pipeline.doc_eval import report_queries
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, partition_key
from doceval_pipeline.doc_eval.files import count_documents, stored_document_ids
from doceval_pipeline.doc_eval.report_queries import EvaluatedFile
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.snapshot import Snapshot
from doceval_pipeline.errors import BatchStateError
from doceval_pipeline.knowledge import report_queries as results
from doceval_pipeline.knowledge.counts import digest
from doceval_pipeline.knowledge.scores import Scores, read_scores
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.reports.analysis import median_score
from doceval_pipeline.reports.html import (
    CHANGES_SHOWN,
    GROUPS_SHOWN,
    KNOWN_PROCESSOR_LIMIT_BYTES,
    NAMES_SHOWN,
)
from doceval_pipeline.reports.insights import ELSEWHERE, NOTHING, Provenance
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, rows_shown
from doceval_pipeline.reports.model import (
    CellChange,
    CellDetails,
    FailureGroup,
    FileGroup,
    ReportCell,
    ReportColumn,
    ReportInput,
    ReportRow,
    ScoreFigures,
    Sums,
    Total,
)

INPUT_VERSION = 4
# Of messages and responses together, as HTML in UTF-8, so that a page of many long ones stays small.
DETAILS_BYTES = 800_000


def gather(databases: Databases, batch_id: int, provenance: Provenance = NOTHING.provenance) -> ReportInput:
    """All that the report of a batch is made from, as it is now.

    Parameters
    ----------
    provenance
        Which runs made what the batch consists of; neither database knows of them.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError where the batch has no sealed configuration yet, or is archived.
    """
    # One snapshot of the results, so that the digest is of exactly those that are shown.
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with databases.doc_eval.connect() as doc_eval, repeatable.connect() as knowledge:
        batch = batch_by_id(doc_eval, batch_id)
        batch.require_rows()
        sealed = read_snapshot(doc_eval, batch_id)
        if sealed is None:
            raise BatchStateError(
                f"{partition_key(batch_id)} has nothing to report, it is {batch.status.value}: stage it first"
            )
        stored, names = stored_document_ids(doc_eval, batch_id), Names(doc_eval, batch_id)
        scores = read_scores(knowledge, batch_id)
        data = _gather(doc_eval, knowledge, batch, sealed, stored, names, scores)
        found = gather_insights(doc_eval, knowledge, data, stored, names, scores, provenance)
    with databases.doc_eval.connect() as doc_eval:
        # Not archived now means that the rows were all there when they were read.
        batch_by_id(doc_eval, batch_id).require_rows()
    return replace(data, insights=found)


@dataclass(frozen=True)
class _Shown:
    """What the matrix shows: files, and documents of which only rows are known; and how many it has."""

    files: Sequence[EvaluatedFile]
    unlisted: Sequence[int]
    total: int

    @property
    def documents(self) -> list[int]:
        stored = (file.stored_as for file in self.files if file.stored_as is not None)
        return [*dict.fromkeys(stored), *self.unlisted]


def _gather(
    doc_eval: Connection,
    knowledge: Connection,
    batch: BatchRecord,
    sealed: Snapshot,
    stored: Sequence[int],
    names: Names,
    scores: Scores,
) -> ReportInput:
    total, by_column = _sums(knowledge, batch.id, scores)
    columns = _columns(sealed)
    files = count_documents(doc_eval, [batch.id])[batch.id]
    limit = rows_shown(len(by_column.keys() | {(c.connection_id, c.prompt_id) for c in columns}))
    shown = _shown(doc_eval, knowledge, batch.id, stored, files.assigned + files.staged, limit)
    failures, messages = results.group_failures(
        knowledge, batch.id, GROUPS_SHOWN, NAMES_SHOWN, KNOWN_PROCESSOR_LIMIT_BYTES
    )
    changes = results.read_changes(knowledge, batch.id, CHANGES_SHOWN) if total.reprocessed else []
    documents = shown.documents
    names.know(documents)
    names.know(change.document_id for change in changes)
    names.know(id_ for group in failures for id_ in group.some)
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
        files={
            "ASSIGNED": files.assigned,
            "STAGED": files.staged,
            "SKIPPED": files.skipped,
            "REJECTED": files.rejected,
        },
        contents=files.distinct,
        folders=names.folders,
        not_evaluated=_not_evaluated(doc_eval, batch.id, names),
        columns=columns,
        total=total,
        column_sums=by_column,
        failure_messages=messages,
        failures=[_failure(group, names) for group in failures],
        changes=[_change(change, names) for change in changes],
        rows_total=shown.total,
        rows=_rows(shown, names),
        cells=_cells(knowledge, batch.id, documents),
        config=sealed.config,
        config_sha256=sealed.sha256,
        digest=digest(knowledge, batch.id),
        versions={"doceval_pipeline": version("doceval-pipeline")},
        insights=NOTHING,
    )


def _shown(
    doc_eval: Connection,
    knowledge: Connection,
    batch_id: int,
    stored: Sequence[int],
    files: int,
    limit: int,
) -> _Shown:
    """Choose what the matrix shows; where that is not all, documents with failures come first."""
    unlisted, more = results.unlisted_documents(knowledge, batch_id, stored, limit)
    # Some of them may have no file.
    first = results.urgent_documents(knowledge, batch_id, limit + more) if files > limit else []
    evaluated = report_queries.evaluated_files(doc_eval, batch_id, first, limit)
    return _Shown(evaluated, unlisted[: limit - len(evaluated)], files + more)


def _rows(shown: _Shown, names: Names) -> list[ReportRow]:
    rows = [
        ReportRow(names.of_file(f.name), f.stored_as, f.state, f.size, names.twin(f.name, f.stored_as))
        for f in shown.files
    ]
    return rows + [ReportRow(names.of_document(id_), id_) for id_ in shown.unlisted]


def _columns(sealed: Snapshot) -> list[ReportColumn]:
    return [
        ReportColumn(connection["id"], connection["name"], prompt["id"], prompt["name"])
        for connection in sealed.config["connections"]
        for prompt in sealed.config["prompts"]
    ]


def _sums(knowledge: Connection, batch_id: int, scores: Scores) -> tuple[Sums, dict[tuple[int, int], Sums]]:
    """What all results add up to, and those of each column."""
    found = results.add_up(knowledge, batch_id)
    tables = {column: scores.values[:, place] for place, column in enumerate(scores.columns)}
    total = next(_summed(sums, scores.values) for sums in found if sums.connection_id is None)
    return total, {
        column: _summed(sums, tables[column])
        for sums in found
        if sums.connection_id is not None and sums.prompt_id is not None
        for column in ((sums.connection_id, sums.prompt_id),)
    }


def _summed(sums: results.ResultSums, scores: NDArray[np.float64]) -> Sums:
    return Sums(
        outcomes=sums.outcomes,
        scores=_scores(sums, median_score(scores)),
        input_tokens=_total(sums.input_tokens),
        output_tokens=_total(sums.output_tokens),
        seconds=_total(sums.seconds),
        simulated=sums.simulated,
        reprocessed=sums.reprocessed,
        reused=sums.reused,
    )


def _scores(sums: results.ResultSums, median: float | None) -> ScoreFigures | None:
    if sums.score_range is None or median is None:
        return None
    value, n = sums.scores
    return ScoreFigures(n, value / n, median, *sums.score_range, sums.score_bins)


def _total(pair: tuple[float, int]) -> Total | None:
    return Total(*pair) if pair[1] else None


def _failure(group: results.FailedCells, names: Names) -> FailureGroup:
    return FailureGroup(
        message=group.message,
        message_characters=group.message_characters,
        cells=group.cells,
        simulated=group.simulated,
        documents=group.documents,
        names=tuple(names.of_document(id_) for id_ in group.some),
        too_large=group.too_large,
        variants=group.variants,
    )


def _change(change: results.ChangedCell, names: Names) -> CellChange:
    return CellChange(
        document=names.of_document(change.document_id),
        connection_id=change.connection_id,
        prompt_id=change.prompt_id,
        attempt=change.attempt,
        outcome_before=change.outcome_before,
        score_before=change.score_before if change.outcome_before == "succeeded" else None,
        outcome=change.outcome,
        score=change.score if change.outcome == "succeeded" else None,
    )


def _not_evaluated(doc_eval: Connection, batch_id: int, names: Names) -> list[FileGroup]:
    return [
        FileGroup(group.state, group.reason, group.files, tuple(names.of_file(name) for name in group.names))
        for group in report_queries.files_left_out(doc_eval, batch_id, NAMES_SHOWN)
    ]


def _cells(knowledge: Connection, batch_id: int, documents: Sequence[int]) -> list[ReportCell]:
    """The cells of some documents; of many, not all have details."""
    cells = results.read_cells(knowledge, batch_id, documents)
    saying = [cell[8] for cell in cells if cell[9]][:DETAILS_SHOWN]
    said = [_without_keys(row) for row in results.read_details(knowledge, saying)]
    details = {row[0]: CellDetails(*row[1:]) for row in _cut(said)}
    keys = {
        number: partition_key(number) if number else ELSEWHERE
        for number in {cell[10] for cell in cells}
        if number is not None
    }
    return [
        ReportCell(details.get(cell[8]), *cell[:8], reused_batch=keys.get(cell[10]))  # type: ignore[misc]
        for cell in cells
    ]


def _without_keys(row: Row[Any]) -> tuple[Any, ...]:
    """What a cell says, with keys hidden first and texts cut then: half a key would not be recognised."""
    return (
        *row[:2],
        *_hidden(row[2], row[3], results.MESSAGE_CHARACTERS),
        *_hidden(row[4], row[5], results.RESPONSE_CHARACTERS),
        *row[6:],
    )


def _hidden(text: str | None, characters: int, most: int) -> tuple[str | None, int]:
    """A text without keys, cut, and how many characters it has without keys as a whole."""
    if text is None:
        return None, characters
    hidden = without_keys(text)
    return hidden[:most], characters + len(hidden) - len(text)


def _cut(said: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What cells say, with each text cut to so many characters that all together fit into the page."""
    texts = [text for row in said for text in (row[2], row[4]) if text]

    def size(characters: int) -> int:
        return sum(len(text[:characters].encode()) for text in texts)

    most = max(map(len, texts), default=0)
    escaped = sum(len(escape(text).encode()) for text in texts)
    # Answers in JSON or HTML grow when they are escaped.
    budget = DETAILS_BYTES * size(most) // max(1, escaped)
    fitting = bisect_right(range(1, most + 1), budget, key=size)
    return [
        (*row[:2], _beginning(row[2], fitting), row[3], _beginning(row[4], fitting), *row[5:]) for row in said
    ]


def _beginning(text: str | None, characters: int) -> str | None:
    return None if text is None else text[:characters]
