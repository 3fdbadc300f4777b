"""The sheet of a workbook that compares scores: one row per document, one column per model and prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from xlsxwriter import Workbook

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.reports.exports.workbooks import Sheet
from doceval_pipeline.reports.model import ReportColumn
from doceval_pipeline.reports.sanitize import cut, visible_name

# A sheet may have 16,384 columns, but people cannot read more than these.
MOST_COLUMNS = 1_000
_NAME_CHARACTERS = 80
_HEAD = (("file", 50), ("folder", 30), ("files", 8), ("below threshold", 12))
_LAST = "document_id"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the sheet has no room for; all of it is in the records."""

    documents: int
    columns: int


class DocumentScores:
    """Writes the sheet `documents` from records that arrive by document; keeps one row in memory.

    A cell holds the score, or the outcome as a word if there is none. Scores below the threshold are marked.
    """

    def __init__(self, workbook: Workbook, columns: Sequence[ReportColumn], most_rows: int) -> None:
        shown = columns[:MOST_COLUMNS]
        self._places: dict[Column, int] = {
            (column.connection_id, column.prompt_id): len(_HEAD) + place for place, column in enumerate(shown)
        }
        self._left_out = len(columns) - len(shown)
        self._last = len(_HEAD) + len(shown)
        self._most_rows = most_rows
        self._row = self._documents = 0
        self._current: list[ExportRecord] = []
        self._score = workbook.add_format({"num_format": "0.0"})
        self._low = workbook.add_format({"num_format": "0.0", "bg_color": "#FFC7CE", "font_color": "#9C0006"})
        self._word = workbook.add_format({"font_color": "#7F7F7F", "align": "right"})
        self._sheet: Sheet = workbook.add_worksheet("documents", Sheet)
        self._write_head(workbook, shown)

    def _write_head(self, workbook: Workbook, columns: Sequence[ReportColumn]) -> None:
        head = workbook.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
        titles = [*_HEAD, *((column_title(column), 14) for column in columns), (_LAST, 20)]
        self._sheet.freeze_panes(1, 1)
        self._sheet.set_row(0, 45)
        for place, (title, width) in enumerate(titles):
            self._sheet.set_column(place, place, width)
            self._sheet.write_string(0, place, title, head)

    def add(self, record: ExportRecord) -> None:
        """Take the next record; those that are not current do not count."""
        if not record.current:
            return
        if self._current and self._current[0].document_id != record.document_id:
            self._write_document()
        # Without the texts, which may be large.
        self._current.append(record._replace(response_text=None, response_json=None, error_message=None))

    def finish(self) -> LeftOut:
        """Write the last document and the filter."""
        if self._current:
            self._write_document()
        self._sheet.autofilter(0, 0, max(1, self._row), self._last)
        return LeftOut(self._documents - self._row, self._left_out)

    def _write_document(self) -> None:
        records, self._current = self._current, []
        self._documents += 1
        if self._row == self._most_rows:
            return
        self._row += 1
        document = records[0]
        for place, text in ((0, document.file), (1, document.folder), (self._last, document.document_id)):
            if text is not None:
                self._sheet.write_string(self._row, place, text)
        self._sheet.write_number(self._row, 2, document.files)
        if any(record.below_threshold is not None for record in records):
            self._sheet.write_number(self._row, 3, sum(record.below_threshold or 0 for record in records))
        for record in records:
            self._write_cell(record)

    def _write_cell(self, record: ExportRecord) -> None:
        place = self._places.get((record.connection_id, record.prompt_id))
        if place is None:
            return
        if record.outcome == Outcome.SUCCEEDED and record.score is not None:
            self._sheet.write_number(
                self._row, place, record.score, self._low if record.below_threshold else self._score
            )
        else:
            word = "no score" if record.outcome == Outcome.SUCCEEDED else record.outcome
            self._sheet.write_string(self._row, place, word, self._word)


def column_title(column: ReportColumn) -> str:
    """The title of a column: "gpt-4o · clarity"."""
    return " · ".join(
        cut(visible_name(name), _NAME_CHARACTERS) for name in (column.connection, column.prompt)
    )
