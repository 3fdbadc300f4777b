"""A workbook for Excel: a summary, the score of each document, and all records.

Texts are written as texts, even those that look like formulas or links.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import IO

from xlsxwriter import Workbook

from doceval_pipeline.domain.export_record import COLUMNS, ExportRecord
from doceval_pipeline.reports.exports.document_scores import DocumentScores
from doceval_pipeline.reports.exports.overview import Overview
from doceval_pipeline.reports.exports.overview_sheet import write_overview
from doceval_pipeline.reports.exports.value_types import TYPES
from doceval_pipeline.reports.exports.workbooks import Sheet, open_workbook, write_value

# A sheet has 1,048,576 rows; the first one holds the column names.
RECORDS_IN_A_SHEET = 1_048_575
# This column lists the columns of a record whose text was cut.
CUT = "cut"
# The library returns this when it cuts a text to 32,767 characters, the limit of a cell.
_CUT = -2
# In characters; a column of numbers is as wide as its name with the button of the filter.
_WIDTHS: dict[type, int] = {str: 20, datetime: 28}
_WIDE = {"file": 40, "response_text": 60, "response_json": 40, "error_message": 40}


def write_xlsx(
    file: IO[bytes], records: Iterable[ExportRecord], metadata: Mapping[str, str], overview: Overview
) -> tuple[int, int]:
    """Write an overview and records, the records to as many sheets as they need.

    Returns
    -------
    tuple
        The number of records, and the number of texts that were cut.
    """
    with open_workbook(file, metadata) as workbook:
        summary = workbook.add_worksheet("summary", Sheet)
        documents = DocumentScores(workbook, overview.columns, RECORDS_IN_A_SHEET)
        results = _Results(workbook)
        for record in records:
            results.add(record)
            documents.add(record)
        results.finish()
        write_overview(workbook, summary, overview, documents.finish())
    return results.count, results.cut


class _Results:
    """The sheets of all records: `results`, `results 2` and so on."""

    def __init__(self, workbook: Workbook) -> None:
        self.count = self.cut = 0
        self._workbook = workbook
        self._head = workbook.add_format({"bold": True, "bottom": 1})
        self._sheets = 0
        self._add_sheet()

    def add(self, record: ExportRecord) -> None:
        """Write a record to the next row."""
        if self._row == RECORDS_IN_A_SHEET:
            self.finish()
            self._add_sheet()
        self._row += 1
        self.count += 1
        self.cut += _write_record(self._sheet, self._row, record)

    def finish(self) -> None:
        """Add the filter of the last sheet."""
        self._sheet.autofilter(0, 0, max(1, self._row), len(COLUMNS))

    def _add_sheet(self) -> None:
        self._sheets += 1
        self._row = 0
        name = "results" if self._sheets == 1 else f"results {self._sheets}"
        self._sheet: Sheet = self._workbook.add_worksheet(name, Sheet)
        self._sheet.freeze_panes(1, 0)
        for column, title in enumerate((*COLUMNS, CUT)):
            self._sheet.set_column(column, column, _width(title))
            self._sheet.write_string(0, column, title, self._head)


def _width(title: str) -> int:
    return _WIDE.get(title) or max(_WIDTHS.get(TYPES.get(title, str), 0), len(title) + 3)


def _write_record(sheet: Sheet, row: int, record: ExportRecord) -> int:
    """Write a record to a row, which lists its cut texts; return the number of cut texts."""
    cut = [
        name
        for column, (name, value) in enumerate(zip(COLUMNS, record, strict=True))
        if value is not None and write_value(sheet, row, column, value) == _CUT
    ]
    if cut:
        sheet.write_string(row, len(COLUMNS), ", ".join(cut))
    return len(cut)
