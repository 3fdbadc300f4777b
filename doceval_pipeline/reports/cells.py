"""Renders the rows and cells of the matrix, and the details of a selected cell, as HTML.

A page has thousands of cells, and a template takes ten times as long. So this module sanitizes and escapes
by hand: every foreign text goes through `_text` or `_name`; all else is numbers and our own words.
"""

import html
from collections.abc import Iterator
from functools import lru_cache

from markupsafe import Markup, escape

from doceval_pipeline.domain.results import CellDetails, ReportCell
from doceval_pipeline.reports.formatting import amount, duration, size_text
from doceval_pipeline.reports.labels import origin_label
from doceval_pipeline.reports.matrix import SYMBOLS, Matrix, RowView, cell_view
from doceval_pipeline.reports.model import NOTHING_ASKED
from doceval_pipeline.reports.sanitize import visible, visible_name


def matrix_rows(matrix: Matrix) -> Markup:
    """The rows of the table."""
    return Markup("".join(_row(row) for row in matrix.rows))  # noqa: S704


def cell_details(matrix: Matrix) -> Markup:
    """The details of each selectable cell, once for files with the same content."""
    return Markup("".join(_all_details(matrix)))  # noqa: S704


def cut_block(shown: str, left_out: int) -> Markup:
    """A text of several lines, and the number of characters left out."""
    return Markup(_block(shown, left_out))  # noqa: S704


def _block(shown: str, left_out: int) -> str:
    more = f'<p class="note">{amount(left_out)} more characters are left out here.</p>' if left_out else ""
    return f'<pre dir="auto">{_text(shown)}</pre>{more}'


def _text(text: str) -> str:
    """A text between tags, where quotes need no escape: JSON has many."""
    return html.escape(visible(text), quote=False)


@lru_cache(4_096)
def _name(name: str) -> str:
    return str(escape(visible_name(name)))


def _row(view: RowView) -> str:
    name = _name(view.label)
    cells = "".join(_cell(cell) for cell in view.cells)
    head = f'<bdi class="file" title="{name}">{name}</bdi>{_remark(view)}'
    return f'<tr><th scope="row">{head}</th>{cells}</tr>\n'


def _remark(view: RowView) -> str:
    if view.twin is not None:
        return f"<small>same content as <bdi>{_name(view.twin)}</bdi></small>"
    if view.file.state is None:
        return "<small>no file in this batch</small>"
    if view.file.state == "ASSIGNED":
        return "<small>not staged yet</small>"
    return "" if view.file.size is None else f"<small>{size_text(view.file.size)}</small>"


def _cell(cell: ReportCell | None) -> str:
    view = cell_view(cell)
    title, text = _name(view.title), _name(view.text)
    text += " <i>sim</i>" if cell and cell.simulated else ""
    text += " <i>reused</i>" if cell and cell.reused_batch_id is not None else ""
    if cell is None or cell.details is None:
        return f'<td class="{view.css}"><span title="{title}">{text}</span></td>'
    button = f'<button type="button" popovertarget="{_anchor_of(cell)}" title="{title}">{text}</button>'
    return f'<td class="{view.css}">{button}</td>'


def anchor(document_id: int, connection_id: int, prompt_id: int) -> str:
    """The id of the element with the details of a cell."""
    return f"r{document_id:d}-{connection_id:d}-{prompt_id:d}"


def _anchor_of(cell: ReportCell) -> str:
    return anchor(cell.document_id, cell.connection_id, cell.prompt_id)


def _all_details(matrix: Matrix) -> Iterator[str]:
    columns = [
        f"<bdi>{_name(column.connection)}</bdi> · <bdi>{_name(column.prompt)}</bdi>"
        for column in matrix.columns
    ]
    for view in matrix.rows:
        if not view.first:
            continue
        name = _name(view.label)
        for cell, column in zip(view.cells, columns, strict=True):
            if cell is not None and cell.details is not None:
                yield _details(cell, cell.details, name, column)


def _details(cell: ReportCell, details: CellDetails, name: str, column: str) -> str:
    kind, target = cell_view(cell).kind, _anchor_of(cell)
    marks = '<span class="sim">simulated</span>' if cell.simulated else ""
    if cell.reused_batch_id is not None:
        marks += f"</p><p>Reused from {_name(origin_label(cell.reused_batch_id))}: {NOTHING_ASKED}."
    # Optional closing tags are omitted: there are thousands.
    return f"""<div popover class="result" id="{target}">
<button type="button" class="close" popovertarget="{target}" popovertargetaction="hide" \
aria-label="Close">✕</button><h3><bdi>{name}</bdi></h3><p class="muted">{column}{marks}</p>\
<dl class="facts"><div><dt>Result<dd>{SYMBOLS[kind]} {kind} <span class="muted">({_name(cell.status)})</span>\
</div><div><dt>Score<dd>{"none" if cell.score is None else cell.score}</div>\
<div><dt>Attempt<dd>{details.attempt:d}</div>\
<div><dt>Tokens in / out<dd>{_count(details.input_tokens)} / {_count(details.output_tokens)}</div>\
<div><dt>Time<dd>{"–" if details.seconds is None else duration(details.seconds)}</div></dl>\
{_texts(kind, details)}</div>
"""


def _texts(kind: str, details: CellDetails) -> str:
    texts = ""
    if details.message:
        texts = f"<h4>Message</h4>{_cut(details.message, details.message_characters)}"
    elif kind == "failed":
        texts = "<p>The evaluation failed without a message.</p>"
    if details.response:
        texts += f"<h4>Response</h4>{_cut(details.response, details.response_characters)}"
    return texts


def _cut(shown: str, characters: int) -> str:
    return _block(shown, characters - len(shown))


def _count(value: int | None) -> str:
    return "–" if value is None else amount(value)
