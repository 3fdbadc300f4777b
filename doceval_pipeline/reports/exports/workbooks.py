"""Workbooks whose texts stay texts and whose errors are those of the operating system."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from xlsxwriter import Workbook
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.worksheet import Worksheet

from doceval_pipeline.domain.export_record import Value
from doceval_pipeline.reports.exports.value_types import time_text

_ESCAPE_LIKE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")


class Sheet(Worksheet):  # type: ignore[misc] # the library has no types
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


@contextmanager
def open_workbook(file: IO[bytes], metadata: Mapping[str, str]) -> Iterator[Workbook]:
    """A workbook that is written to `file` at the end, with `metadata` as its properties.

    The rows of each sheet must be written in order. The library collects them in temporary files in the
    folder of `file`, which needs the space.

    Raises
    ------
    OSError
    """
    sink = _Sink(file)
    with TemporaryDirectory(dir=Path(file.name).parent, prefix=".doceval-") as folder:
        workbook = Workbook(sink, {"constant_memory": True, "tmpdir": folder, "use_zip64": True})
        try:
            for name, value in metadata.items():
                workbook.set_custom_property(name, value)
            yield workbook
            workbook.close()
        except FileCreateError as error:
            raise error.args[0] from None
        finally:
            sink.file = _Nowhere()
            # After an error the library leaves the temporary files of its sheets open.
            for sheet in workbook.worksheets():
                sheet._opt_close()


def write_value(sheet: Sheet, row: int, column: int, value: Value, format: Any = None) -> int:
    """Write a value with its type, a time as text; return the code of the library."""
    if isinstance(value, str):
        return int(sheet.write_string(row, column, value, format))
    if isinstance(value, bool):
        return int(sheet.write_boolean(row, column, value, format))
    if isinstance(value, datetime):
        return int(sheet.write_string(row, column, time_text(value), format))
    return int(sheet.write_number(row, column, value, format))
