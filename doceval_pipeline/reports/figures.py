"""Says in numbers what became of a batch: the verdict, and the figures of each column.

Counting is done by the databases. How it looks is the business of `html` and `markdown`.
"""

from doceval_pipeline.reports.model import (
    OUTCOMES,
    CellCounts,
    ColumnFigures,
    ReportColumn,
    ReportFigures,
    ReportInput,
    Sums,
    VerdictWord,
    reused_tag,
    simulated_tag,
)

_NOTHING = Sums({}, None, None, None, None, 0, 0)


def figures(data: ReportInput) -> ReportFigures:
    """Everything that a report says in numbers.

    Parameters
    ----------
    data
        The batch, its files and what the current results of its cells add up to.

    Returns
    -------
    ReportFigures
        The same for the same input. Nothing is dropped: a cell that failed, is missing or has an
        unknown status is counted as such, and a column that nobody listed still counts.
    """
    counts = _count(data.total, data.expected_cells)
    staged, assigned = data.files.get("STAGED", 0), data.files.get("ASSIGNED", 0)
    word = _verdict_word(counts, assigned)
    return ReportFigures(
        version=data.version,
        partition_key=data.partition_key,
        batch_id=data.batch_id,
        name=data.name,
        status=data.status,
        verdict_word=word,
        verdict_detail=_verdict_detail(word, counts, assigned, data.total.reused),
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


def verdict_of(cells: CellCounts, simulated: int, reused: int = 0) -> str:
    """The verdict on cells whose documents are all staged, as the report says it.

    Parameters
    ----------
    simulated
        How many of them no LLM was called for.
    reused
        How many of them have a result of another batch.
    """
    word = _verdict_word(cells, 0)
    return f"{word}: {_verdict_detail(word, cells, 0, reused)}{simulated_tag(simulated, cells.rows)}"


def all_columns(data: ReportInput) -> list[ReportColumn]:
    """The columns of a batch, and those that only rows know, so that no row stays unseen."""
    listed = {(c.connection_id, c.prompt_id) for c in data.columns}
    return [*data.columns] + [
        ReportColumn(connection, f"connection {connection}", prompt, f"prompt {prompt}")
        for connection, prompt in sorted(data.column_sums)
        if (connection, prompt) not in listed
    ]


def _column(data: ReportInput, column: ReportColumn) -> ColumnFigures:
    sums = data.column_sums.get((column.connection_id, column.prompt_id), _NOTHING)
    return ColumnFigures(column, _count(sums, data.contents), sums)


def _count(sums: Sums, expected: int) -> CellCounts:
    return CellCounts(expected, **{outcome: sums.outcomes.get(outcome, 0) for outcome in OUTCOMES})


def _verdict_word(cells: CellCounts, files_assigned: int) -> VerdictWord:
    if cells.open or files_assigned:
        return VerdictWord.INCOMPLETE
    if not cells.total:
        return VerdictWord.EMPTY
    if cells.failed == cells.total:
        return VerdictWord.FAILED
    return VerdictWord.COMPLETE_WITH_FAILURES if cells.failed else VerdictWord.COMPLETE


def _verdict_detail(word: VerdictWord, cells: CellCounts, files_assigned: int, reused: int) -> str:
    match word:
        case VerdictWord.COMPLETE:
            return f"{_all(cells.total)} succeeded{reused_tag(reused, cells.total)}"
        case VerdictWord.COMPLETE_WITH_FAILURES:
            return f"{cells.failed:,} of {cells.total:,} cells failed"
        case VerdictWord.FAILED:
            return f"{_all(cells.total)} failed"
        case VerdictWord.EMPTY:
            return "no cell was expected and none was found"
        case VerdictWord.INCOMPLETE:
            return _what_is_open(cells, files_assigned)


def _all(cells: int) -> str:
    return "the only cell" if cells == 1 else f"all {cells:,} cells"


def _what_is_open(cells: CellCounts, files_assigned: int) -> str:
    said = []
    if cells.open:
        kinds = ("waiting", "running", "paused", "unknown", "missing")
        parts = [f"{getattr(cells, kind):,} {kind}" for kind in kinds if getattr(cells, kind)]
        said.append(f"{cells.open:,} of {cells.total:,} cells have no result yet ({', '.join(parts)})")
    if cells.failed:
        said.append(f"{cells.failed:,} failed")
    if files_assigned:
        files = "1 file is" if files_assigned == 1 else f"{files_assigned:,} files are"
        said.append(f"{files} not staged yet")
    return "; ".join(said)
