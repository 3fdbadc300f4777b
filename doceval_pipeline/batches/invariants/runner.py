"""Runs the queries of invariants, read-only and in bounded memory.

The two databases may be on two servers. For an invariant about both, the rows of one database are
streamed and passed to the query in the other, one portion at a time. Nothing is locked or written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Row, TextClause, make_url
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, Databases
from doceval_pipeline.batches.invariants.invariant import Database, Invariant, Scope
from doceval_pipeline.embedded.server import EmbeddedServer

# Rows that are passed to the other database in one statement.
PORTION = 50_000
# Violations that are fetched at a time.
_FETCHED = 1_000
_CONNECTION_SETTINGS = {Database.DOC_EVAL: DOC_EVAL, Database.KNOWLEDGE: KNOWLEDGE}


@dataclass(frozen=True)
class ReadOnlyConnections:
    """A read-only connection to each database of an installation."""

    databases: Databases
    doc_eval: Connection
    knowledge: Connection

    @contextmanager
    def transaction(self, database: Database) -> Iterator[Connection]:
        """A transaction in one database. Keep it short: schema changes wait for it."""
        connection = self.doc_eval if database is Database.DOC_EVAL else self.knowledge
        with connection.begin():
            # Every cursor is read to its end, so the planner must not optimise for the first rows.
            connection.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1")
            yield connection


@contextmanager
def read_only(databases: Databases) -> Iterator[ReadOnlyConnections]:
    """Connects to both databases read-only."""
    options = {"isolation_level": "READ COMMITTED", "postgresql_readonly": True}
    with (
        databases.doc_eval.execution_options(**options).connect() as doc_eval,
        databases.knowledge.execution_options(**options).connect() as knowledge,
    ):
        yield ReadOnlyConnections(databases, doc_eval, knowledge)


@dataclass(frozen=True)
class Violation:
    """One violation of an invariant: its batch (None for the installation), subject, problem and fix."""

    batch_id: int | None
    subject: str
    problem: str
    fix: str


def violations_of(
    connections: ReadOnlyConnections,
    invariant: Invariant,
    scope: Scope,
    on_portion: Callable[[int], None] = lambda rows: None,
) -> Iterator[Violation]:
    """Violations of an invariant, ordered by batch.

    Parameters
    ----------
    on_portion
        Called with the number of rows of each portion that one database passes to the other.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
    """
    for database in invariant.runs_in:
        for row in _rows(connections, invariant, database, scope, on_portion):
            problem = (
                row["problem"]
                if invariant.inspect is None
                else invariant.inspect(connections.databases, row, scope)
            )
            if problem is not None:
                yield Violation(row["batch_id"], row["subject"], problem, invariant.fix.format_map(row))


def _rows(
    connections: ReadOnlyConnections,
    invariant: Invariant,
    database: Database,
    scope: Scope,
    on_portion: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    parameters = {"batch": scope.batch, "sample": scope.sample, "seed": scope.seed}
    parameters |= _installation(connections.databases, database)
    with connections.transaction(database) as connection:
        if invariant.input_query is None:
            yield from _stream(connection, invariant.query, parameters)
            return
        with connections.transaction(database.other) as other:
            for portion in _portions(other, invariant.input_query, parameters):
                on_portion(len(portion))
                if invariant.bisect_on is None:
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
    """Violations of a portion that the server rejects as a whole because of one unreadable row."""
    try:
        with connection.begin_nested():
            rows = connection.execute(invariant.query, parameters | _as_arrays(portion))
            return [row._asdict() for row in rows]
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != invariant.bisect_on:
            raise
    if len(portion) == 1:
        row = portion[0]
        return [
            {
                "batch_id": row.batch_id,
                "subject": f"docs.id {row.document_id}",
                "problem": "the content is not base64",
            }
        ]
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
    """An array of integers in PostgreSQL's text form, which it parses faster than a list of expressions."""
    if all(type(value) is int for value in column):
        return f"{{{','.join(map(str, column))}}}"
    return list(column)


def _installation(databases: Databases, database: Database) -> dict[str, Any]:
    variable, _, name = _CONNECTION_SETTINGS[database]
    # The embedded server has a single user, and only that user can reach it.
    embedded = make_url(EmbeddedServer(databases.settings.home).url(name))
    engine = databases.doc_eval if database is Database.DOC_EVAL else databases.knowledge
    return {"variable": variable, "embedded": _address_of(engine.url) == _address_of(embedded)}


def _address_of(url: URL) -> tuple[object, object]:
    """The host of a URL, which is a folder for a socket; the URL may come in several spellings."""
    return url.host, url.query.get("host")
