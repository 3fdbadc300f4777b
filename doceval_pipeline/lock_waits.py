"""Waiting for locks that others hold: for how long, and who they are.

Any role that may connect can hold locks: of rows by a transaction that it leaves open, of tables by having
read them, and advisory ones by their numbers. No statement of the pipeline waits for them for ever.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.names import printable

SECONDS_TO_WAIT = 20
# Who is still in the same transaction after this time is not just doing its work.
SECONDS_BETWEEN_LOOKS = 0.5
SHOWN = 3
LOCK_NOT_AVAILABLE = "55P03"

_HOLDER = """
    l.pid, l.virtualtransaction, a.usename, a.application_name, a.state,
    extract(epoch FROM clock_timestamp() - a.xact_start)::float
"""
_HERE = "l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
# Reading a table keeps nobody from anything but changing its definition.
_HOLDERS = text(f"""
    SELECT DISTINCT {_HOLDER}
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_class c ON c.oid = l.relation
    WHERE {_HERE} AND l.locktype = 'relation' AND l.pid <> pg_backend_pid()
      AND c.relkind IN ('r', 'p') AND c.relnamespace = CAST(current_schema() AS regnamespace)
      AND (:any OR l.mode <> 'AccessShareLock') AND (:any OR strpos(:statement, c.relname) > 0)
    ORDER BY 6 DESC NULLS LAST, 1
""")
_STRANGERS = f"""
    SELECT {_HOLDER}
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE {_HERE} AND l.locktype = 'advisory' AND l.classid = CAST(:high AS oid)
      AND l.objid = CAST(:low AS oid) AND l.objsubid = :parts AND l.pid <> pg_backend_pid()
      AND NOT {{trusted}}
    ORDER BY 6 DESC NULLS LAST, 1
"""
# Conditions on a session `a`: its login may do the work for which the lock is held.
MAY_WRITE_BATCHES = "has_table_privilege(a.usesysid, 'batches', 'UPDATE')"
MAY_MIGRATE = "has_schema_privilege(a.usesysid, current_schema(), 'CREATE')"
# A condition on a row `l` of pg_locks: no stranger who took the same number.
IS_OF_THE_PIPELINE = f"""
    EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.pid = l.pid AND {MAY_WRITE_BATCHES})
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

    @property
    def sentence(self) -> str:
        """Who it is, since when, and what ends it."""
        program = f", {printable(self.program)}" if self.program else ""
        since = "" if self.seconds is None else f", {self.state} for {self.seconds:,.0f} s"
        return f"role {printable(str(self.role))} (pid {self.pid}{program}{since})"


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


def described(found: Sequence[Holder]) -> str:
    """Who holds a lock, and what to do, as a sentence."""
    if not found:
        return "whoever held a lock that is needed is gone by now: ask again"
    named = ", ".join(holder.sentence for holder in found[:SHOWN])
    return (
        f"a lock is held by {named}: let it end its transaction, or end it with "
        f"SELECT pg_terminate_backend({found[0].pid}), then ask again"
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
    while True:
        strangers = connection.execute(text(_STRANGERS.format(trusted=trusted)), lock.in_pg_locks).all()
        if strangers:
            raise DatabaseError(f"{what} cannot be locked: {described([Holder(*row) for row in strangers])}")
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"SELECT pg_{kind}({lock.arguments})")
            return
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise


def find_holders(engine: Engine, statement: str) -> list[Holder]:
    """The sessions that keep a lock on tables which a statement names, or, if none, on any of ours."""
    changes_definitions = (
        not statement.lstrip()
        .upper()
        .startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "LOCK", "COPY"))
    )
    with engine.connect() as connection:
        for any_table in (True,) if changes_definitions else (False, True):
            parameters = {"statement": statement, "any": any_table}
            before = {(row[0], row[1]) for row in connection.execute(_HOLDERS, parameters)}
            if not before:
                continue
            connection.commit()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            found = [Holder(*row) for row in connection.execute(_HOLDERS, parameters)]
            return [holder for holder in found if (holder.pid, holder.transaction) in before]
    return []


def _add_note(context: ExceptionContext) -> None:
    error: Any = context.original_exception
    if context.engine is None or getattr(error, "pgcode", None) != LOCK_NOT_AVAILABLE:
        return
    try:
        error.add_note(described(find_holders(context.engine, context.statement or "")))
    except SQLAlchemyError:
        # The error itself is told all the same.
        return
