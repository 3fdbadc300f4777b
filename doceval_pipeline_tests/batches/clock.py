"""A database server whose clock a test sets: what statements call now() is a setting of the transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, event, text

from doceval_pipeline.batches.databases import Databases

_CLOCK = """
    CREATE SCHEMA IF NOT EXISTS test_clock;
    CREATE OR REPLACE FUNCTION test_clock.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS $$ SELECT current_setting('test_clock.now')::timestamptz $$;
"""
# A schema that is named before pg_catalog is searched before it.
_SET = text("""
    SELECT set_config('search_path', 'test_clock, pg_catalog, public', true),
           set_config('test_clock.now', :moment, true)
""")


class Clock:
    """The time of doc_eval; it passes only when it is set."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def begin(self, connection: Connection) -> None:
        connection.execute(_SET, {"moment": self.moment.isoformat()})


@contextmanager
def clock_of(databases: Databases, moment: datetime) -> Iterator[Clock]:
    """Set the clock of doc_eval for all transactions of this process and of those that are forked off it.

    Defaults of columns keep the true time.
    """
    with databases.doc_eval.begin() as connection:
        connection.exec_driver_sql(_CLOCK)
    clock = Clock(moment)
    event.listen(databases.doc_eval, "begin", clock.begin)
    try:
        yield clock
    finally:
        event.remove(databases.doc_eval, "begin", clock.begin)
        with databases.doc_eval.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA test_clock CASCADE")
