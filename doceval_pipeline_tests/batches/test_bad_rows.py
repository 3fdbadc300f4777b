"""One bad row, also one that got past every guard, never stops an overview of all."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.cli import cli
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
EXTREMES = {
    "timestamp with time zone": ("infinity", "-infinity", "4000-01-01 BC", "200000-01-01"),
    "double precision": ("NaN", "Infinity", "-Infinity", "-1e308"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
}
# What a row is found by, and what its table checks: a row with another value there is another row.
FIXED = ("id", "batch_id", "document_id", "prompt_id", "connection_id", "attempt", "batch_number")
COLUMNS = text("""
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_name = :name AND table_schema = current_schema() AND is_generated = 'NEVER'
    ORDER BY ordinal_position
""")
OVERVIEWS = (
    ("status",),
    ("status", "--json"),
    ("check",),
    ("plan", "second", "--all"),
    ("documents", "second"),
    ("report", "second"),
)


def two_batches(batch_of: BatchOf, running: bool) -> tuple[Sample, Sample]:
    first, second = (batch_of(documents=1, connections=1, prompts=1, name=n) for n in ("first", "second"))
    for batch in (first, second):
        batch.stage()
    first.knowledge(
        "UPDATE llm_responses SET status = 'P', started_processing_at = now()"
        if running
        else "UPDATE llm_responses SET status = 'S', overall_score = 50, response_text = 'x'"
    )
    poll(first.databases)
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("database", "table"),
    [
        ("knowledge", "llm_responses"),
        ("knowledge", "docs"),
        ("knowledge", "batch_configs"),
        ("doc_eval", "batches"),
        ("doc_eval", "batch_documents"),
        ("doc_eval", "batch_progress"),
    ],
)
def test_extreme_values_in_a_row_stop_no_overview(
    batch_of: BatchOf, database: str, table: str, running: bool
) -> None:
    first, _ = two_batches(batch_of, running)
    engine = getattr(first.databases, database)
    for place in range(4):
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for name, kind in connection.execute(COLUMNS, {"name": table}).all():
                values = EXTREMES.get(kind, ())
                if name in FIXED or place >= len(values):
                    continue
                # A CHECK holds, also past the guard.
                with suppress(IntegrityError, DataError), connection.begin_nested():
                    connection.execute(
                        text(f'UPDATE {table} SET "{name}" = CAST(:value AS {kind})'),
                        {"value": values[place]},
                    )
        for command in OVERVIEWS:
            done = CliRunner().invoke(cli, command)
            told = done.output
            assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.exception)
            if command[0] in ("status", "documents", "plan"):
                assert done.exit_code == 0, (command, told)
            assert "the database refused" not in told, (command, told)
