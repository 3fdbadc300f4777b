"""Streams any amount of bytes into a table with COPY."""

from collections.abc import Iterable
from contextlib import closing

import psycopg2
from sqlalchemy import Connection


def copy(connection: Connection, statement: str, pieces: Iterable[bytes]) -> None:
    """Run COPY ... FROM STDIN with the concatenated `pieces`, in the caller's transaction.

    Raises
    ------
    Exception
        The exception of `pieces` or of the driver. The caller must roll back the transaction.
    """
    stream = _Stream(pieces)
    with closing(connection.connection.cursor()) as cursor:
        try:
            cursor.copy_expert(statement, stream)
        except psycopg2.Error:
            # psycopg2 replaces an exception of read() with "COPY failed".
            if stream.failure is not None:
                raise stream.failure from None
            raise


class _Stream:
    """A stream for psycopg2 that returns one piece per read, whatever size is requested."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        # An empty piece would count as the end.
        self._pieces = (piece for piece in pieces if piece)
        self.failure: Exception | None = None

    def read(self, _size: int = -1) -> bytes:
        try:
            return next(self._pieces, b"")
        except Exception as error:
            self.failure = error
            raise
