"""Reads the rows of a binary COPY while they arrive, so that no more than one is held as bytes.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": a signature, flags and an empty
extension; rows of a number of fields and the fields, each after its length; -1 at the end.
"""

import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

# Views, because the field of a long array would otherwise be in memory twice.
Fields = list[memoryview | None]
Row = TypeVar("Row")

_HEADER_BYTES = 19
_ARRAY_HEADER_BYTES = 20
_COUNT, _LENGTH = struct.Struct("!h"), struct.Struct("!i")


def copy_rows(
    connection: Connection, statement: str, parameters: Sequence[Any], decode: Callable[[Fields], Row]
) -> list[Row]:
    """The rows that `COPY (…) TO STDOUT (FORMAT binary)` returns, decoded.

    Parameters
    ----------
    decode
        Called with the fields of each row, None for NULL.
    """
    rows = _Rows(decode)
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(cursor.mogrify(statement, parameters), rows)
    return rows.decoded


def number(field: memoryview | None) -> int:
    """An integer; 0 for NULL."""
    return int.from_bytes(field or b"", signed=True)


def word(field: memoryview | None) -> str:
    """A text; empty for NULL."""
    return str(field or b"", "utf-8")


def array(field: memoryview | None, kind: str) -> NDArray[Any]:
    """The elements of an array without NULLs, each of which comes after its length.

    Parameters
    ----------
    kind
        The numpy type of an element, without its byte order: "i8", "f8".
    """
    elements = np.frombuffer(
        field or b"", [("length", ">i4"), ("value", f">{kind}")], offset=_ARRAY_HEADER_BYTES
    )
    return elements["value"].astype(kind)


class _Rows(Generic[Row]):
    """A file that COPY writes to, a message at a time: each has one row.

    https://www.postgresql.org/docs/current/protocol-message-formats.html, "CopyData". The first message
    begins with the header.
    """

    def __init__(self, decode: Callable[[Fields], Row]) -> None:
        self.decoded: list[Row] = []
        self._decode = decode
        self._has_header = False

    def write(self, data: bytes) -> int:
        """Decode the row of a message."""
        row = memoryview(data)
        if not self._has_header:
            row, self._has_header = row[_HEADER_BYTES:], True
        if row and (fields := _fields(row)) is not None:
            self.decoded.append(self._decode(fields))
        return len(data)


def _fields(row: memoryview) -> Fields | None:
    """The fields of a row; None for the trailer."""
    (count,) = _COUNT.unpack_from(row)
    if count < 0:
        return None
    fields: Fields = []
    place = _COUNT.size
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(row, place)
        place += _LENGTH.size
        fields.append(None if length < 0 else row[place : place + length])
        place += max(0, length)
    return fields
