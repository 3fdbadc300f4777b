"""Rows on their way out of a table of one revision and into the same table of a later one.

A row travels as the JSON that PostgreSQL itself makes of it, so that nothing is lost: microseconds,
floating point, any text. What rows belong together is the business of whoever moves them.
"""

from collections.abc import Iterable
from itertools import chain

from sqlalchemy import Connection, text

from doceval_pipeline.migrations.copying import copy

# JSON holds no control characters, so that these are never part of it.
_AS_IT_IS = r"(FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')"
_QUOTE = b"\x01"
_KEYS = """
    SELECT array_agg(key)
    FROM (SELECT line FROM ({source}) AS lines LIMIT 1) AS first, json_object_keys(line) AS key
"""

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
_MOVE_ON = text("SELECT advance_numbers(:table, :largest)")


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


def read_lines(connection: Connection, table: str, pieces: Iterable[bytes]) -> None:
    """Read JSON into a new table of the transaction, which has one column: `line`.

    Parameters
    ----------
    table
        A name from our own code.
    pieces
        Of a text with one JSON value a line.
    """
    connection.execute(text(f"CREATE TEMPORARY TABLE {table} (line json NOT NULL) ON COMMIT DROP"))
    copy(connection, f"COPY {table} FROM STDIN {_AS_IT_IS}", pieces)


def read_value(connection: Connection, table: str, pieces: Iterable[bytes]) -> None:
    """The same as `read_lines` for one JSON value that may have line breaks in it."""
    read_lines(connection, table, chain([_QUOTE], pieces, [_QUOTE, b"\n"]))


def insert_rows(connection: Connection, table: str, source: str) -> None:
    """Insert rows from their JSON, in the caller's transaction.

    A column that a row of an earlier revision does not have gets its default.

    Parameters
    ----------
    table
        A name from our own code.
    source
        Of our own code too: an SQL query whose column `line` holds JSON objects of the same keys.
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
    """Move an identity column past an id that comes from elsewhere.

    Locks the table against other writers until the transaction ends, where it must move: call it
    before anything else in the transaction.
    """
    if connection.execute(_LAST_ID, {"table": table}).scalar_one() < largest:
        connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
        connection.execute(_MOVE_ON, {"table": table, "largest": largest})
