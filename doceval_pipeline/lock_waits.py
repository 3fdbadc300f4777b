"""Limits the time that statements wait for locks, and names the sessions that hold them.

Any role that may connect can hold locks: row locks by leaving a transaction open, table locks by reading the
tables, and advisory locks by their numbers. No statement of the pipeline waits for them indefinitely.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.names import printable

SECONDS_TO_WAIT = 20
# Sessions that are still in the same transaction after this time count as blocking.
SECONDS_BETWEEN_QUERIES = 0.5
SHOWN = 3
LOCK_NOT_AVAILABLE = "55P03"

# A condition on a row `l` of pg_locks.
HELD_HERE = "l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
# Conditions on a session `a`: its login has the rights for the work that the lock protects.
MAY_WRITE_BATCHES = "has_table_privilege(a.usesysid, 'batches', 'UPDATE')"
MAY_MIGRATE = "has_schema_privilege(a.usesysid, current_schema(), 'CREATE')"
_LOCKS = "pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
_HOLDER = """
    SELECT l.pid, l.virtualtransaction AS transaction, a.usename AS role, a.application_name AS program,
           a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::float AS seconds
"""
# Reading a table blocks only changes of its definition.
_HOLDERS = text(f"""
    {_HOLDER}, array_agg(DISTINCT c.relname::text) AS tables
    FROM {_LOCKS} JOIN pg_class c ON c.oid = l.relation
    WHERE {HELD_HERE} AND l.locktype = 'relation' AND l.pid <> pg_backend_pid()
      AND c.relkind IN ('r', 'p') AND c.relnamespace = CAST(current_schema() AS regnamespace)
      AND (:definitions OR l.mode <> 'AccessShareLock')
    GROUP BY l.pid, l.virtualtransaction, a.usename, a.application_name, a.state, a.xact_start
    ORDER BY bool_or(strpos(:statement, c.relname) > 0) DESC, a.xact_start, l.pid
""")

_IS_THE_LOCK = "l.classid = CAST(:high AS oid) AND l.objid = CAST(:low AS oid) AND l.objsubid = :parts"


def untrusted_holders_of(trusted: str, which: str) -> TextClause:
    """A query for untrusted sessions that hold advisory locks, with the columns of `LockHolder`.

    Parameters
    ----------
    trusted
        SQL condition on a session `a`: it may hold the locks.
    which
        SQL condition on a row `l` of pg_locks that selects the locks.
    """
    return text(f"""
        {_HOLDER}
        FROM {_LOCKS}
        WHERE {HELD_HERE} AND l.locktype = 'advisory' AND l.pid <> pg_backend_pid()
          AND NOT {trusted} AND {which}
        ORDER BY a.xact_start, l.pid
    """)


def held_numbers(lock_class: int) -> str:
    """A query for the second numbers of all advisory locks of a class that the pipeline holds.

    Locks of untrusted sessions do not count.
    """
    return f"""
        SELECT CAST(l.objid AS bigint)
        FROM {_LOCKS}
        WHERE {HELD_HERE} AND l.locktype = 'advisory' AND l.objsubid = 2
          AND l.classid = CAST({lock_class} AS oid) AND {MAY_WRITE_BATCHES}
    """


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session in a transaction; `state` and `seconds` are None unless this role may see them."""

    pid: int
    transaction: str
    role: str | None
    program: str | None
    state: str | None
    seconds: float | None
    tables: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """Role, process, duration of the transaction, and the tables that it has used."""
        program = f", {printable(self.program)}" if self.program else ""
        since = "" if self.seconds is None else f", {self.state} for {self.seconds:,.0f} s"
        more = " …" if len(self.tables) > SHOWN else ""
        tables = f", in {printable(', '.join(self.tables[:SHOWN]))}{more}" if self.tables else ""
        return f"role {printable(str(self.role))} (pid {self.pid}{program}{since}{tables})"


@dataclass(frozen=True, slots=True)
class AdvisoryLock:
    """An advisory lock by its number, or its two numbers."""

    first: int
    second: int | None = None

    @property
    def arguments(self) -> str:
        """Arguments for PostgreSQL's lock functions."""
        return f"{self.first}" if self.second is None else f"{self.first}, {self.second}"

    @property
    def in_pg_locks(self) -> dict[str, int]:
        """Query parameters that find it in pg_locks."""
        if self.second is None:
            return {"high": self.first >> 32, "low": self.first & 0xFFFFFFFF, "parts": 1}
        return {"high": self.first, "low": self.second, "parts": 2}


# How the server finds out that the machine of a client is gone; PostgreSQL's default takes two hours. Without
# effect on sockets of one machine.
_KEEPALIVES = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


