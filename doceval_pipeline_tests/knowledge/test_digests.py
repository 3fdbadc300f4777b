"""A digest that is computed while the client works on is the digest of the same moment."""

from collections.abc import Callable

import psycopg2
import pytest
from sqlalchemy import text

from doceval_pipeline.knowledge.digests import digest, digest_meanwhile
from doceval_pipeline_tests.conftest import Sample


def test_it_is_the_digest_of_the_transaction_and_other_statements_wait_for_it(
    batch_of: Callable[..., Sample],
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    repeatable = batch.databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        before = digest(connection, batch.id)
        batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
        with digest_meanwhile(connection, batch.id) as found:
            rows = connection.scalar(text("SELECT count(*) FROM current_llm_responses"))
            assert (found(), rows) == (before, len(batch.knowledge("SELECT 1 FROM llm_responses")))
    with repeatable.connect() as connection, digest_meanwhile(connection, batch.id) as found:
        assert found() == digest(connection, batch.id) != before


def test_a_batch_without_results_has_the_digest_of_nothing(batch_of: Callable[..., Sample]) -> None:
    batch = batch_of(documents=1)
    with (
        batch.databases.knowledge.connect() as connection,
        digest_meanwhile(connection, batch.id + 1) as found,
    ):
        assert found() == digest(connection, batch.id + 1)


def test_an_error_of_the_database_reaches_the_caller(batch_of: Callable[..., Sample]) -> None:
    batch = batch_of(documents=1)
    with batch.databases.knowledge.connect() as connection:
        connection.execute(text("SET LOCAL search_path = pg_catalog"))
        with digest_meanwhile(connection, batch.id) as found, pytest.raises(psycopg2.Error):
            found()


def test_the_server_may_compute_it_in_parallel(batch_of: Callable[..., Sample]) -> None:
    batch = batch_of(documents=1)
    with batch.databases.knowledge.connect() as connection:
        connection.execute(
            text(
                "SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; "
                "SET LOCAL min_parallel_table_scan_size = 0; SET LOCAL enable_indexscan = off; "
                "SET LOCAL enable_bitmapscan = off"
            )
        )
        plan = connection.scalars(text("EXPLAIN SELECT count(*), max(status) FROM current_llm_responses"))
        assert "Gather" in "\n".join(plan)
