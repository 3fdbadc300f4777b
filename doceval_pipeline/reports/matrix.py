"""Lays out the matrix of documents × columns: how much of it is shown, and what each cell says.

Texts are kept as they came; whoever writes the page makes them inert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from doceval_pipeline.reports.formatting import score_text
from doceval_pipeline.reports.model import OUTCOMES, ReportCell, ReportColumn, ReportInput, ReportRow
from doceval_pipeline.reports.sanitize import cut

# Of a batch of any size a page shows no more than a browser opens at once and a person looks at.
ROWS_SHOWN = 2_000
CELLS_SHOWN = 10_000
ROWS_SHOWN_LEAST = 10
# Cells that can be selected to read all that they say.
DETAILS_SHOWN = 2_000
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
class CellLook:
    """How a cell looks: its kind, CSS class, text and title."""

    kind: str
    css: str
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class RowView:
    """A row of the matrix; `first` where it is the first of its content, to which details belong."""

    row: ReportRow
    first: bool
    cells: tuple[ReportCell | None, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The rows that are shown, and the columns grouped by connection.

    `symbols` are the kinds of cells that are shown by a symbol instead of a score. `selectable` cells
    are those with details, of `shown` ones.
    """

    rows: tuple[RowView, ...]
    columns: tuple[ReportColumn, ...]
    groups: tuple[tuple[str, int], ...]
    symbols: tuple[str, ...]
    selectable: int
    shown: int


_MISSING = CellLook(
    "missing", "missing", f"{SYMBOLS['missing']} missing", "missing: the queue has no row for it"
)


def rows_shown(columns: int) -> int:
    """How many rows of so many columns a page shows at most."""
    return max(ROWS_SHOWN_LEAST, min(ROWS_SHOWN, CELLS_SHOWN // max(1, columns)))


def lay_out(data: ReportInput, columns: Sequence[ReportColumn]) -> Matrix:
    """Lay out the rows of a report in some columns."""
    cells = {(c.document_id, c.connection_id, c.prompt_id): c for c in data.cells}
    rows = tuple(_rows(data.rows, columns, cells))
    shown_as = {look(cell).css for row in rows for cell in row.cells}
    return Matrix(
        rows=rows,
        columns=tuple(columns),
        groups=tuple(
            (group[0].connection, len(group))
            for _, found in groupby(columns, key=lambda column: column.connection_id)
            if (group := tuple(found))
        ),
        symbols=tuple(kind for kind in SYMBOLS if kind in shown_as),
        selectable=sum(cell.details is not None for cell in data.cells),
        shown=len(data.cells),
    )


def look(cell: ReportCell | None) -> CellLook:
    """How a cell looks; None is one that has no row."""
    if cell is None:
        return _MISSING
    if cell.outcome == "succeeded":
        return _succeeded(cell.score, cell.simulated, cell.reused_batch)
    outcome = cell.outcome if cell.outcome in OUTCOMES else "unknown"
    said = cut(cell.status, 20) if outcome == "unknown" else outcome
    title = f"{outcome} ({cut(cell.status, 40)})"
    if outcome == "failed":
        title = f"failed: {cut((cell.message or '').strip(), TITLE_CHARACTERS) or 'no message'}"
    return CellLook(outcome, outcome, f"{SYMBOLS[outcome]} {said}", _marked(title, cell.simulated))


@lru_cache(4_096)
def _succeeded(score: float | None, simulated: bool, reused_batch: str | None) -> CellLook:
    reused = "" if reused_batch is None else f", reused from {reused_batch}"
    if score is None:
        return CellLook(
            "succeeded", "succeeded", SYMBOLS["succeeded"], _marked(f"succeeded, no score{reused}", simulated)
        )
    said = score_text(score)
    css = f"scored s{min(9, max(0, int(score // 10)))}"
    return CellLook("succeeded", css, said, _marked(f"score {said}{reused}", simulated))


def _marked(title: str, simulated: bool) -> str:
    return f"SIMULATED, {title}" if simulated else title


def _rows(
    rows: Sequence[ReportRow],
    columns: Sequence[ReportColumn],
    cells: Mapping[tuple[int, int, int], ReportCell],
) -> list[RowView]:
    seen: set[int] = set()
    views = []
    for row in rows:
        id_ = row.document_id
        if id_ is None:
            views.append(RowView(row, False, (None,) * len(columns)))
            continue
        found = tuple(cells.get((id_, c.connection_id, c.prompt_id)) for c in columns)
        views.append(RowView(row, id_ not in seen, found))
        seen.add(id_)
    return views
