"""Dagster's storage in PostgreSQL, on connections that are kept.

Dagster opens a connection for each event that it writes and each question that it asks, about 160 in a run
that stages a batch. That took half of the run's time.
"""

from collections.abc import Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config


class PooledPostgresStorage(DagsterPostgresStorage):
    """As `DagsterPostgresStorage`, with one kept connection for runs, events and schedules each.

    More are opened where threads need them at the same time, and closed after. One that the server has closed
    meanwhile is opened anew.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = create_pg_engine(
                postgres_url,
                isolation_level="AUTOCOMMIT",
                pool_pre_ping=True,
                pool_size=1,
                max_overflow=-1,
            )

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledPostgresStorage":
        """What Dagster calls with the block `storage` of dagster.yaml."""
        return cls(
            pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data
        )
