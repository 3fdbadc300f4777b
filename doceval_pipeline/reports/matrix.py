"""Lays out the matrix of documents × columns: its rows within limits, and the view of each cell.

Texts are kept as they were written; `cells` makes them inert.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.files import EvaluatedFile
from doceval_pipeline.domain.results import ReportCell
from doceval_pipeline.reports.formatting import score_text
from doceval_pipeline.reports.labels import origin_label
from doceval_pipeline.reports.model import ReportColumn, ReportInput
from doceval_pipeline.reports.sanitize import cut

# However large the batch is, a page stays small enough for a browser to open and a person to read.
ROWS_SHOWN = 2_000
CELLS_SHOWN = 10_000
ROWS_SHOWN_LEAST = 10
# Cells that can be selected to read their message and response.
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
_OUTCOMES = frozenset(Outcome)


@dataclass(frozen=True, slots=True)
class CellView:
    """The appearance of a cell: its kind, CSS class, text and title."""

    kind: str
    css: str
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class RowView:
    """A row of the matrix.

    `label` names the file or document, `twin` the first file with the same content. Details belong to the
    `first` row of a document.
    """

    file: EvaluatedFile
    label: str
    twin: str | None
    first: bool
    cells: tuple[ReportCell | None, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The rows on the page, and the columns grouped by connection.

    `symbols` are the kinds of cells on the page that have a symbol instead of a score. Of `shown` cells,
    `selectable` ones have details.
    """

    rows: tuple[RowView, ...]
    columns: tuple[ReportColumn, ...]
    groups: tuple[tuple[str, int], ...]
    symbols: tuple[str, ...]
    selectable: int
    shown: int


_MISSING = CellView(
    "missing", "missing", f"{SYMBOLS['missing']} missing", "missing: the queue has no row for it"
)


def rows_shown(columns: int) -> int:
    """The highest number of rows that a page with this many columns shows."""
    return max(ROWS_SHOWN_LEAST, min(ROWS_SHOWN, CELLS_SHOWN // max(1, columns)))


def lay_out(data: ReportInput, columns: Sequence[ReportColumn]) -> Matrix:
    """Lay out the rows of a report in the given columns."""
    rows = tuple(_rows(data, columns))
    # A score has no symbol, and most cells have one.
    styles = {
        cell_view(cell).css
        for row in rows
        for cell in row.cells
        if cell is None or cell.score is None or cell.outcome != "succeeded"
    }
    return Matrix(
        rows=rows,
        columns=tuple(columns),
        groups=tuple(
            (group[0].connection, len(group))
            for _, members in groupby(columns, key=lambda column: column.connection_id)
            if (group := tuple(members))
        ),
        symbols=tuple(kind for kind in SYMBOLS if kind in styles),
        selectable=sum(cell.details is not None for cell in data.cells),
        shown=len(data.cells),
    )


def cell_view(cell: ReportCell | None) -> CellView:
    """The appearance of a cell; None is a cell without a row."""
    if cell is None:
        return _MISSING
    if cell.outcome == "succeeded":
        return _succeeded(cell.score, cell.reused_batch_id, simulated=cell.simulated)
    outcome = cell.outcome if cell.outcome in _OUTCOMES else "unknown"
    word = cut(cell.status, 20) if outcome == "unknown" else outcome
    title = f"{outcome} ({cut(cell.status, 40)})"
    if outcome == "failed":
        title = f"failed: {cut((cell.message or '').strip(), TITLE_CHARACTERS) or 'no message'}"
    return CellView(outcome, outcome, f"{SYMBOLS[outcome]} {word}", _marked(title, simulated=cell.simulated))


@lru_cache(4_096)
def _succeeded(score: float | None, reused_batch_id: int | None, *, simulated: bool) -> CellView:
    reused = "" if reused_batch_id is None else f", reused from {origin_label(reused_batch_id)}"
    if score is None:
        title = _marked(f"succeeded, no score{reused}", simulated=simulated)
        return CellView("succeeded", "succeeded", SYMBOLS["succeeded"], title)
    shown = score_text(score)
    css = f"scored s{min(9, max(0, int(score // 10)))}"
    return CellView("succeeded", css, shown, _marked(f"score {shown}{reused}", simulated=simulated))


def _marked(title: str, *, simulated: bool) -> str:
    return f"SIMULATED, {title}" if simulated else title


def _rows(data: ReportInput, columns: Sequence[ReportColumn]) -> Iterator[RowView]:
    cells = {(c.document_id, c.connection_id, c.prompt_id): c for c in data.cells}
    shown: set[int] = set()
    for file in data.rows:
        document_id = file.document_id
        yield RowView(
            file=file,
            label=_label(data, file),
            twin=data.labels.twin(file),
            first=document_id is not None and document_id not in shown,
            cells=tuple(
                None if document_id is None else cells.get((document_id, c.connection_id, c.prompt_id))
                for c in columns
            ),
        )
        if document_id is not None:
            shown.add(document_id)


def _label(data: ReportInput, file: EvaluatedFile) -> str:
    if file.name is not None:
        return data.labels.of_file(file.name)
    return data.labels.of_document(file.document_id or 0)
