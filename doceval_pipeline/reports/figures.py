"""Computes the verdict on a batch and the figures of each column.

The databases count; `html` and `markdown` render.
"""

from dataclasses import replace

from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.results import ResultSums
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.reports.model import (
    ColumnFigures,
    ReportColumn,
    ReportFigures,
    ReportInput,
    VerdictWord,
    reused_tag,
    simulated_tag,
)

_NO_RESULTS = ResultSums(CellCounts())


def figures(data: ReportInput) -> ReportFigures:
    """The figures of a report.

    Parameters
    ----------
    data
        The batch, its files and the sums over its current results.

    Returns
    -------
    ReportFigures
        Equal for equal input. Every evaluation counts: failed, missing or of an unknown status, and in
        columns that the configuration does not list.
    """
    counts = replace(data.total.cells, expected=data.expected_cells)
    staged, assigned = data.files.get("STAGED", 0), data.files.get("ASSIGNED", 0)
    word = _verdict_word(counts, assigned)
    return ReportFigures(
        version=data.version,
        partition_key=data.partition_key,
        batch_id=data.batch_id,
        name=data.name,
        status=data.status,
        verdict_word=word,
        verdict_detail=_verdict_detail(word, counts, assigned),
        cells=counts,
        sums=data.total,
        columns=tuple(_column(data, column) for column in all_columns(data)),
        documents=staged,
        contents=data.contents,
        duplicates=max(0, staged - data.contents),
        files_assigned=assigned,
        files_skipped=data.files.get("SKIPPED", 0),
        files_rejected=data.files.get("REJECTED", 0),
        insights=data.insights,
    )


def verdict_of(cells: CellCounts, simulated: int) -> str:
    """The verdict of the report on a batch whose files are all staged.

    Parameters
    ----------
    simulated
        The number of results for which no LLM was called.
    """
    word = _verdict_word(cells, 0)
    return f"{word}: {_verdict_detail(word, cells, 0)}{simulated_tag(simulated, cells.rows)}"


def all_columns(data: ReportInput) -> list[ReportColumn]:
    """The columns of the configuration, then those that only rows have, so that every row is shown."""
    listed = {(c.connection_id, c.prompt_id) for c in data.columns}
    return [*data.columns] + [
        ReportColumn(connection, f"connection {connection}", prompt, f"prompt {prompt}")
        for connection, prompt in sorted(data.column_sums)
        if (connection, prompt) not in listed
    ]


def _column(data: ReportInput, column: ReportColumn) -> ColumnFigures:
    sums = data.column_sums.get((column.connection_id, column.prompt_id), _NO_RESULTS)
    return ColumnFigures(column, replace(sums.cells, expected=data.contents), sums)


def _verdict_word(cells: CellCounts, files_assigned: int) -> VerdictWord:
    if cells.open or files_assigned:
        return VerdictWord.INCOMPLETE
    if not cells.total:
        return VerdictWord.EMPTY
    if cells.failed == cells.total:
        return VerdictWord.FAILED
    return VerdictWord.COMPLETE_WITH_FAILURES if cells.failed else VerdictWord.COMPLETE


def _verdict_detail(word: VerdictWord, cells: CellCounts, files_assigned: int) -> str:
    match word:
        case VerdictWord.COMPLETE:
            return f"{_all(cells.total)} succeeded{reused_tag(cells.reused, cells.total)}"
        case VerdictWord.COMPLETE_WITH_FAILURES:
            return f"{cells.failed:,} of {_evaluations(cells.total)} failed"
        case VerdictWord.FAILED:
            return f"{_all(cells.total)} failed"
        case VerdictWord.EMPTY:
            return "no evaluation was expected, and none exists"
        case VerdictWord.INCOMPLETE:
            return _unfinished(cells, files_assigned)


def _evaluations(number: int) -> str:
    return counted(number, "evaluation", "evaluations")


def _all(cells: int) -> str:
    return "the only evaluation" if cells == 1 else f"all {cells:,} evaluations"


def _unfinished(cells: CellCounts, files_assigned: int) -> str:
    sentences = []
    if cells.open:
        kinds = ("waiting", "running", "paused", "unknown", "missing")
        parts = [f"{getattr(cells, kind):,} {kind}" for kind in kinds if getattr(cells, kind)]
        have = "has" if cells.open == 1 else "have"
        count = f"{cells.open:,} of {_evaluations(cells.total)}"
        sentences.append(f"{count} {have} no result yet ({', '.join(parts)})")
    if cells.failed:
        sentences.append(f"{cells.failed:,} failed")
    if files_assigned:
        files = "1 file is" if files_assigned == 1 else f"{files_assigned:,} files are"
        sentences.append(f"{files} not staged yet")
    return "; ".join(sentences)
