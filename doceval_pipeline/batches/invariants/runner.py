"""Asks the databases whether an invariant holds, read-only and in bounded memory.

Where an invariant is about both databases, which may be on two servers, the rows of one are read in a
stream and handed to the query in the other, a portion at a time. Nothing is locked and nothing written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, TextClause, make_url
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, Databases
from doceval_pipeline.batches.invariants.invariant import Invariant, Scope, Side
from doceval_pipeline.embedded.server import EmbeddedServer

# Rows that are handed over in one statement.
PORTION = 50_000
# Offences that are fetched at a time.
_FETCHED = 1_000
_NAMES = {Side.DOC_EVAL: DOC_EVAL, Side.KNOWLEDGE: KNOWLEDGE}


@dataclass(frozen=True)
class Reading:
    """A connection to each database of an installation, which can change nothing in it."""

    databases: Databases
    doc_eval: Connection
    knowledge: Connection

    @contextmanager
    def transaction(self, side: Side) -> Iterator[Connection]:
        """A transaction in one of them; short ones, so that nobody who changes a schema waits for long."""
        connection = self.doc_eval if side is Side.DOC_EVAL else self.knowledge
        with connection.begin():
            # What is read through a cursor is read to its end, and not as if the beginning were enough.
            connection.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1")
            yield connection


@contextmanager
def reading(databases: Databases) -> Iterator[Reading]:
    """Connect to both databases for reading alone."""
    options = {"isolation_level": "READ COMMITTED", "postgresql_readonly": True}
    with (
        databases.doc_eval.execution_options(**options).connect() as doc_eval,
        databases.knowledge.execution_options(**options).connect() as knowledge,
    ):
        yield Reading(databases, doc_eval, knowledge)


@dataclass(frozen=True)
class Offence:
    """Something that must not be: of which batch, if of one, what it is, what is wrong, what to do."""

    batch_id: int | None
    thing: str
    wrong: str
    mend: str


def offences(
    reading: Reading,
    invariant: Invariant,
    scope: Scope,
    handed: Callable[[int], None] = lambda rows: None,
) -> Iterator[Offence]:
    """What offends against an invariant, by batch.

    Parameters
    ----------
    handed
        Told how many rows each portion has that one database hands to the other.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
    """
    for side in invariant.runs_in:
        for row in _rows(reading, invariant, side, scope, handed):
            wrong = (
                row["wrong"] if invariant.judge is None else invariant.judge(reading.databases, row, scope)
            )
            if wrong is not None:
                yield Offence(row["batch_id"], row["thing"], wrong, invariant.mend.format_map(row))


def _rows(
    reading: Reading, invariant: Invariant, side: Side, scope: Scope, handed: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    parameters = {"batch": scope.batch, "sample": scope.sample, "seed": scope.seed}
    parameters |= _installation(reading.databases, side)
    with reading.transaction(side) as connection:
        if invariant.handed is None:
            yield from _stream(connection, invariant.query, parameters)
            return
        with reading.transaction(side.other) as other:
            for portion in _portions(other, invariant.handed, parameters):
                handed(len(portion))
                if invariant.halves_on is None:
                    yield from _stream(connection, invariant.query, parameters | _as_arrays(portion))
                else:
                    yield from _in_halves(connection, invariant, portion, parameters)


def _stream(
    connection: Connection, query: TextClause, parameters: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for row in connection.execute(query, parameters, execution_options={"yield_per": _FETCHED}):
        yield row._asdict()


def _portions(
    connection: Connection, query: TextClause, parameters: dict[str, Any]
) -> Iterator[Sequence[Row[Any]]]:
    rows = connection.execute(query, parameters, execution_options={"yield_per": PORTION})
    yield from rows.partitions(PORTION)


def _in_halves(
    connection: Connection, invariant: Invariant, portion: Sequence[Row[Any]], parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """The offences of a portion that the server refuses as a whole where one of its rows is unreadable."""
    try:
        with connection.begin_nested():
            rows = connection.execute(invariant.query, parameters | _as_arrays(portion))
            return [row._asdict() for row in rows]
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != invariant.halves_on:
            raise
    if len(portion) == 1:
        batch_id, number = portion[0][:2]
        return [{"batch_id": batch_id, "thing": f"docs.id {number}", "wrong": "the content is no base64"}]
    half = len(portion) // 2
    return [
        *_in_halves(connection, invariant, portion[:half], parameters),
        *_in_halves(connection, invariant, portion[half:], parameters),
    ]


def _as_arrays(portion: Sequence[Row[Any]]) -> dict[str, Any]:
    names = list(portion[0]._fields)
    columns = dict(zip(names, zip(*portion, strict=True), strict=True))
    ends = {f"{end}_{name}": columns[name][at] for name in names for end, at in (("first", 0), ("last", -1))}
    return {name: _as_array(column) for name, column in columns.items()} | ends


def _as_array(column: Sequence[Any]) -> Any:
    """An array of numbers as PostgreSQL writes it, which it reads faster than a list of expressions."""
    if all(type(value) is int for value in column):
        return f"{{{','.join(map(str, column))}}}"
    return list(column)


def _installation(databases: Databases, side: Side) -> dict[str, Any]:
    variable, _, name = _NAMES[side]
    # The embedded server has one user, and nobody else can reach it.
    embedded = make_url(EmbeddedServer(databases.settings.home).url(name))
    engine = databases.doc_eval if side is Side.DOC_EVAL else databases.knowledge
    return {"variable": variable, "embedded": engine.url == embedded}
