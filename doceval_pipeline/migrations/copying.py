"""Streams bytes into a table by COPY, whatever their size."""

from collections.abc import Iterable
from contextlib import closing

import psycopg2
from sqlalchemy import Connection


def copy(connection: Connection, statement: str, pieces: Iterable[bytes]) -> None:
    """Run a COPY ... FROM STDIN with the bytes that `pieces` add up to, in the caller's transaction.

    Raises
    ------
    Exception
        Whatever `pieces` raised, or the driver's error; the transaction must be rolled back.
    """
    stream = _Stream(pieces)
    with closing(connection.connection.cursor()) as cursor:
        try:
            cursor.copy_expert(statement, stream)
        except psycopg2.Error:
            # psycopg2 turns an exception out of read() into one that says COPY failed.
            if stream.failure is not None:
                raise stream.failure from None
            raise


class _Stream:
    """What psycopg2 reads from: one piece a call, however many bytes it asks for."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        # An empty one would be taken for the end.
        self._pieces = (piece for piece in pieces if piece)
        self.failure: Exception | None = None

    def read(self, _size: int = -1) -> bytes:
        try:
            return next(self._pieces, b"")
        except Exception as error:
            self.failure = error
            raise
