"""The generated files of the current schema show what a migrated database has."""

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline_tests.migrations.current_schema import file_of, read_both


@pytest.mark.parametrize("schema", Schema, ids=lambda schema: schema.value)
def test_the_file_of_the_current_schema_is_that_of_an_upgraded_database(
    databases: Databases, schema: Schema
) -> None:
    assert read_both(databases)[schema] == file_of(schema).read_text(encoding="utf-8"), (
        "a migration changed the schema: run python -m doceval_pipeline_tests.migrations.current_schema"
    )
