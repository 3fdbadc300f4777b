"""Requirements of a database server: version, encoding, write access, and a session per connection.

A connection pooler in transaction or statement mode gives the session of a connection to another client after
each transaction. The pipeline's locks belong to sessions, so the other client would then hold them.
"""

import select
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import extensions

from doceval_pipeline.errors import DatabaseError

OLDEST_SERVER = 130_000
# A pooler without a free session would let a connection wait for minutes.
SECONDS_TO_ANSWER = 10.0
# Another client may take the session that would reveal the pooler, so the check is repeated.
ROUNDS = 3
Connect = Callable[..., Any]

# A role or a URL may be read-only on purpose, such as that of a reader.
_FACTS = """
    SELECT current_setting('server_encoding'), pg_is_in_recovery(),
           current_setting('default_transaction_read_only') = 'on' AND EXISTS (
               SELECT FROM pg_settings WHERE name = 'default_transaction_read_only'
               AND source NOT IN ('user', 'database user', 'client', 'session')),
           pg_backend_pid()
"""
_SESSION = "SELECT pg_backend_pid()"
_SESSION_OF_A_TRANSACTION = f"BEGIN; {_SESSION}"
_USE_SESSIONS = "use pool_mode = session, or a URL that connects to PostgreSQL directly"


def require_usable(connect: Connect, place: str) -> None:
    """Refuse a server or database on which the pipeline would fail later.

    Parameters
    ----------
    connect
        Opens a connection of psycopg2; accepts further arguments of `psycopg2.connect`.
    place
        The variable and the database, with which the error begins.

    Raises
    ------
    DatabaseError
        One line; a pooler may take up to `SECONDS_TO_ANSWER`.
    psycopg2.Error
        The server cannot be reached.
    """
    with closing(connect()) as connection:
        connection.autocommit = True
        if connection.server_version < OLDEST_SERVER:
            raise DatabaseError(
                f"{place}: the server is PostgreSQL {connection.server_version // 10_000}: use 13 or newer"
            )
        encoding, is_replica, is_read_only, session = _ask(connection, _FACTS)
        if encoding != "UTF8":
            raise DatabaseError(f"{place} is encoded in {encoding}: create a database with ENCODING 'UTF8'")
        if is_replica:
            raise DatabaseError(f"{place} is on a replica, which is read-only: use the primary server")
        if is_read_only:
            raise DatabaseError(
                f"{place} is read-only (default_transaction_read_only is on): turn it off, or use a "
                "writable server"
            )
        # A pooler invents the session number that it reports for the connection.
        if session != connection.info.backend_pid:
            _require_own_sessions(connection, connect, place)


def _require_own_sessions(first: Any, connect: Connect, place: str) -> None:
    """Refuse a pooler that lets two connections share a session."""
    try:
        with closing(connect(async_=True)) as second:
            _await(second)
            for _ in range(ROUNDS):
                if _is_shared(first, second):
                    raise DatabaseError(
                        f"{place} is behind a connection pooler in transaction mode, which would give the "
                        f"pipeline's locks to other clients: {_USE_SESSIONS}"
                    )
    except TimeoutError:
        raise DatabaseError(
            f"{place} is behind a connection pooler that gave no second session within "
            f"{SECONDS_TO_ANSWER:.0f} s: raise its pool size (20 sessions or more)"
        ) from None
    except psycopg2.Error as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise DatabaseError(
            f"{place} is behind a connection pooler that refuses a transaction ({reason}): {_USE_SESSIONS}"
        ) from None


def _is_shared(first: Any, second: Any) -> bool:
    """Whether the first connection changes or shares its session while the second is in a transaction."""
    before = _ask(first, _SESSION)
    with second.cursor() as cursor:
        cursor.execute(_SESSION_OF_A_TRANSACTION)
        _await(second)
        other = cursor.fetchone()
        shared = bool(before == other or _ask(first, _SESSION) != before)
        cursor.execute("ROLLBACK")
        _await(second)
    return shared


def _ask(connection: Any, question: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone()


def _await(connection: Any) -> None:
    """Wait until an asynchronous connection has finished its operation.

    Raises
    ------
    TimeoutError, psycopg2.Error
    """
    deadline = time.monotonic() + SECONDS_TO_ANSWER
    while (state := connection.poll()) != extensions.POLL_OK:
        descriptors = [connection.fileno()]
        readers, writers = ([], descriptors) if state == extensions.POLL_WRITE else (descriptors, [])
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not any(select.select(readers, writers, [], remaining)):
            raise TimeoutError
