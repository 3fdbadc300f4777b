"""A workbook for Excel. Texts are written as texts, whatever they begin with."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

from doceval_pipeline.reports.exports.record import Record, Value, time_text

# A sheet has 1,048,576 rows, and the names of the columns stand in the first.
RECORDS_IN_A_SHEET = 1_048_575
# The names of the columns of a record whose texts are not whole.
CUT = "cut"
# What the library answers when it cut a text to the 32,767 characters that a cell holds.
_CUT = -2

_ESCAPE_LIKE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")


class _Sheet(Worksheet):  # type: ignore[misc] # the library has no types
    """A sheet whose texts are nothing but texts, and read back as what they were.

    The library takes a text between <r> and </r> for markup that it need not escape, and leaves one of two
    `_xHHHH_` alone that share an underscore.
    """

    def _xml_rich_inline_string(self, string: str, attributes: Any) -> None:
        self._xml_inline_string(string, True, attributes)

    @staticmethod
    def _escape_control_characters(data: str | int) -> str:
        escaped = _ESCAPE_LIKE.sub("_x005F_", str(data))
        return _CONTROLS.sub(lambda match: f"_x{ord(match[0]):04X}_", escaped)


class _Sink:
    """Where the library's archive goes: the file, until somebody gives up.

    An archive that is not finished tries to be when it is collected, into a file that is closed by then.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def write_xlsx(file: IO[bytes], records: Iterable[Record], metadata: Mapping[str, str]) -> tuple[int, int]:
    """Write records to as many sheets as they need, with `metadata` in the properties of the workbook.

    The library collects sheets in files of its own, which are beside `file`, where there must be room.

    Returns
    -------
    tuple
        How many records there are, and how many texts had to be cut.
    """
    sink = _Sink(file)
    count = cut = 0
    with TemporaryDirectory(dir=Path(file.name).parent, prefix=".doceval-") as folder:
        workbook = Workbook(sink, {"constant_memory": True, "tmpdir": folder, "use_zip64": True})
        for name, value in metadata.items():
            workbook.set_custom_property(name, value)
        for sheet, row, record in _places(workbook, records):
            cut += _write_record(sheet, row, record)
            count += 1
        try:
            workbook.close()
        except FileCreateError as error:
            raise error.args[0] from None
        finally:
            sink.file = BytesIO()
    return count, cut


def _places(workbook: Workbook, records: Iterable[Record]) -> Iterator[tuple[_Sheet, int, Record]]:
    """A new sheet whenever one is full, and one at least; its rows from below the names."""
    rest = iter(records)
    number = 0
    while (first := next(rest, None)) is not None or not number:
        number += 1
        sheet = _new_sheet(workbook, "results" if number == 1 else f"results {number}")
        some = [] if first is None else chain([first], islice(rest, RECORDS_IN_A_SHEET - 1))
        for row, record in enumerate(some, start=1):
            yield sheet, row, record


def _new_sheet(workbook: Workbook, name: str) -> _Sheet:
    sheet: _Sheet = workbook.add_worksheet(name, _Sheet)
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, RECORDS_IN_A_SHEET, len(Record._fields))
    for column, title in enumerate((*Record._fields, CUT)):
        sheet.write_string(0, column, title)
    return sheet


def _write_record(sheet: _Sheet, row: int, record: Record) -> int:
    """Write a record to a row; returns how many of its texts are not whole there, which the row tells."""
    cut = [
        name
        for column, (name, value) in enumerate(zip(Record._fields, record, strict=True))
        if value is not None and _write_value(sheet, row, column, value) == _CUT
    ]
    if cut:
        sheet.write_string(row, len(record), ", ".join(cut))
    return len(cut)


def _write_value(sheet: _Sheet, row: int, column: int, value: Value) -> int:
    if isinstance(value, str):
        return int(sheet.write_string(row, column, value))
    if isinstance(value, bool):
        return int(sheet.write_boolean(row, column, value))
    if isinstance(value, datetime):
        return int(sheet.write_string(row, column, time_text(value)))
    return int(sheet.write_number(row, column, value))
