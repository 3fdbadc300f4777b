"""Rows on their way out of a table of one revision and into the same table of a later one.

A row travels as the JSON that PostgreSQL itself makes of it, so that nothing is lost: microseconds,
floating point, any text. What rows belong together is the business of whoever moves them.
"""

import json
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, text

# A statement carries about this many bytes of rows, or one row.
CHUNK_BYTES = 4 * 1024 * 1024

# Servers, databases and roles may be configured to read and write values in another way, or shortened.
_EXACT_FORMATS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "array_nulls": "on",
    "transform_null_equals": "off",
}
_COLUMNS = text("""
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped AND attname = ANY(:names)
""")
_LAST_ID = text("SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(:table, 'id')::regclass), 0)")
_MOVE_ON = text("""
    SELECT setval(pg_get_serial_sequence(:table, 'id'), :largest)
    WHERE coalesce(pg_sequence_last_value(pg_get_serial_sequence(:table, 'id')::regclass), 0) < :largest
""")


def exact_formats(transaction_only: bool) -> str:
    """A statement after which a session, or its transaction, writes values as text that gives them again."""
    local = str(transaction_only).lower()
    settings = ", ".join(
        f"set_config('{name}', '{value}', {local})" for name, value in _EXACT_FORMATS.items()
    )
    return f"SELECT {settings}"


def write_exactly(connection: Connection) -> None:
    """Let the transaction write each value as text that gives exactly this value again.

    Connections of ours do so anyway; behind a pooler, others may have changed the session since.
    """
    connection.execute(text(exact_formats(transaction_only=True)))


def insert_rows(connection: Connection, table: str, rows: Iterable[bytes]) -> None:
    """Insert rows from their JSON, in the caller's transaction.

    A column that a row of an earlier revision does not have gets its default.

    Parameters
    ----------
    table
        A name from our own code.
    rows
        JSON objects of the same keys.
    """
    statement = None
    for chunk in _chunks(rows):
        if statement is None:
            names = list(json.loads(chunk[0]))
            columns = connection.execute(_COLUMNS, {"table": table, "names": names}).scalar_one()
            statement = text(
                f"INSERT INTO {table} ({columns}) "
                f"SELECT {columns} FROM json_populate_recordset(NULL::{table}, CAST(:rows AS json))"
            )
        connection.execute(statement, {"rows": (b"[" + b",".join(chunk) + b"]").decode()})


def reserve_ids(connection: Connection, table: str, largest: int) -> None:
    """Move an identity column past an id that comes from elsewhere.

    Locks the table against other writers until the transaction ends, where it must move: call it
    before anything else in the transaction.
    """
    if connection.execute(_LAST_ID, {"table": table}).scalar_one() < largest:
        connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
        connection.execute(_MOVE_ON, {"table": table, "largest": largest})


def _chunks(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for row in rows:
        if chunk and size + len(row) > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row)
    if chunk:
        yield chunk
