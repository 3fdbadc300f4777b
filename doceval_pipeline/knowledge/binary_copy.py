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
    """A file that COPY writes to."""

    def __init__(self, decode: Callable[[Fields], Row]) -> None:
        self.decoded: list[Row] = []
        self._decode = decode
        self._left = b""
        self._has_header = False

    def write(self, data: bytes) -> int:
        """Decode the rows that are complete with this data."""
        self._left += data
        if not self._has_header and len(self._left) >= _HEADER_BYTES:
            self._left, self._has_header = self._left[_HEADER_BYTES:], True
        while self._has_header and (fields := self._next()) is not None:
            self.decoded.append(self._decode(fields))
        return len(data)

    def _next(self) -> Fields | None:
        """The fields of the next row; None if it has not arrived completely, or at the end."""
        fields: Fields = []
        data = memoryview(self._left)
        place = 2
        if len(self._left) < place:
            return None
        (count,) = struct.unpack_from("!h", self._left)
        if count < 0:
            return None
        for _ in range(count):
            if len(self._left) < place + 4:
                return None
            (length,) = struct.unpack_from("!i", self._left, place)
            place += 4
            if len(self._left) < place + length:
                return None
            fields.append(None if length < 0 else data[place : place + length])
            place += max(0, length)
        self._left = self._left[place:]
        return fields
