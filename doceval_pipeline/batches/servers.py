"""What a server must be before anything is stored on it: version, encoding, writable, and not shared.

A pooler in transaction or statement mode hands the session of a connection to somebody else after each
transaction. The locks of the pipeline are held by sessions: they would stay with a stranger.
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
# Of a pooler that has no session left, which would let a connection wait for minutes.
SECONDS_TO_ANSWER = 10.0
# Other clients of a pooler may take the session that would have given it away.
ROUNDS = 3
Connect = Callable[..., Any]

# A role, or a URL, may be read-only on purpose: a reader needs no more.
_FACTS = """
    SELECT current_setting('server_encoding'), pg_is_in_recovery(),
           current_setting('default_transaction_read_only') = 'on' AND EXISTS (
               SELECT FROM pg_settings WHERE name = 'default_transaction_read_only'
               AND source NOT IN ('user', 'database user', 'client', 'session')),
           pg_backend_pid()
"""
_SESSION = "SELECT pg_backend_pid()"
_SESSION_OF_A_TRANSACTION = f"BEGIN; {_SESSION}"
_USE_SESSIONS = "use pool_mode = session, or a URL that goes to PostgreSQL itself"


def require_usable(connect: Connect, place: str) -> None:
    """Refuse a server or database that the pipeline would fail on later.

    Parameters
    ----------
    connect
        Opens a connection of psycopg2; takes further arguments of `psycopg2.connect`.
    place
        The variable and the database, as the refusal begins.

    Raises
    ------
    DatabaseError
        One line. Of a pooler it takes up to `SECONDS_TO_ANSWER`.
    psycopg2.Error
        It cannot be reached.
    """
    with closing(connect()) as connection:
        connection.autocommit = True
        if connection.server_version < OLDEST_SERVER:
            raise DatabaseError(
                f"{place}: the server is PostgreSQL {connection.server_version // 10_000}: use 13 or newer"
            )
        encoding, is_replica, is_read_only, session = _ask(connection, _FACTS)
        if encoding != "UTF8":
            raise DatabaseError(f"{place} is encoded in {encoding}: create one with ENCODING 'UTF8'")
        if is_replica:
            raise DatabaseError(f"{place} is on a replica, which cannot be written: name the primary server")
        if is_read_only:
            raise DatabaseError(
                f"{place} is read-only (default_transaction_read_only is on): turn it off, or name a server "
                "that can be written"
            )
        # A pooler makes up the number of the session that it tells with the connection.
        if session != connection.info.backend_pid:
            _require_own_sessions(connection, connect, place)


def _require_own_sessions(first: Any, connect: Connect, place: str) -> None:
    """Refuse a pooler whose sessions two connections share."""
    try:
        with closing(connect(async_=True)) as second:
            _await(second)
            for _ in range(ROUNDS):
                if _is_shared(first, second):
                    raise DatabaseError(
                        f"{place} is behind a connection pooler in transaction mode, which would leave the "
                        f"pipeline's locks to strangers: {_USE_SESSIONS}"
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
    """Whether the first connection's session changes, or is the second's, while that is in a transaction."""
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
    """Let an asynchronous connection do what it was asked for.

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
