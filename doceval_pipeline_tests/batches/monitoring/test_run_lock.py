"""A run's lock lives as long as its process, also when the connection is cut or the process is stopped."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring import run_lock
from doceval_pipeline.batches.monitoring.run_lock import alive
from doceval_pipeline.doc_eval.runs.live import find_dead, known_runs, mark_missing
from doceval_pipeline_tests.cli.running import until

RUN = "11111111-2222-3333-4444-555555555555"
CHILD = f"""
from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.batches.monitoring.run_lock import alive
from doceval_pipeline.settings import Settings
with alive(open_databases(Settings.from_environment()), {RUN!r}, None):
    print("alive", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _fast_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SECONDS_BETWEEN_BEATS", 0.05)


def dead(databases: Databases, seconds: float = 0.0) -> list[str]:
    with databases.doc_eval.begin() as connection:
        return [run.run_id for run in find_dead(connection, [RUN], seconds)]


def row(databases: Databases) -> bool:
    with databases.doc_eval.connect() as connection:
        return known_runs(connection, [RUN]) == {RUN}


@contextmanager
def child() -> Iterator["subprocess.Popen[str]"]:
    """A process that is in a run."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "alive\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_alive_until_it_has_done_its_work(databases: Databases) -> None:
    with alive(databases, RUN, None):
        assert row(databases)
        assert dead(databases) == []
    assert not row(databases)


def test_a_killed_process_counts_as_missing_from_the_next_check_on(databases: Databases) -> None:
    with child() as process:
        assert dead(databases) == []
        process.kill()
        process.wait()
        until(lambda: dead(databases, seconds=3600) == [] and dead(databases) == [RUN])
    assert dead(databases, seconds=3600) == []


def test_a_stopped_process_is_not_missed(databases: Databases) -> None:
    with child() as process:
        psutil.Process(process.pid).suspend()
        assert dead(databases) == []
        assert dead(databases) == []
        psutil.Process(process.pid).resume()


def test_a_lock_that_was_lost_with_its_connection_is_taken_again(databases: Databases) -> None:
    with alive(databases, RUN, None), databases.doc_eval.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_locks WHERE locktype = 'advisory' "
                "AND classid = CAST(:lock_class AS oid)"
            ),
            {"lock_class": 0x646F6372},
        )
        until(lambda: dead(databases) == [] and not missed(databases))


def test_a_deleted_row_is_written_again(databases: Databases) -> None:
    with alive(databases, RUN, None):
        with databases.doc_eval.begin() as connection:
            connection.execute(text("DELETE FROM live_runs"))
        until(lambda: row(databases))
        assert dead(databases) == []


def test_a_run_that_was_never_seen_counts_as_missing_once_it_is_known(databases: Databases) -> None:
    assert dead(databases) == []
    with databases.doc_eval.begin() as connection:
        mark_missing(connection, [RUN])
    dead(databases)
    time.sleep(0.01)
    assert dead(databases) == [RUN]
    with alive(databases, RUN, None):
        assert dead(databases) == []


def test_a_database_that_is_gone_stops_no_run(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("", {}, Exception("gone"))

    monkeypatch.setattr(run_lock, "register_run", refuse)
    with alive(databases, RUN, None):
        assert not row(databases)
        monkeypatch.undo()
        until(lambda: row(databases))


def missed(databases: Databases) -> bool:
    with databases.doc_eval.connect() as connection:
        return bool(connection.scalar(text("SELECT count(missing_since) FROM live_runs")))
