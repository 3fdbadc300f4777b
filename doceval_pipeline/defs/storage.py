"""What `dagster.yaml` names: Dagster's storage in PostgreSQL, and the folder of its artifacts.

Both find their place by our own settings, so that plain Dagster commands need no variable. Dagster opens a
connection for each event that it writes and each question that it asks, about 160 in a run that stages a
batch. That took half of the run's time.
"""

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
from dagster import EventLogEntry
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageMetadata
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config, retry_pg_connection_fn
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.batches.databases import DAGSTER, database_url, require_dagster_database
from doceval_pipeline.embedded.engines import guard
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import Settings

# Where these exist, Dagster has no table to create.
MAIN_TABLES = {"event_logs", "instance_info", "jobs", "runs"}
KEPT_CONNECTIONS = 3
_engines: "weakref.WeakValueDictionary[str, Engine]" = weakref.WeakValueDictionary()


class PooledPostgresStorage(DagsterPostgresStorage):
    """As `DagsterPostgresStorage`, with kept connections that all instances in a process share.

    More are opened where threads need them at the same time, and closed after. One that the server has closed
    meanwhile is opened anew, and a process that is forked off opens its own.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        engine = _engine(postgres_url)
        exists = {*retry_pg_connection_fn(lambda: inspect(engine).get_table_names())} >= MAIN_TABLES
        super().__init__(postgres_url, should_autocreate_tables and not exists, inst_data)
        self._event_log_storage = _EventLogStorage(postgres_url, should_autocreate_tables=False)
        if exists:
            read_catalogue_once(engine)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledPostgresStorage":
        """What Dagster calls with the block `storage` of dagster.yaml.

        Without a URL in it, the storage is the installation's own database, and its server is started if it
        is the embedded one.

        Raises
        ------
        click.ClickException
            That database cannot be reached. Dagster's commands show it as one line.
        """
        given = config_value.get("postgres_url") or config_value.get("postgres_db")
        url = _given_url(config_value) if given else _own_url()
        return cls(url, config_value.get("should_autocreate_tables", True), inst_data)


class HomeArtifactStorage(LocalArtifactStorage):
    """The folder of artifacts is in the installation's home, wherever `dagster.yaml` was read."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "HomeArtifactStorage":
        """What Dagster calls with the block `local_artifact_storage` of dagster.yaml."""
        with _one_line():
            return cls(str(Settings.from_environment().dagster_home), inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """It takes no config."""
        return {}


def dagster_tables() -> list[str]:
    """Names of the tables that Dagster makes in its database."""
    storages = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    return ["alembic_version", *(table.name for storage in storages for table in storage.tables.values())]


@contextmanager
def _one_line() -> Iterator[None]:
    """Dagster's commands show this error as one line, and any other as a traceback."""
    try:
        yield
    except DocEvalError as error:
        raise click.ClickException(str(error)) from None


def _given_url(config_value: Mapping[str, Any]) -> str:
    with _one_line():
        # It may be the one that `doceval env` exports.
        guard(EmbeddedServer(Settings.from_environment().home))
    return str(pg_url_from_config(config_value))


def _own_url() -> str:
    with _one_line():
        settings = Settings.from_environment()
        url = database_url(settings, DAGSTER)
        if not _answers(url):
            require_dagster_database(settings)
        return url


def _answers(postgres_url: str) -> bool:
    """Whether the database answers on a connection that an instance of this process has kept."""
    engine = _engines.get(postgres_url)
    try:
        if engine is not None:
            engine.connect().close()
    except DBAPIError:
        return False
    return engine is not None


def read_catalogue_once(engine: Engine) -> None:
    """Let an engine remember which tables and columns exist.

    Dagster asks at almost each event whether tables exist that all releases have had for years, which is a
    quarter of its statements. What `dagster instance migrate` adds is seen by processes that start after it.
    """
    dialect: Any = engine.dialect
    if isinstance(dialect.has_table, _Remembered):
        return
    for question in ("has_table", "get_table_names", "get_columns"):
        setattr(dialect, question, _Remembered(getattr(dialect, question)))


class _Remembered:
    """A question about the catalogue that is asked once for each table."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        self._answers: dict[tuple[Any, ...], Any] = {}

    def __call__(self, connection: Any, *about: Any, **options: Any) -> Any:
        """The answer, from the database the first time."""
        if about not in self._answers:
            self._answers[about] = self._ask(connection, *about, **options)
        return self._answers[about]


def _engine(postgres_url: str) -> Engine:
    """The engine of a URL that lives as long as some instance of this process uses it."""
    engine = _engines.get(postgres_url)
    if engine is None:
        engine = create_pg_engine(
            postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,
            pool_size=KEPT_CONNECTIONS,
            max_overflow=-1,
        )
        # Two processes on one connection would read each other's answers.
        os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(engine)))
        _engines[postgres_url] = engine
    return engine


class _EventLogStorage(PostgresEventLogStorage):
    """As `PostgresEventLogStorage`, and keeps the newest evaluation of a check that no run made.

    Dagster's index of evaluations is unique by run, and those of sensors all have the same one: it refused
    the second evaluation of a batch with `duplicate key`, and the sensor's tick failed with it, for ever.
    """

    def _store_runless_asset_check_evaluation(self, event: EventLogEntry, event_id: int | None) -> None:
        # What Dagster shows is the newest row. The events themselves all stay in the event log.
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


def _let_go(reference: "weakref.ref[Engine]") -> None:
    """Forget the connections of an engine, which belong to the process that this one was forked off."""
    engine = reference()
    if engine is not None:
        engine.dispose(close=False)
