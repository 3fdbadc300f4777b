"""The schema that all migrations together leave: tables, constraints, functions and triggers.

Migrations replace functions of earlier ones, so no single migration shows what is in force. After a new
migration, `python -m doceval_pipeline_tests.migrations.current_schema` rewrites the files; review the diff.
"""

import sys
import tempfile
from pathlib import Path

from sqlalchemy import Connection, text

from doceval_pipeline import migrations
from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline.settings import Settings

HEADER = """\
-- The schema of {schema} as all migrations together leave it. Generated for reading, never run:
-- python -m doceval_pipeline_tests.migrations.current_schema rewrites it. Rights are in roles.sql.
"""
# Column order is that of the table; constraints and indexes are in the order of their names.
_TABLES = text("""
    SELECT c.relname AS name, string_agg(
        format('    %I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
               CASE WHEN a.attidentity <> '' THEN ' GENERATED AS IDENTITY'
                    ELSE coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') END),
        E',\\n' ORDER BY a.attnum) AS columns
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname NOT LIKE 'doceval%version'
    GROUP BY c.relname ORDER BY c.relname COLLATE "C"
""")
# PostgreSQL 18 lists NOT NULL among the constraints; the columns say it already.
_CONSTRAINTS = text("""
    SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE conrelid = CAST(:table AS regclass) AND contype <> 'n' ORDER BY conname COLLATE "C"
""")
_INDEXES = text("""
    SELECT pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i
    WHERE i.indrelid = CAST(:table AS regclass)
      AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid AND conrelid = i.indrelid)
    ORDER BY pg_get_indexdef(i.indexrelid) COLLATE "C"
""")
_TRIGGERS = text("""
    SELECT pg_get_triggerdef(oid) AS definition FROM pg_trigger
    WHERE tgrelid = CAST(:table AS regclass) AND NOT tgisinternal ORDER BY tgname COLLATE "C"
""")
_VIEWS = text("""
    SELECT relname AS name, pg_get_viewdef(oid) AS definition FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'v' ORDER BY relname COLLATE "C"
""")
_FUNCTIONS = text("""
    SELECT pg_get_functiondef(oid) AS definition FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p') ORDER BY proname COLLATE "C", oid
""")


def file_of(schema: Schema) -> Path:
    """The generated file of a schema, beside its migrations."""
    return Path(migrations.__file__).parent / schema.value / "current_schema.sql"


def current_schema(connection: Connection, schema: Schema) -> str:
    """The schema of an upgraded database as text."""
    parts = [HEADER.format(schema=schema.value)]
    for table in connection.execute(_TABLES):
        name = {"table": f'"{table.name}"'}
        constraints = [
            f"    CONSTRAINT {row.name} {row.definition}" for row in connection.execute(_CONSTRAINTS, name)
        ]
        columns = ",\n".join([table.columns, *constraints])
        parts.append(f"CREATE TABLE {table.name} (\n{columns}\n);")
        parts += [f"{row.definition};" for row in connection.execute(_INDEXES, name)]
        parts += [f"{row.definition};" for row in connection.execute(_TRIGGERS, name)]
    for view in connection.execute(_VIEWS):
        parts.append(f"CREATE VIEW {view.name} AS\n{view.definition}")
    parts += [f"{row.definition.rstrip()};" for row in connection.execute(_FUNCTIONS)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def read_both(databases: Databases) -> dict[Schema, str]:
    """The current schema of both databases."""
    engines = {Schema.DOC_EVAL: databases.doc_eval, Schema.KNOWLEDGE: databases.knowledge}
    schemas = {}
    for schema, engine in engines.items():
        with engine.connect() as connection:
            schemas[schema] = current_schema(connection, schema)
    return schemas


def main() -> int:
    """Create both databases on a server of their own and write their schemas."""
    with tempfile.TemporaryDirectory(prefix="doceval-schema-") as home:
        settings = Settings.from_environment({"DOCEVAL_HOME": home})
        server = EmbeddedServer(settings.home)
        server.ensure()
        try:
            for schema, written in read_both(open_databases(settings)).items():
                file_of(schema).write_text(written, encoding="utf-8", newline="\n")
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
