"""Tables in text, told by reading them: several rows with the same number of fields.

Lists, verses and programs have separators too: a table has no space behind most of them, and neither its
first nor its last column is empty.
"""

import csv
import io
from itertools import islice

MOST_ROWS = 100
_TYPES = {",": "text/csv", ";": "text/csv", "\t": "text/tab-separated-values"}


def table_type(text: bytes, is_whole: bool) -> str | None:
    """The MIME type of a table that a text begins with, or None; `is_whole`: it is the whole document."""
    first = text.partition(b"\n")[0].decode("latin-1")
    for separator, kind in _TYPES.items():
        if separator in first and _is_table(text, separator, is_whole):
            return kind
    return None


def _is_table(text: bytes, separator: str, is_whole: bool) -> bool:
    # Any one-byte encoding has the separators in the same places.
    lines = io.StringIO(text.decode("latin-1"), newline="")
    rows: list[list[str]] = []
    try:
        for row in islice(csv.reader(lines, delimiter=separator, strict=True), MOST_ROWS):
            rows.append(row)
    except csv.Error:
        # The end of a head may be inside a quoted field; the rows before it are there.
        if is_whole or lines.read(1):
            return False
    else:
        if not is_whole and len(rows) < MOST_ROWS:
            # The last row is cut.
            rows.pop()
    rows = [row for row in rows if row]
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return False
    behind = [field for row in rows for field in row[1:]]
    spaced = sum(field.startswith(" ") for field in behind)
    return 2 * spaced < len(behind) and all(any(row[end] for row in rows) for end in (0, -1))
