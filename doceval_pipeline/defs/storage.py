"""Dagster's storage in PostgreSQL, on connections that are kept.

Dagster opens a connection for each event that it writes and each question that it asks, about 160 in a run
that stages a batch. That took half of the run's time.
"""

import os
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config
from sqlalchemy import Engine


class PooledPostgresStorage(DagsterPostgresStorage):
    """As `DagsterPostgresStorage`, with one kept connection for runs, events and schedules each.

    More are opened where threads need them at the same time, and closed after. One that the server has closed
    meanwhile is opened anew, and a process that is forked off opens its own.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            engine = create_pg_engine(
                postgres_url,
                isolation_level="AUTOCOMMIT",
                pool_pre_ping=True,
                pool_size=1,
                max_overflow=-1,
            )
            # Two processes on one connection would read each other's answers.
            os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(engine)))
            storage._engine = engine

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledPostgresStorage":
        """What Dagster calls with the block `storage` of dagster.yaml."""
        return cls(
            pg_url_from_config(config_value), config_value.get("should_autocreate_tables", True), inst_data
        )


def _let_go(reference: "weakref.ref[Engine]") -> None:
    """Forget the connections of an engine, which belong to the process that this one was forked off."""
    engine = reference()
    if engine is not None:
        engine.dispose(close=False)
