"""The first sheet of a workbook: what is decided, and a table of all models."""

import math

from xlsxwriter import Workbook

from doceval_pipeline.reports.exports.document_scores import LeftOut
from doceval_pipeline.reports.exports.overview import TITLES, Overview
from doceval_pipeline.reports.exports.workbooks import Sheet, write_value

# Sentences are as wide as these columns, in which a line has room for so many characters.
_MERGED = 8
_CHARACTERS_IN_A_LINE = 110
_LINE_HEIGHT = 15
_WIDTHS = {"prompt": 24, "model": 28, "against": 28, "comparison": 22, "margin": 22}


def write_overview(workbook: Workbook, sheet: Sheet, overview: Overview, left_out: LeftOut) -> None:
    """Write all rows of the sheet, in order."""
    bold = workbook.add_format({"bold": True})
    sheet.write_string(0, 0, overview.title, workbook.add_format({"bold": True, "font_size": 14}))
    for row, (name, text) in enumerate(overview.facts, start=1):
        sheet.write_string(row, 0, name, bold)
        sheet.write_string(row, 1, text)
    row = len(overview.facts) + 2
    wrapped = workbook.add_format({"text_wrap": True, "valign": "top"})
    for sentence in overview.sentences:
        sheet.set_row(row, _LINE_HEIGHT * math.ceil(len(sentence) / _CHARACTERS_IN_A_LINE))
        # The library would take a text that it merges for a formula, so it is written by itself.
        sheet.merge_range(row, 0, row, _MERGED - 1, "", wrapped)
        sheet.write_string(row, 0, sentence, wrapped)
        row += 1
    row = _write_table(workbook, sheet, overview, row + 1)
    for note in (*overview.notes, *_about_other_sheets(overview, left_out)):
        row += 1
        sheet.write_string(row, 0, note)


def _write_table(workbook: Workbook, sheet: Sheet, overview: Overview, head: int) -> int:
    """Write the table of standings with its head in row `head`; return the row after it."""
    style = workbook.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
    formats = [None if text is None else workbook.add_format({"num_format": text}) for _, text in TITLES]
    sheet.set_row(head, 32)
    for column, (title, _) in enumerate(TITLES):
        sheet.set_column(column, column, _WIDTHS.get(title, 13))
        sheet.write_string(head, column, title, style)
    for row, values in enumerate(overview.standings, start=head + 1):
        for column, value in enumerate(values):
            if value is not None:
                write_value(sheet, row, column, value, formats[column])
    last = head + len(overview.standings)
    sheet.autofilter(head, 0, max(last, head + 1), len(TITLES) - 1)
    return last + 1


def _about_other_sheets(overview: Overview, left_out: LeftOut) -> list[str]:
    about = [
        "Sheet documents has a row for each document and a column for each model and prompt; scores below a "
        "threshold are red. Sheet results has everything."
    ]
    if left_out.columns:
        shown = len(overview.columns) - left_out.columns
        about.append(
            f"Sheet documents has the first {shown:,} of {len(overview.columns):,} models and prompts."
        )
    if left_out.documents:
        about.append(f"Sheet documents has no room for {left_out.documents:,} more documents.")
    return about
