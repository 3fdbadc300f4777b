"""The storage classes that `dagster.yaml` selects: PostgreSQL, and the folder of artifacts.

Both take their location from doceval's settings, so that plain Dagster commands need no variables. Dagster's
own storage opens a connection for each event and each query, about 160 in a run that stages a batch, which
took half of the run's time.
"""

import os
import select
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
import psycopg2
from dagster import EventLogEntry
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    SqlEventLogStorageMetadata,
    SqlEventLogStorageTable,
)
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config, retry_pg_connection_fn
from sqlalchemy import Dialect, Engine, event, inspect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from doceval_pipeline.batches.databases import DAGSTER, database_url, require_dagster_database
from doceval_pipeline.embedded.engines import guard
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import Settings

# If these exist, Dagster does not have to create tables.
MAIN_TABLES = {"event_logs", "instance_info", "jobs", "runs"}
KEPT_CONNECTIONS = 3
# A connection that was used this long ago may have been dropped on the way without a word.
SECONDS_TRUSTED = 10.0
LAST_USE = "last use"
_engines: "weakref.WeakValueDictionary[str, Engine]" = weakref.WeakValueDictionary()


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` with a connection pool that all instances in a process share.

    Threads that need more connections at the same time open them and close them afterwards. Connections that
    the server closed are reopened, and a forked process opens its own.
    """

    def __init__(
        self,
        postgres_url: str,
        *,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        engine = _engine(postgres_url)
        exists = {*retry_pg_connection_fn(lambda: inspect(engine).get_table_names())} >= MAIN_TABLES
        super().__init__(postgres_url, should_autocreate_tables and not exists, inst_data)
        self._event_log_storage = _EventLogStorage(postgres_url, should_autocreate_tables=False)
        if exists:
            cache_catalog_queries(engine)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledPostgresStorage":
        """Create the storage from the block `storage` of dagster.yaml.

        Without a URL in the block, the storage is the installation's own database; if that is on the embedded
        server, the server is started.

        Raises
        ------
        click.ClickException
            The database cannot be reached. Dagster's commands show the message as one line.
        """
        given = config_value.get("postgres_url") or config_value.get("postgres_db")
        url = _given_url(config_value) if given else _own_url()
        return cls(
            url,
            should_autocreate_tables=Settings.from_environment().migrates
            and config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
        )


class HomeArtifactStorage(LocalArtifactStorage):
    """Artifact storage in the installation's home, wherever `dagster.yaml` is."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "HomeArtifactStorage":
        """Create the storage from the block `local_artifact_storage` of dagster.yaml."""
        with _as_click_errors():
            return cls(str(Settings.from_environment().dagster_home), inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """The block accepts no config."""
        return {}


def dagster_tables() -> list[str]:
    """The names of the tables that Dagster creates in its database."""
    storages = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    return ["alembic_version", *(table.name for storage in storages for table in storage.tables.values())]


@contextmanager
def _as_click_errors() -> Iterator[None]:
    """Convert errors to click's, which Dagster's commands show as one line instead of a traceback."""
    try:
        yield
    except DocEvalError as error:
        raise click.ClickException(str(error)) from None


def _given_url(config_value: Mapping[str, Any]) -> str:
    with _as_click_errors():
        # The URL may be the one that `doceval env` exports.
        guard(EmbeddedServer(Settings.from_environment().home))
    return str(pg_url_from_config(config_value))


def _own_url() -> str:
    with _as_click_errors():
        settings = Settings.from_environment()
        url = database_url(settings, DAGSTER)
        if not _answers(url):
            require_dagster_database(settings)
        return url


def _answers(postgres_url: str) -> bool:
    """Whether the database answers on a pooled connection of this process."""
    engine = _engines.get(postgres_url)
    try:
        if engine is not None:
            engine.connect().close()
    except DBAPIError:
        return False
    return engine is not None


def cache_catalog_queries(engine: Engine) -> None:
    """Let an engine cache which tables and columns exist.

    For almost every event, Dagster checks for tables that every release has had for years: a quarter of its
    statements. A process sees what `dagster instance migrate` adds only if it starts afterwards.
    """
    dialect: Any = engine.dialect
    if isinstance(dialect.has_table, _CachedQuery):
        return
    for query in ("has_table", "get_table_names", "get_columns"):
        setattr(dialect, query, _CachedQuery(getattr(dialect, query)))


class _CachedQuery:
    """A cached query of the database's catalog, executed once per table."""

    def __init__(self, query: Callable[..., Any]) -> None:
        self._query = query
        self._results: dict[tuple[Any, ...], Any] = {}

    def __call__(self, connection: Any, *arguments: Any, **options: Any) -> Any:
        """The result, from the database the first time and from the cache afterwards."""
        if arguments not in self._results:
            self._results[arguments] = self._query(connection, *arguments, **options)
        return self._results[arguments]


def _engine(postgres_url: str) -> Engine:
    """The engine of a URL, which lives as long as an instance of this process uses it."""
    engine = _engines.get(postgres_url)
    if engine is None:
        engine = create_pg_engine(
            postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=KEPT_CONNECTIONS,
            max_overflow=-1,
        )
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", partial(_ping_if_doubtful, engine.dialect))
        # Two processes on one connection would read each other's results.
        os.register_at_fork(after_in_child=partial(_drop_connections, weakref.ref(engine)))
        _engines[postgres_url] = engine
    return engine


def _note_use(_: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    record.info[LAST_USE] = time.monotonic()


def _ping_if_doubtful(
    dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection
) -> None:
    """Ping a pooled connection unless it was used just now and the server has not closed it since.

    A ping at each use would be 160 of the 375 statements of a small run. A server that closes a connection
    sends the reason first; an idle connection has nothing to read.

    Raises
    ------
    InvalidatePoolError
        The connection is lost. The others in the pool are as old, so all are opened anew.
    """
    if LAST_USE not in record.info:
        return
    idle = time.monotonic() - record.info[LAST_USE]
    if idle < SECONDS_TRUSTED and not _has_news(connection):
        return
    try:
        dialect.do_ping(connection)
    except psycopg2.Error as error:
        raise InvalidatePoolError from error


def _has_news(connection: Any) -> bool:
    """Whether the server has sent something, or the connection is closed."""
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


class _EventLogStorage(PostgresEventLogStorage):
    """`PostgresEventLogStorage` that stores an event in one transaction, and replaces check evaluations.

    Dagster's own uses up to three transactions for an event, one of them for a notification that no process
    of this release waits for; each flushes the WAL.

    Dagster's table of evaluations is unique by run id, which is the same for all evaluations of sensors:
    without this class, the second evaluation of a batch fails with `duplicate key`, and so does every later
    tick.
    """

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event of a run or of a sensor."""
        details = event.dagster_event
        is_of_asset = details is not None and details.event_type in ASSET_EVENTS and details.asset_key
        with self.index_transaction() if is_of_asset else self.index_connection() as connection:
            inserted = self.prepare_insert_event(event).returning(SqlEventLogStorageTable.c.id)
            event_id: int = connection.execute(inserted).scalar_one()
            if is_of_asset:
                self._store_asset_event_tags(connection, [event], [event_id])
                self._store_asset_event(connection, event, event_id)
        if details is not None and details.event_type in ASSET_CHECK_EVENTS:
            self.store_asset_check_event(event, event_id)

    def _store_runless_asset_check_evaluation(self, event: EventLogEntry, event_id: int | None) -> None:
        # Dagster shows the newest row. The events themselves stay in the event log.
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        table = AssetCheckExecutionsTable.c
        with self.index_connection() as connection:
            connection.execute(
                AssetCheckExecutionsTable.delete().where(
                    table.asset_key == evaluation.asset_key.to_string(),
                    table.check_name == evaluation.check_name,
                    table.run_id == event.run_id,
                    table.partition.is_not_distinct_from(evaluation.partition),
                )
            )
        super()._store_runless_asset_check_evaluation(event, event_id)


def _drop_connections(reference: "weakref.ref[Engine]") -> None:
    """Drop the connections of an engine without closing them: they belong to the parent of this process."""
    engine = reference()
    if engine is not None:
        engine.dispose(close=False)
