"""CSV as RFC 4180 has it, in UTF-8, safe to open in a spreadsheet.

Texts are quoted and nothing else is, so that an empty text and no value can be told apart, as
PostgreSQL's COPY does.
"""

import re
from collections.abc import Iterable
from typing import IO

from doceval_pipeline.reports.exports.record import Record, Value, time_text

# Spreadsheets take for a formula what begins with = + - @, or their wide forms, and some skip blanks,
# quotes and what is not printed before it. A text that begins with an apostrophe gets another one, so
# that the one in front can always be taken away again.
_MARKED = re.compile(r"['\t\r\n]|[^\w]*[=+\-@＝＋－＠]")


def write_csv(file: IO[bytes], records: Iterable[Record]) -> int:
    """Write a line of names and the records; returns how many records."""
    file.write(_line(Record._fields))
    count = 0
    for record in records:
        file.write(_line(record))
        count += 1
    return count


def _line(values: Iterable[Value]) -> bytes:
    return (",".join(map(_field, values)) + "\r\n").encode()


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        mark = "'" if _MARKED.match(value) else ""
        return f'"{mark}{value.replace(chr(34), chr(34) * 2)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else time_text(value)
