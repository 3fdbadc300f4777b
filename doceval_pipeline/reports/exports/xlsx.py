"""A workbook for Excel. Texts are written as texts, even those that look like formulas or links."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

from doceval_pipeline.domain.export_record import COLUMNS, ExportRecord, Value
from doceval_pipeline.reports.exports.value_types import time_text

# A sheet has 1,048,576 rows; the first one holds the column names.
RECORDS_IN_A_SHEET = 1_048_575
# This column lists the columns of a record whose text was cut.
CUT = "cut"
# The library returns this when it cuts a text to 32,767 characters, the limit of a cell.
_CUT = -2

_ESCAPE_LIKE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")


class _Sheet(Worksheet):  # type: ignore[misc] # the library has no types
    """A sheet that writes texts only as texts, so that they read back unchanged.

    The library does not escape a text between <r> and </r>, which it takes for markup, nor the second of two
    `_xHHHH_` that share an underscore.
    """

    def _xml_rich_inline_string(self, string: str, attributes: Any) -> None:
        self._xml_inline_string(string, preserve=True, attributes=attributes)

    @staticmethod
    def _escape_control_characters(data: str | int) -> str:
        escaped = _ESCAPE_LIKE.sub("_x005F_", str(data))
        return _CONTROLS.sub(lambda match: f"_x{ord(match[0]):04X}_", escaped)


class _Nowhere:
    """A file that discards all writes, and only knows its position."""

    def __init__(self) -> None:
        self._position = 0

    def write(self, data: bytes) -> int:
        self._position += len(data)
        return len(data)

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass


class _Sink:
    """The file that the library writes its archive to; discards all writes after an error.

    The library tries to finish an archive when it is garbage-collected; its file is closed by then.
    """

    def __init__(self, file: IO[bytes] | _Nowhere) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def write_xlsx(
    file: IO[bytes], records: Iterable[ExportRecord], metadata: Mapping[str, str]
) -> tuple[int, int]:
    """Write records to as many sheets as they need, and `metadata` to the properties of the workbook.

    The library collects the sheets in temporary files in the folder of `file`, which needs the space.

    Returns
    -------
    tuple
        The number of records, and the number of texts that were cut.
    """
    sink = _Sink(file)
    count = cut = 0
    with TemporaryDirectory(dir=Path(file.name).parent, prefix=".doceval-") as folder:
        workbook = Workbook(sink, {"constant_memory": True, "tmpdir": folder, "use_zip64": True})
        try:
            for name, value in metadata.items():
                workbook.set_custom_property(name, value)
            for sheet, row, record in _places(workbook, records):
                cut += _write_record(sheet, row, record)
                count += 1
            workbook.close()
        except FileCreateError as error:
            raise error.args[0] from None
        finally:
            sink.file = _Nowhere()
            # After an error the library leaves the temporary files of its sheets open.
            for sheet in workbook.worksheets():
                sheet._opt_close()
    return count, cut


def _places(
    workbook: Workbook, records: Iterable[ExportRecord]
) -> Iterator[tuple[_Sheet, int, ExportRecord]]:
    """Yield the sheet and row of each record; begins with one sheet and adds one whenever it is full."""
    rest = iter(records)
    number = 0
    while (first := next(rest, None)) is not None or not number:
        number += 1
        sheet = _new_sheet(workbook, "results" if number == 1 else f"results {number}")
        sheet_records = [] if first is None else chain([first], islice(rest, RECORDS_IN_A_SHEET - 1))
        for row, record in enumerate(sheet_records, start=1):
            yield sheet, row, record


def _new_sheet(workbook: Workbook, name: str) -> _Sheet:
    sheet: _Sheet = workbook.add_worksheet(name, _Sheet)
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, RECORDS_IN_A_SHEET, len(COLUMNS))
    for column, title in enumerate((*COLUMNS, CUT)):
        sheet.write_string(0, column, title)
    return sheet


def _write_record(sheet: _Sheet, row: int, record: ExportRecord) -> int:
    """Write a record to a row, which lists its cut texts; return the number of cut texts."""
    cut = [
        name
        for column, (name, value) in enumerate(zip(COLUMNS, record, strict=True))
        if value is not None and _write_value(sheet, row, column, value) == _CUT
    ]
    if cut:
        sheet.write_string(row, len(COLUMNS), ", ".join(cut))
    return len(cut)


def _write_value(sheet: _Sheet, row: int, column: int, value: Value) -> int:
    if isinstance(value, str):
        return int(sheet.write_string(row, column, value))
    if isinstance(value, bool):
        return int(sheet.write_boolean(row, column, value))
    if isinstance(value, datetime):
        return int(sheet.write_string(row, column, time_text(value)))
    return int(sheet.write_number(row, column, value))
