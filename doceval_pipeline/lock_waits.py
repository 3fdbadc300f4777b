"""Waiting for locks that others hold: for how long, and who they are.

Any role that may connect can hold locks: of rows by a transaction that it leaves open, of tables by having
read them, and advisory ones by their numbers. No statement of the pipeline waits for them for ever.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.names import printable

SECONDS_TO_WAIT = 20
# Who is still in the same transaction after this time is not just doing its work.
SECONDS_BETWEEN_LOOKS = 0.5
SHOWN = 3
LOCK_NOT_AVAILABLE = "55P03"

# A condition on a row `l` of pg_locks.
HELD_HERE = "l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
# Conditions on a session `a`: its login may do the work for which the lock is held.
MAY_WRITE_BATCHES = "has_table_privilege(a.usesysid, 'batches', 'UPDATE')"
MAY_MIGRATE = "has_schema_privilege(a.usesysid, current_schema(), 'CREATE')"
_LOCKS = "pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
_HOLDER = """
    SELECT l.pid, l.virtualtransaction, a.usename, a.application_name, a.state,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float
"""
# Reading a table keeps nobody from anything but changing its definition.
_HOLDERS = text(f"""
    {_HOLDER}, array_agg(DISTINCT c.relname::text)
    FROM {_LOCKS} JOIN pg_class c ON c.oid = l.relation
    WHERE {HELD_HERE} AND l.locktype = 'relation' AND l.pid <> pg_backend_pid()
      AND c.relkind IN ('r', 'p') AND c.relnamespace = CAST(current_schema() AS regnamespace)
      AND (:definitions OR l.mode <> 'AccessShareLock')
    GROUP BY l.pid, l.virtualtransaction, a.usename, a.application_name, a.state, a.xact_start
    ORDER BY bool_or(strpos(:statement, c.relname) > 0) DESC, a.xact_start, l.pid
""")

_IS_THE_LOCK = "l.classid = CAST(:high AS oid) AND l.objid = CAST(:low AS oid) AND l.objsubid = :parts"


def strangers(trusted: str, which: str) -> TextClause:
    """A query for sessions, as `Holder` takes them, that hold advisory locks and may not.

    Parameters
    ----------
    trusted
        A condition on a session `a`: it may hold them.
    which
        A condition on a row `l` of pg_locks: such locks are meant.
    """
    return text(f"""
        {_HOLDER}
        FROM {_LOCKS}
        WHERE {HELD_HERE} AND l.locktype = 'advisory' AND l.pid <> pg_backend_pid()
          AND NOT {trusted} AND {which}
        ORDER BY a.xact_start, l.pid
    """)


def held_numbers(lock_class: int) -> str:
    """A query for the second numbers of all advisory locks of a class that sessions of the pipeline hold.

    A stranger who has taken one does not count.
    """
    return f"""
        SELECT CAST(l.objid AS bigint)
        FROM {_LOCKS}
        WHERE {HELD_HERE} AND l.locktype = 'advisory' AND l.objsubid = 2
          AND l.classid = CAST({lock_class} AS oid) AND {MAY_WRITE_BATCHES}
    """


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that is in a transaction; `state` and `seconds` only where this role may see them."""

    pid: int
    transaction: str
    role: str | None
    program: str | None
    state: str | None
    seconds: float | None
    tables: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """Who it is, since when, and the tables that it has used."""
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
        """As PostgreSQL's functions take it."""
        return f"{self.first}" if self.second is None else f"{self.first}, {self.second}"

    @property
    def in_pg_locks(self) -> dict[str, int]:
        """As pg_locks shows it."""
        if self.second is None:
            return {"high": self.first >> 32, "low": self.first & 0xFFFFFFFF, "parts": 1}
        return {"high": self.first, "low": self.second, "parts": 2}


def session_limits(server_version: int) -> str:
    """A statement after which a session waits for locks for `SECONDS_TO_WAIT`, and may itself be idle."""
    names = ["idle_in_transaction_session_timeout"]
    names += ["idle_session_timeout"] if server_version >= 140_000 else []
    names += ["transaction_timeout"] if server_version >= 170_000 else []
    settings = dict.fromkeys(names, "0") | {"lock_timeout": f"{SECONDS_TO_WAIT}s"}
    return "SELECT " + ", ".join(
        f"set_config('{name}', '{value}', false)" for name, value in settings.items()
    )


