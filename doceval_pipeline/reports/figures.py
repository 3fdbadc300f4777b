"""Computes the figures of a report from plain data, and owns what counts as a score, a cell or a column.

How they look is the business of `html` and `markdown`; the data model, which can be imported from
here too, is in `model`.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from doceval_pipeline.reports.model import (
    OUTCOMES,
    CellChange,
    CellCounts,
    ColumnFigures,
    FailureGroup,
    FileGroup,
    ReportCell,
    ReportColumn,
    ReportDocument,
    ReportFigures,
    ReportInput,
    ScoreFigures,
    Total,
    VerdictWord,
)

__all__ = ["ReportCell", "ReportColumn", "ReportDocument", "ReportFigures", "ReportInput", "figures"]

HISTOGRAM_BINS = 10
# Larger documents come back failed from the known processor, which cuts their base64.
KNOWN_PROCESSOR_LIMIT_BYTES = 1_048_575
_BASE64_ERROR = re.compile(r"base.?64|incorrect padding|multiple of 4", re.IGNORECASE)


def figures(data: ReportInput) -> ReportFigures:
    """Compute everything that a report says in numbers.

    Parameters
    ----------
    data
        The batch, its files and the current results of its cells.

    Returns
    -------
    ReportFigures
        The same for the same input. Nothing is dropped: a cell that failed, is missing or has an
        unknown status is counted as such, and a file or column that nobody listed still counts.
    """
    cells = current_cells(data)
    counts = _count(cells, data.expected_cells)
    states = Counter(document.state for document in data.documents)
    contents = len(_staged_contents(data))
    word = _verdict_word(counts, states["ASSIGNED"])
    return ReportFigures(
        version=data.version,
        partition_key=data.partition_key,
        batch_id=data.batch_id,
        name=data.name,
        status=data.status,
        verdict_word=word,
        verdict_detail=_verdict_detail(word, counts, states["ASSIGNED"]),
        cells=counts,
        scores=_scores(cells),
        columns=_columns(data, cells, contents),
        **_totals(cells),
        documents=states["STAGED"],
        contents=contents,
        duplicates=max(0, states["STAGED"] - contents),
        files_assigned=states["ASSIGNED"],
        files_skipped=states["SKIPPED"],
        files_rejected=states["REJECTED"],
        simulated=sum(cell.simulated for cell in cells),
        failures=_failures(data, cells),
        not_evaluated=_not_evaluated(data),
        changes=_changes(data, cells),
    )


def current_cells(data: ReportInput) -> list[ReportCell]:
    """The cells of a batch, each once, with its highest attempt."""
    current: dict[tuple[int, int, int], ReportCell] = {}
    for cell in data.cells:
        key = (cell.document_id, cell.connection_id, cell.prompt_id)
        if key not in current or current[key].attempt < cell.attempt:
            current[key] = cell
    return list(current.values())


def all_columns(data: ReportInput) -> list[ReportColumn]:
    """The columns of a batch, and those that only rows know, so that no row stays unseen."""
    columns = {(c.connection_id, c.prompt_id): c for c in data.columns}
    for cell in sorted(data.cells, key=lambda cell: (cell.connection_id, cell.prompt_id)):
        key = (cell.connection_id, cell.prompt_id)
        if key not in columns:
            columns[key] = ReportColumn(key[0], f"connection {key[0]}", key[1], f"prompt {key[1]}")
    return list(columns.values())


def outcome_of(cell: ReportCell) -> str:
    """The outcome of a cell as one of `OUTCOMES`."""
    return cell.outcome if cell.outcome in OUTCOMES else "unknown"


def score_of(cell: ReportCell) -> float | None:
    """The score of a succeeded cell; 0 is a score, what is not a finite number is none."""
    if cell.outcome != "succeeded" or cell.score is None or not math.isfinite(cell.score):
        return None
    return cell.score


def document_labels(data: ReportInput) -> list[str]:
    """The names of the files, in their order: with their folder where the batch has several."""
    if len({document.folder for document in data.documents}) < 2:
        return [document.name for document in data.documents]
    return [f"{document.folder.rstrip('/')}/{document.name}" for document in data.documents]


def first_files(data: ReportInput) -> dict[int, int]:
    """The position of the first file of each content, by `document_id`; later ones are duplicates."""
    found: dict[int, int] = {}
    for position, document in enumerate(data.documents):
        if document.document_id is not None:
            found.setdefault(document.document_id, position)
    return found


def _staged_contents(data: ReportInput) -> set[int]:
    return {d.document_id for d in data.documents if d.state == "STAGED" and d.document_id is not None}


def _count(cells: Iterable[ReportCell], expected: int) -> CellCounts:
    counts = Counter(outcome_of(cell) for cell in cells)
    return CellCounts(expected, **{outcome: counts[outcome] for outcome in OUTCOMES})


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
            return f"{_all(cells.total)} succeeded"
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


def _scores(cells: Iterable[ReportCell]) -> ScoreFigures | None:
    scores = sorted(score for cell in cells if (score := score_of(cell)) is not None)
    if not scores:
        return None
    bins = Counter(min(HISTOGRAM_BINS - 1, max(0, int(score * HISTOGRAM_BINS // 100))) for score in scores)
    return ScoreFigures(
        n=len(scores),
        mean=math.fsum(scores) / len(scores),
        median=statistics.median(scores),
        minimum=scores[0],
        maximum=scores[-1],
        histogram=tuple(bins[number] for number in range(HISTOGRAM_BINS)),
    )


def _totals(cells: Sequence[ReportCell]) -> dict[str, Total | None]:
    return {
        "input_tokens": _total(cells, lambda cell: cell.input_tokens),
        "output_tokens": _total(cells, lambda cell: cell.output_tokens),
        "seconds": _total(cells, lambda cell: cell.seconds),
    }


def _total(cells: Iterable[ReportCell], value_of: Callable[[ReportCell], float | None]) -> Total | None:
    values = [v for cell in cells if (v := value_of(cell)) is not None and math.isfinite(v)]
    if not values:
        return None
    whole = all(isinstance(value, int) for value in values)
    return Total(sum(values) if whole else math.fsum(values), len(values))


def _columns(data: ReportInput, cells: Iterable[ReportCell], contents: int) -> tuple[ColumnFigures, ...]:
    columns = all_columns(data)
    by_column: dict[tuple[int, int], list[ReportCell]] = {(c.connection_id, c.prompt_id): [] for c in columns}
    for cell in cells:
        by_column[cell.connection_id, cell.prompt_id].append(cell)
    return tuple(_column(c, by_column[c.connection_id, c.prompt_id], contents) for c in columns)


def _column(column: ReportColumn, cells: Sequence[ReportCell], contents: int) -> ColumnFigures:
    return ColumnFigures(
        column=column,
        cells=_count(cells, contents),
        scores=_scores(cells),
        **_totals(cells),
        simulated=sum(cell.simulated for cell in cells),
    )


def _failures(data: ReportInput, cells: Iterable[ReportCell]) -> tuple[FailureGroup, ...]:
    """Failed cells by message, the most frequent first."""
    groups: dict[str | None, list[ReportCell]] = {}
    for cell in cells:
        if cell.outcome == "failed":
            groups.setdefault((cell.error or "").strip() or None, []).append(cell)
    labels = document_labels(data)
    first = first_files(data)
    sizes = {id_: data.documents[at].size or 0 for id_, at in first.items()}
    made = []
    for message, failed in groups.items():
        # In the order of the files, whatever order the rows came in.
        ids = {cell.document_id for cell in failed}
        ordered = sorted(ids, key=lambda id_: (first.get(id_, len(labels)), id_))
        names = tuple(labels[first[id_]] if id_ in first else f"document {id_}" for id_ in ordered)
        too_large = sum(sizes.get(id_, 0) > KNOWN_PROCESSOR_LIMIT_BYTES for id_ in ids)
        explained = too_large if message and _BASE64_ERROR.search(message) else 0
        simulated = sum(cell.simulated for cell in failed)
        made.append(FailureGroup(message, len(failed), simulated, names, explained))
    return tuple(sorted(made, key=lambda group: (-group.cells, group.message or "")))


def _not_evaluated(data: ReportInput) -> tuple[FileGroup, ...]:
    """Files that were skipped or rejected, by state and reason; the most frequent first."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for document, label in zip(data.documents, document_labels(data), strict=True):
        if document.state in ("SKIPPED", "REJECTED"):
            groups.setdefault((document.state, document.reason), []).append(label)
    made = [FileGroup(state, reason, tuple(files)) for (state, reason), files in groups.items()]
    return tuple(sorted(made, key=lambda group: (-len(group.files), group.state, group.reason or "")))


def _changes(data: ReportInput, cells: Iterable[ReportCell]) -> tuple[CellChange, ...]:
    """What became of each cell that was reprocessed, in the order of the files."""
    labels, first = document_labels(data), first_files(data)
    columns = {(column.connection_id, column.prompt_id): column for column in all_columns(data)}
    now = {(cell.document_id, cell.connection_id, cell.prompt_id): cell for cell in cells}
    made = []
    for before in data.superseded:
        after = now[before.document_id, before.connection_id, before.prompt_id]
        at = first.get(before.document_id, len(labels))
        column = columns[before.connection_id, before.prompt_id]
        change = CellChange(
            document=labels[at] if at < len(labels) else f"document {before.document_id}",
            connection=column.connection,
            prompt=column.prompt,
            attempt=after.attempt,
            outcome_before=outcome_of(before),
            score_before=score_of(before),
            outcome=outcome_of(after),
            score=score_of(after),
        )
        made.append((at, before.connection_id, before.prompt_id, change))
    return tuple(change for *_, change in sorted(made, key=lambda entry: entry[:3]))
