"""Dagster's storage reuses its connections, and reopens those that the server closed."""

import os
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg2
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.pool import Pool

from doceval_pipeline.batches.databases import DAGSTER, database_url
from doceval_pipeline.defs import storage
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.defs.running import run


def test_a_run_opens_few_connections_to_dagsters_database(
    batch_of: Callable[..., Sample], instance: dg.DagsterInstance
) -> None:
    batch = batch_of()
    opened = []

    def remember(connection: Any, *_: Any) -> None:
        if connection.info.dbname == DAGSTER[2]:
            opened.append(connection)

    event.listen(Pool, "connect", remember)
    try:
        assert run(instance, "stage_batch", batch.key).success
    finally:
        event.remove(Pool, "connect", remember)
    # None where another instance of this process has kept one.
    assert len(opened) < 5


def test_an_instance_that_is_opened_again_asks_nothing_anew(
    batch_of: Callable[..., Sample], instance: dg.DagsterInstance
) -> None:
    batch = batch_of()
    # What it asks first it remembers for those after it.
    with dg.DagsterInstance.from_ref(instance.get_ref()) as first:
        assert run(first, "stage_batch", batch.key).success
    connected, asked = [], []

    def remember(connection: Any, *_: Any) -> None:
        if connection.info.dbname == DAGSTER[2]:
            connected.append(connection)

    def listen(connection: Any, _: Any, statement: str, *__: Any) -> None:
        if connection.engine.url.database == DAGSTER[2]:
            asked.append(statement)

    event.listen(Pool, "connect", remember)
    event.listen(Engine, "before_cursor_execute", listen)
    try:
        # As a code server does at each tick of a sensor.
        with dg.DagsterInstance.from_ref(instance.get_ref()) as again:
            assert not asked
            assert run(again, "stage_batch", batch.key).success
    finally:
        event.remove(Pool, "connect", remember)
        event.remove(Engine, "before_cursor_execute", listen)
    assert not connected
    assert asked
    assert not [statement for statement in asked if "pg_catalog" in statement]


def test_connections_that_the_server_closed_are_opened_anew(
    settings: Settings, batch_of: Callable[..., Sample], instance: dg.DagsterInstance
) -> None:
    batch = batch_of()
    assert run(instance, "stage_batch", batch.key).success
    other = psycopg2.connect(database_url(settings, DAGSTER).replace("+psycopg2", ""))
    other.autocommit = True
    with other.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchall()[0][0] >= 2
    other.close()
    assert run(instance, "stage_batch", batch.key).success


def test_a_run_sends_no_notifications_and_pings_only_idle_connections(
    batch_of: Callable[..., Sample], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = batch_of(name="first"), batch_of(name="second")
    statements, pinged = [], []

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def ping(dialect: Any, connection: Any) -> bool:
        if connection.info.dbname == DAGSTER[2]:
            pinged.append(connection)
        return do_ping(dialect, connection)

    do_ping = PGDialect_psycopg2.do_ping
    monkeypatch.setattr(PGDialect_psycopg2, "do_ping", ping)
    monkeypatch.setattr(storage, "SECONDS_TRUSTED", 3600.0)
    event.listen(Engine, "before_cursor_execute", listen)
    try:
        assert run(instance, "stage_batch", first.key).success
        assert not pinged
        monkeypatch.setattr(storage, "SECONDS_TRUSTED", 0.0)
        assert run(instance, "stage_batch", second.key).success
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert pinged
    assert any("INSERT INTO event_logs" in statement for statement in statements)
    assert not [statement for statement in statements if "NOTIFY" in statement]


def test_an_event_of_an_asset_is_stored_completely_or_not_at_all(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stopped

    asset = dg.AssetKey(f"half_stored_{uuid4().hex}")
    monkeypatch.setattr(type(instance.event_log_storage), "_store_asset_event", stop)
    with pytest.raises(Stopped):
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, tags={"part": "first"}))
    monkeypatch.undo()
    other = psycopg2.connect(database_url(settings, DAGSTER).replace("+psycopg2", ""))
    with other.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM event_logs WHERE asset_key = %s", (asset.to_string(),))
        assert cursor.fetchone() == (0,)
    other.close()


def test_a_process_that_is_forked_off_has_connections_of_its_own(instance: dg.DagsterInstance) -> None:
    before = instance.get_runs_count()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            for _ in range(50):
                assert instance.get_runs_count() == before
            os.write(writer, b"done")
        finally:
            os._exit(0)
    os.close(writer)
    # At the same time; on a shared connection one of the two would wait for ever.
    for _ in range(50):
        assert instance.get_runs_count() == before
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"done"
    os.waitpid(child, 0)


def test_the_newest_evaluation_of_a_check_that_no_run_made_is_what_dagster_shows(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    key = dg.AssetCheckKey(dg.AssetKey("llm_responses"), "responses_keep_coming")
    log = settings.home / "logs" / "postgres.log"
    before = log.stat().st_size
    for partition in ("batch-900001", "batch-900002", None):
        for passed in (True, False, True, False):
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=key.asset_key, check_name=key.name, passed=passed, partition=partition
                )
            )
            (newest, *_) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
            assert (newest.status.value, newest.partition) == ("SUCCEEDED" if passed else "FAILED", partition)
    with log.open() as lines:
        lines.seek(before)
        assert "duplicate key" not in lines.read()