def wait_at_most(connection: Connection, seconds: float) -> None:
    """Let the statements of this transaction wait so long for a lock."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(seconds * 1000)}")


def is_lock_timeout(error: DBAPIError) -> bool:
    """Whether a statement gave up waiting for a lock."""
    return getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE


def name_holders(engine: Engine) -> None:
    """Let errors of an engine's statements that gave up waiting for a lock carry a note of who holds it."""
    event.listen(engine, "handle_error", _add_note)


def who_holds(error: BaseException | None) -> str:
    """The note of `name_holders` on an error of the driver, as a sentence; also where it has none."""
    notes: Sequence[str] = getattr(error, "__notes__", ())
    return notes[-1] if notes else "another session holds a lock: end its transaction, and ask again"


def described(found: Sequence[Holder], candidates: int | None = None) -> str:
    """Who holds a lock, and what to do, as a sentence.

    Nobody is to be ended where there were several `candidates`, since others of them may be innocent.
    """
    if not found:
        return "whoever held a lock that is needed is gone by now: ask again"
    named = ", ".join(holder.sentence for holder in found[:SHOWN])
    if max(candidates or 1, len(found)) == 1:
        return (
            f"a lock is held by {named}: let it end its transaction, or end it with "
            f"SELECT pg_terminate_backend({found[0].pid}), then ask again"
        )
    if len(found) == 1:
        return f"perhaps {named} holds it: ask again, and then let it end its transaction"
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return (
        f"at least one of these sessions holds it: {named}{more}: let them end their transactions, then "
        "ask again"
    )


def take_advisory_lock(
    connection: Connection, lock: AdvisoryLock, trusted: str, what: str, for_session: bool = False
) -> None:
    """Take an advisory lock in the caller's transaction; waits for whoever is trusted with it.

    Parameters
    ----------
    trusted
        A condition on a session `a` of pg_stat_activity: it may hold the lock for as long as it likes.
    what
        What the lock is of, for the error.
    for_session
        Keep it past the end of the transaction.

    Raises
    ------
    DatabaseError
        Somebody who is not trusted holds it.
    """
    kind = "advisory_lock" if for_session else "advisory_xact_lock"
    if connection.exec_driver_sql(f"SELECT pg_try_{kind}({lock.arguments})").scalar():
        return
    found = strangers(trusted, _IS_THE_LOCK)
    while True:
        if others := [Holder(*row) for row in connection.execute(found, lock.in_pg_locks)]:
            raise DatabaseError(f"{what} cannot be locked: {described(others)}")
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"SELECT pg_{kind}({lock.arguments})")
            return
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise


def find_holders(engine: Engine, statement: str) -> tuple[list[Holder], int]:
    """The sessions that may have kept a statement from a lock on any of our tables, likely ones first.

    Also how many there were half a second ago, of which these are left.
    """
    definitions = (
        not statement.lstrip()
        .upper()
        .startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "LOCK", "COPY"))
    )
    parameters = {"statement": statement, "definitions": definitions}
    with engine.connect() as connection:
        before = {(row[0], row[1]) for row in connection.execute(_HOLDERS, parameters)}
        if not before:
            return [], 0
        connection.commit()
        time.sleep(SECONDS_BETWEEN_LOOKS)
        found = [Holder(*row) for row in connection.execute(_HOLDERS, parameters)]
    return [holder for holder in found if (holder.pid, holder.transaction) in before], len(before)


def _add_note(context: ExceptionContext) -> None:
    error: Any = context.original_exception
    if context.engine is None or getattr(error, "pgcode", None) != LOCK_NOT_AVAILABLE:
        return
    try:
        found, candidates = find_holders(context.engine, context.statement or "")
    except SQLAlchemyError:
        # The error itself is told all the same.
        return
    error.add_note(f"database {context.engine.url.database}: {described(found, candidates)}")
