"""Lays out the matrix of documents × columns: which rows in which order, and what each cell says.

Texts are kept as they came; the template makes them inert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from doceval_pipeline.reports.figures import (
    all_columns,
    current_cells,
    document_labels,
    first_files,
    outcome_of,
    score_of,
)
from doceval_pipeline.reports.model import ReportCell, ReportColumn, ReportDocument, ReportInput
from doceval_pipeline.reports.numbers import score_text
from doceval_pipeline.reports.untrusted import cut

ROWS_SHOWN = 2_000
# Characters of a response on the page: of each cell, but no more than this for all cells together
# unless each of them then had less than the least.
RESPONSE_CHARACTERS = 2_000
RESPONSE_CHARACTERS_TOGETHER = 8_000_000
RESPONSE_CHARACTERS_LEAST = 200
MESSAGE_CHARACTERS = 2_000
TITLE_CHARACTERS = 300
SYMBOLS = {
    "succeeded": "✓",
    "failed": "✕",
    "waiting": "○",
    "running": "◐",
    "paused": "‖",
    "unknown": "?",
    "missing": "–",
}


@dataclass(frozen=True, slots=True)
class CutText:
    """The beginning of a text, and how many characters of it are left out."""

    shown: str
    left_out: int


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell of the matrix: what it says, its CSS class, and its details where it has any.

    `anchor` is made of numbers alone. Cells of duplicates have the anchor of their twin.
    """

    kind: str
    css: str
    text: str
    title: str
    anchor: str | None
    cell: ReportCell | None
    message: CutText | None
    response: CutText | None


@dataclass(frozen=True, slots=True)
class RowView:
    """A row of the matrix; `twin` is the name of the file whose content it shares.

    `first` is the first shown row of its content, to which the details of the cells belong.
    """

    label: str
    document: ReportDocument | None
    twin: str | None
    first: bool
    cells: tuple[CellView, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The rows that are shown, how many are not, and the columns grouped by connection.

    `symbols` are the kinds of cells that are shown by a symbol instead of a score.
    """

    rows: tuple[RowView, ...]
    rows_left_out: int
    groups: tuple[tuple[str, tuple[ReportColumn, ...]], ...]
    symbols: tuple[str, ...]


def lay_out(data: ReportInput) -> Matrix:
    """Lay out the matrix; where there are too many documents, those with failures come first."""
    columns = all_columns(data)
    cells = {(c.document_id, c.connection_id, c.prompt_id): c for c in current_cells(data)}
    entries = _entries(data, cells)
    if len(entries) > ROWS_SHOWN:
        urgency = _urgency(cells)
        entries.sort(key=lambda entry: urgency.get(entry[2], 2))
    shown = entries[:ROWS_SHOWN]
    limit = RESPONSE_CHARACTERS_TOGETHER // max(1, len(shown) * len(columns))
    limit = max(RESPONSE_CHARACTERS_LEAST, min(RESPONSE_CHARACTERS, limit))
    seen: set[int] = set()
    rows = tuple(_row(entry, columns, cells, limit, seen) for entry in shown)
    shown_as = {cell.css for row in rows for cell in row.cells}
    return Matrix(
        rows=rows,
        rows_left_out=len(entries) - len(shown),
        groups=tuple(
            (group[0].connection, group)
            for _, found in groupby(columns, key=lambda column: column.connection_id)
            if (group := tuple(found))
        ),
        symbols=tuple(kind for kind in SYMBOLS if kind in shown_as),
    )


def cut_text(text: str, limit: int, characters: int | None = None) -> CutText:
    """Cut a text for the page; `characters` is the length of the whole where `text` is only a part."""
    return CutText(text[:limit], max(characters or 0, len(text)) - min(limit, len(text)))


# A row before its cells are known: name, file, document id, name of the twin.
_Entry = tuple[str, ReportDocument | None, int, str | None]
_Cells = dict[tuple[int, int, int], ReportCell]
_NOT_STAGED = -1
_MISSING = CellView(
    kind="missing",
    css="missing",
    text=f"{SYMBOLS['missing']} missing",
    title="missing: the queue has no row for it",
    anchor=None,
    cell=None,
    message=None,
    response=None,
)


def _entries(data: ReportInput, cells: _Cells) -> list[_Entry]:
    """Every file that is evaluated or will be, then contents of which only rows are known."""
    labels, first = document_labels(data), first_files(data)
    entries: list[_Entry] = []
    for position, (label, document) in enumerate(zip(labels, data.documents, strict=True)):
        id_ = _NOT_STAGED if document.document_id is None else document.document_id
        if document.state in ("STAGED", "ASSIGNED"):
            twin = labels[first[id_]] if id_ in first and first[id_] != position else None
            entries.append((label, document, id_, twin))
    named = {entry[2] for entry in entries}
    unnamed = sorted({document_id for document_id, _, _ in cells} - named)
    return entries + [(f"document {id_}", None, id_, None) for id_ in unnamed]


def _urgency(cells: _Cells) -> dict[int, int]:
    """Per document: 0 with a failure, 1 with a row that is not done, 2 otherwise."""
    urgency: dict[int, int] = {}
    for (document_id, _, _), cell in cells.items():
        rank = {"failed": 0, "succeeded": 2}.get(outcome_of(cell), 1)
        urgency[document_id] = min(rank, urgency.get(document_id, 2))
    return urgency


def _row(
    entry: _Entry, columns: Sequence[ReportColumn], cells: _Cells, limit: int, seen: set[int]
) -> RowView:
    label, document, id_, twin = entry
    first = id_ not in seen
    seen.add(id_)
    found = (cells.get((id_, c.connection_id, c.prompt_id)) for c in columns)
    return RowView(label, document, twin, first, tuple(_cell(cell, limit) for cell in found))


def _cell(cell: ReportCell | None, limit: int) -> CellView:
    if cell is None:
        return _MISSING
    outcome, score = outcome_of(cell), score_of(cell)
    message = None if not cell.error else cut_text(cell.error, MESSAGE_CHARACTERS)
    response = None
    if cell.response_text:
        response = cut_text(cell.response_text, limit, cell.response_characters)
    has_details = outcome in ("succeeded", "failed") or message or response
    return CellView(
        kind=outcome,
        css=outcome if score is None else f"scored s{min(9, max(0, int(score // 10)))}",
        text=_text(cell, outcome, score),
        title=_title(cell, outcome, score),
        anchor=f"r{cell.document_id:d}-{cell.connection_id:d}-{cell.prompt_id:d}" if has_details else None,
        cell=cell,
        message=message,
        response=response,
    )


def _text(cell: ReportCell, outcome: str, score: float | None) -> str:
    if score is not None:
        return score_text(score)
    said = cut(cell.status, 20) if outcome == "unknown" else outcome
    return SYMBOLS[outcome] if outcome == "succeeded" else f"{SYMBOLS[outcome]} {said}"


def _title(cell: ReportCell, outcome: str, score: float | None) -> str:
    said = f"{outcome} ({cut(cell.status, 40)})"
    if outcome == "succeeded":
        said = "succeeded, no score" if score is None else f"score {score_text(score)}"
    if outcome == "failed":
        said = f"failed: {cut((cell.error or '').strip(), TITLE_CHARACTERS) or 'no message'}"
    return f"SIMULATED, {said}" if cell.simulated else said
