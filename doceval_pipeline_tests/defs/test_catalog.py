"""The metadata of Dagster's catalog agrees with the databases and the settings."""

import logging
import warnings

import dagster as dg
import pytest
from dagster._core.definitions.utils import is_valid_owner
from sqlalchemy import text

from doceval_pipeline.batches.databases import DOC_EVAL, Databases
from doceval_pipeline.definitions import defs as load_definitions
from doceval_pipeline.defs.catalog import CODE_VERSIONS, TABLES, Table
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.defs.running import definitions

COLUMNS = text("""
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
""")


def specs(found: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in found.resolve_all_asset_specs()}


@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
def test_columns_are_listed_as_the_database_has_them(databases: Databases, table: Table) -> None:
    engine = databases.doc_eval if table.database is DOC_EVAL else databases.knowledge
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(COLUMNS, {"table": table.name})]
    assert [(name, type_) for name, type_, _ in table.columns] == found
    assert all(description.endswith(".") for _, _, description in table.columns)


def test_every_asset_that_fills_a_table_names_it_and_where_it_is() -> None:
    found = specs(definitions)
    key = "dagster/table_name"
    tables = {name: spec.metadata[key] for name, spec in found.items() if key in spec.metadata}
    assert tables == {
        "batch_config_snapshot": "KnowledgeDocuments.public.batch_configs",
        "document_assignment": "doc_eval.public.batch_documents",
        "encoded_documents": "KnowledgeDocuments.public.docs",
        "queue_rows": "KnowledgeDocuments.public.llm_responses",
        "llm_responses": "KnowledgeDocuments.public.current_llm_responses",
    }
    for name in tables:
        assert found[name].tags["doceval/database"] == tables[name].partition(".")[0]
        assert str(found[name].metadata["dagster/uri"]).startswith("postgresql://")
        assert "dagster/column_schema" in found[name].metadata
    for name, spec in found.items():
        assert ("dagster/code_references" in spec.metadata) == (name != "llm_responses")


def test_a_uri_of_the_catalog_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg2://me:hunter2@db.example.org:5433/knowledge?sslmode=require&password=hunter2"
    monkeypatch.setenv("KNOWLEDGE_DOCUMENTS_URL", url)
    found = specs(load_definitions())
    assert found["encoded_documents"].metadata["dagster/uri"] == "postgresql://db.example.org:5433/knowledge"
    assert "hunter2" not in str(found)


def test_code_versions_change_only_on_purpose() -> None:
    """A changed one marks every batch of an installation as out of sync: change it only when what the asset
    stores for the same input changes."""
    assert {name: spec.code_version for name, spec in specs(definitions).items()} == {
        "batch_config_snapshot": "1",
        "document_assignment": "1",
        "encoded_documents": "1",
        "queue_rows": "1",
        "llm_responses": None,
        "completion_report": "1",
        "leaderboard": "2",
        "series": "1",
        "audit": "1",
    }
    assert set(CODE_VERSIONS) == set(specs(definitions)) - {"llm_responses"}


def test_owners_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCEVAL_OWNERS", " ann@example.org , team:legal, ann@example.org,")
    owners = {tuple(spec.owners) for spec in specs(load_definitions()).values()}
    assert owners == {("ann@example.org", "team:legal")}
    assert all(map(is_valid_owner, Settings.from_environment().owners))


def test_an_owner_that_cannot_be_used_is_one_line_of_the_log_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DOCEVAL_OWNERS", "legal")
    with caplog.at_level(logging.WARNING):
        owners = {tuple(spec.owners) for spec in specs(load_definitions()).values()}
    assert owners == {()}
    (record,) = [record for record in caplog.records if "DOCEVAL_OWNERS" in record.message]
    assert record.message.startswith("DOCEVAL_OWNERS contains 'legal': write")


def test_the_catalog_warns_users_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", dg.BetaWarning)
        load_definitions()
