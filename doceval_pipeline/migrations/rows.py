"""Moves rows as JSON from a table into the same table, possibly of a later revision.

PostgreSQL creates and parses the JSON itself, so that microseconds, floating point numbers and any text stay
exact. Callers decide which rows to move.
"""

from collections.abc import Iterable
from itertools import chain

from sqlalchemy import Connection, text

from doceval_pipeline.migrations.copying import copy

# JSON contains no control characters, so these never occur in it.
_AS_IT_IS = r"(FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')"
_QUOTE = b"\x01"
_KEYS = """
    SELECT array_agg(key)
    FROM (SELECT line FROM ({source}) AS lines LIMIT 1) AS first, json_object_keys(line) AS key
"""

# Servers, databases and roles may be configured to format values differently or to shorten them.
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
_MOVE_ON = text("SELECT advance_numbers(:table, :largest)")


def exact_formats(*, transaction_only: bool) -> str:
    """A statement that makes a session, or its transaction, format values exactly."""
    local = str(transaction_only).lower()
    settings = ", ".join(
        f"set_config('{name}', '{value}', {local})" for name, value in _EXACT_FORMATS.items()
    )
    return f"SELECT {settings}"


def write_exactly(connection: Connection) -> None:
    """Make the transaction format values as text that reads back as exactly the same value.

    This is the default of the pipeline's sessions, but behind a pooler others may have changed it.
    """
    connection.execute(text(exact_formats(transaction_only=True)))


def read_lines(connection: Connection, table: str, pieces: Iterable[bytes]) -> None:
    """Read JSON lines into a new temporary table with one column, `line`.

    Parameters
    ----------
    table
        Trusted name of the table.
    pieces
        Pieces of a text with one JSON value per line.
    """
    connection.execute(text(f"CREATE TEMPORARY TABLE {table} (line json NOT NULL) ON COMMIT DROP"))
    copy(connection, f"COPY {table} FROM STDIN {_AS_IT_IS}", pieces)


def read_value(connection: Connection, table: str, pieces: Iterable[bytes]) -> None:
    """As `read_lines`, for a single JSON value that may contain line breaks."""
    read_lines(connection, table, chain([_QUOTE], pieces, [_QUOTE, b"\n"]))


def insert_rows(connection: Connection, table: str, source: str) -> None:
    """Insert rows from their JSON, in the caller's transaction.

    Columns that are missing in rows of an earlier revision get their default.

    Parameters
    ----------
    table
        Trusted name of the table.
    source
        Trusted SQL query; its column `line` contains JSON objects with the same keys.
    """
    names = connection.execute(text(_KEYS.format(source=source))).scalar()
    if names is None:
        return
    columns = connection.execute(_COLUMNS, {"table": table, "names": names}).scalar_one()
    connection.execute(
        text(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM "
            f"({source}) AS lines, json_populate_record(NULL::{table}, line) AS filled"
        )
    )


def reserve_ids(connection: Connection, table: str, largest: int) -> None:
    """Advance an identity column beyond `largest`.

    If it must advance, the table is locked against other writers until the end of the transaction: call this
    before anything else in the transaction.
    """
    if connection.execute(_LAST_ID, {"table": table}).scalar_one() < largest:
        connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
        connection.execute(_MOVE_ON, {"table": table, "largest": largest})
