"""JSON Lines: one object a line, in UTF-8, with the keys in the order of the schema."""

import json
from collections.abc import Iterable
from typing import IO

from doceval_pipeline.reports.exports.record import Record, time_text

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=time_text
).encode
# Allowed in JSON, and ends of lines to some who read line by line.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_jsonl(file: IO[bytes], records: Iterable[Record]) -> int:
    """Write records; returns how many."""
    count = 0
    for record in records:
        line = _encode(record._asdict())
        for character, escape in _LINE_ENDS.items():
            line = line.replace(character, escape)
        file.write(line.encode() + b"\n")
        count += 1
    return count
