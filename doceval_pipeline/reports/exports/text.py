"""The text formats, in UTF-8: CSV as in RFC 4180, and JSON Lines.

A CSV file is safe to open in a spreadsheet. Only texts are quoted, so that an empty text differs from no
value, as in PostgreSQL's COPY.
"""

import json
import re
from collections.abc import Iterable
from typing import IO

from doceval_pipeline.domain.export_record import COLUMNS, ExportRecord, Value
from doceval_pipeline.reports.exports.value_types import time_text

# Spreadsheets treat a text as a formula if it begins with = + - @ or their wide forms, and some ignore
# blanks, quotes and unprintable characters before it. A text that begins with an apostrophe gets a second
# one, so that a reader can always remove the first.
_MARKED = re.compile(r"['\t\r\n]|[^\w]*[=+\-@＝＋－＠]")
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=time_text
).encode
# Allowed in JSON, but some programs that read line by line end a line at them.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_csv(file: IO[bytes], records: Iterable[ExportRecord]) -> int:
    """Write a line of column names, then the records; return the number of records."""
    file.write(_csv_line(COLUMNS))
    count = 0
    for record in records:
        file.write(_csv_line(record))
        count += 1
    return count


def write_jsonl(file: IO[bytes], records: Iterable[ExportRecord]) -> int:
    """Write one JSON object per line, its keys in the order of `COLUMNS`; return the number of records."""
    count = 0
    for record in records:
        line = _encode(record._asdict())
        for character, escape in _LINE_ENDS.items():
            line = line.replace(character, escape)
        file.write(line.encode() + b"\n")
        count += 1
    return count


def _csv_line(values: Iterable[Value]) -> bytes:
    return (",".join(map(_csv_field, values)) + "\r\n").encode()


def _csv_field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        mark = "'" if _MARKED.match(value) else ""
        return f'"{mark}{value.replace(chr(34), chr(34) * 2)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else time_text(value)
