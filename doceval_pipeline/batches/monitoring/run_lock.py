"""Holds the advisory lock of a run in the run's process, which shows that the run is alive."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.runs.live import find_row_id, register_run, unregister_run

# A lock that was lost with its connection is taken again within this time.
SECONDS_BETWEEN_BEATS = 5.0
# How long a finished run waits for a server that does not answer.
SECONDS_TO_END = 15.0


@contextmanager
def alive(databases: Databases, run_id: str, batch_id: int | None) -> Iterator[None]:
    """Hold the lock of a run, on a separate connection to doc_eval, until its work is done.

    An unreachable database does not stop the run; the lock is taken once the database answers.
    """
    pulse = _Pulse(databases, run_id, batch_id)
    thread = Thread(target=pulse.beat, name=f"alive-{run_id[:8]}", daemon=True)
    pulse.take()
    thread.start()
    try:
        yield
    finally:
        pulse.ended.set()
        thread.join(SECONDS_TO_END)
        if not thread.is_alive():
            pulse.release()


class _Pulse:
    """The connection that holds the lock; used by one thread at a time."""

    def __init__(self, databases: Databases, run_id: str, batch_id: int | None) -> None:
        self._databases = databases
        self._run_id = run_id
        self._batch_id = batch_id
        self._connection: Connection | None = None
        self._row: int | None = None
        self.ended = Event()

    def take(self) -> None:
        """Take the lock unless it is held; a failure is retried at the next beat."""
        try:
            if self._connection is None:
                self._connection, self._row = self._connect(), None
            if self._row is None or find_row_id(self._connection, self._run_id) != self._row:
                process = f"{socket.gethostname()}:{os.getpid()}"
                self._row = register_run(self._connection, self._run_id, self._batch_id, process)
        except SQLAlchemyError:
            self._close()

    def beat(self) -> None:
        """Take the lock again whenever it was lost, until the work is done."""
        while not self.ended.wait(SECONDS_BETWEEN_BEATS):
            self.take()

    def release(self) -> None:
        """End the session that holds the lock."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                unregister_run(self._connection, self._run_id)
        self._close()

    def _connect(self) -> Connection:
        connection = self._databases.doc_eval.connect().execution_options(isolation_level="AUTOCOMMIT")
        # Detached from the pool, whose connections the work needs.
        connection.detach()
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None