def session_limits(server_version: int) -> str:
    """A statement that limits lock waits of a session to `SECONDS_TO_WAIT` and allows it to be idle.

    The server ends the session, and with it its locks, half a minute after the client's machine is gone.
    """
    names = ["idle_in_transaction_session_timeout"]
    names += ["idle_session_timeout"] if server_version >= 140_000 else []
    names += ["transaction_timeout"] if server_version >= 170_000 else []
    settings = dict.fromkeys(names, "0") | {"lock_timeout": f"{SECONDS_TO_WAIT}s", **_KEEPALIVES}
    return "SELECT " + ", ".join(
        f"set_config('{name}', '{value}', false)" for name, value in settings.items()
    )


def wait_at_most(connection: Connection, seconds: float) -> None:
    """Limit how long statements of this transaction wait for a lock."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(seconds * 1000)}")


def is_lock_timeout(error: DBAPIError) -> bool:
    """Whether a statement timed out while it waited for a lock."""
    return getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE


def name_holders(engine: Engine) -> None:
    """Add a note with the lock holders to errors of statements that timed out waiting for a lock."""
    event.listen(engine, "handle_error", _add_note)


def holder_note(error: BaseException | None) -> str:
    """The note of `name_holders` on an error of the driver, or a general sentence."""
    notes: Sequence[str] = getattr(error, "__notes__", ())
    return notes[-1] if notes else "another session holds a lock: end its transaction, then try again"


def holders_sentence(holders: Sequence[LockHolder], candidates: int | None = None) -> str:
    """The sessions that hold a lock, and what to do, as one sentence.

    With several `candidates` it suggests ending none of them, because some may not hold the lock.
    """
    if not holders:
        return "the session that held the lock is gone: try again"
    named = ", ".join(holder.sentence for holder in holders[:SHOWN])
    if max(candidates or 1, len(holders)) == 1:
        return (
            f"a lock is held by {named}: end its transaction, or end the session with "
            f"SELECT pg_terminate_backend({holders[0].pid}), then try again"
        )
    if len(holders) == 1:
        return f"the lock may be held by {named}: try again, and if it still fails, end its transaction"
    more = f" and {len(holders) - SHOWN:,} more" if len(holders) > SHOWN else ""
    return (
        f"at least one of these sessions holds the lock: {named}{more}: let them end their transactions, "
        "then try again"
    )


def take_advisory_lock(
    connection: Connection, lock: AdvisoryLock, trusted: str, what: str, *, for_session: bool = False
) -> None:
    """Take an advisory lock in the caller's transaction; waits for trusted holders.

    Parameters
    ----------
    trusted
        SQL condition on a session `a` of pg_stat_activity: it may hold the lock indefinitely.
    what
        The locked thing, for the error message.
    for_session
        Keep the lock after the end of the transaction.

    Raises
    ------
    DatabaseError
        An untrusted session holds it.
    """
    kind = "advisory_lock" if for_session else "advisory_xact_lock"
    if connection.exec_driver_sql(f"SELECT pg_try_{kind}({lock.arguments})").scalar():
        return
    query = untrusted_holders_of(trusted, _IS_THE_LOCK)
    while True:
        if holders := lock_holders(connection, query, lock.in_pg_locks):
            raise DatabaseError(f"{what} cannot be locked: {holders_sentence(holders)}")
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"SELECT pg_{kind}({lock.arguments})")
            return
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise


def lock_holders(
    connection: Connection, query: TextClause, parameters: Mapping[str, Any]
) -> list[LockHolder]:
    """The sessions that a query returns, such as that of `untrusted_holders_of`."""
    return [LockHolder(**row._mapping) for row in connection.execute(query, parameters)]


def find_holders(engine: Engine, statement: str) -> tuple[list[LockHolder], int]:
    """The sessions that may block a statement with a lock on any of our tables, likely ones first.

    Also returns their number half a second earlier; only sessions that are still there are returned.
    """
    definitions = (
        not statement.lstrip()
        .upper()
        .startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "LOCK", "COPY"))
    )
    parameters = {"statement": statement, "definitions": definitions}
    with engine.connect() as connection:
        before = {(h.pid, h.transaction) for h in lock_holders(connection, _HOLDERS, parameters)}
        if not before:
            return [], 0
        connection.commit()
        time.sleep(SECONDS_BETWEEN_QUERIES)
        now = lock_holders(connection, _HOLDERS, parameters)
    return [holder for holder in now if (holder.pid, holder.transaction) in before], len(before)


def _add_note(context: ExceptionContext) -> None:
    error: Any = context.original_exception
    if context.engine is None or getattr(error, "pgcode", None) != LOCK_NOT_AVAILABLE:
        return
    try:
        holders, candidates = find_holders(context.engine, context.statement or "")
    except SQLAlchemyError:
        # The original error is reported in any case.
        return
    error.add_note(f"database {context.engine.url.database}: {holders_sentence(holders, candidates)}")
