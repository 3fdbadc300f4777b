"""Inserts and updates batches, by name, with their folders, connections and prompts.

A sealed batch is never changed here, except its priority.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.definitions.existing import (
    ExistingDefinition,
    json_array,
    rows_to_insert,
    rows_to_update,
)
from doceval_pipeline.doc_eval.definitions.schema import BatchDefinition

_BATCH_COLUMNS = (
    "name text, description text, metadata jsonb, include text[], exclude text[], stage_after timestamptz, "
    "priority int, reuse text, margin double precision"
)
_INSERT_BATCHES = text(f"""
    WITH numbered AS (
        SELECT nextval(pg_get_serial_sequence('batches', 'id')) AS number, g.*
        FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS}))
    INSERT INTO batches (id, batch_number, batch_name, description, meta_data, include_patterns,
                         exclude_patterns, stage_after, priority, reuse, margin)
    SELECT number, number, name, description, metadata, include, exclude, stage_after, priority, reuse, margin
    FROM numbered
    RETURNING batch_name, id
""")
_UPDATE_BATCHES = text(f"""
    UPDATE batches b SET description = g.description, meta_data = g.metadata,
                         include_patterns = g.include, exclude_patterns = g.exclude,
                         stage_after = g.stage_after, reuse = g.reuse, margin = g.margin
    FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS})
    WHERE b.batch_name = g.name AND b.config_snapshot IS NULL
""")
# Not sealed: the priority decides when a queue row is evaluated, not how.
_UPDATE_PRIORITIES = text(f"""
    UPDATE batches b SET priority = g.priority FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS})
    WHERE b.batch_name = g.name AND b.priority <> g.priority
""")
_INSERT_FOLDERS = text("""
    INSERT INTO folders (folder_path, folder_name)
    SELECT DISTINCT f.path, regexp_replace(f.path, '^.*/', '')
    FROM jsonb_to_recordset(:rows) AS g(folders text[]), unnest(g.folders) AS f(path)
    WHERE NOT EXISTS (SELECT 1 FROM folders WHERE folder_path = f.path)
""")


def _relink(table: str, column: str, listed: str, target: str, target_name: str) -> tuple[Any, Any]:
    """Two statements that replace the rows of a link table for the batches in `:rows`."""
    wanted = f"""
        SELECT b.id AS batch_id, t.id AS target_id
        FROM jsonb_to_recordset(:rows) AS g(name text, {listed} text[])
        JOIN batches b ON b.batch_name = g.name AND b.config_snapshot IS NULL
        CROSS JOIN unnest(g.{listed}) AS n(name) JOIN {target} t ON t.{target_name} = n.name
    """
    delete = text(f"""
        DELETE FROM {table} WHERE batch_id IN (
            SELECT b.id FROM jsonb_to_recordset(:rows) AS g(name text) JOIN batches b
            ON b.batch_name = g.name AND b.config_snapshot IS NULL)
    """)
    return delete, text(f"INSERT INTO {table} (batch_id, {column}) {wanted}")


_RELINK = [
    *_relink("batch_folders", "folder_id", "folders", "folders", "folder_path"),
    *_relink("batch_connections", "connection_id", "connections", "connections", "name"),
    *_relink("batch_prompts", "prompt_id", "prompts", "prompts", "name"),
]
_LIMIT = text("UPDATE batches SET max_documents = :max_documents, max_cost = :max_cost WHERE id = :id")


def write_batches(
    connection: Connection, items: Sequence[BatchDefinition], existing: Mapping[str, ExistingDefinition]
) -> dict[str, int]:
    """Insert new batches and update changed ones; returns the number of each batch by its name."""
    new, changed = rows_to_insert(items, existing), rows_to_update(items, existing)
    inserted = dict(connection.execute(_INSERT_BATCHES, {"rows": json_array(new)}).tuples().all())
    connection.execute(_UPDATE_BATCHES, {"rows": json_array(changed)})
    connection.execute(_UPDATE_PRIORITIES, {"rows": json_array(changed)})
    written = [*new, *changed]
    insert_folders(connection, written)
    for statement in _RELINK:
        connection.execute(statement, {"rows": json_array(written)})
    return {
        item.name: existing[item.name].id if item.name in existing else inserted[item.name] for item in items
    }


def create_batch(
    connection: Connection, batch: BatchDefinition, max_documents: int | None, max_cost: float | None
) -> int:
    """Insert a new batch of existing connections and prompts; returns its number.

    Runs in the caller's transaction. The caller has called `lock_definitions`, and no batch has the name.
    """
    number = write_batches(connection, [batch], {})[batch.name]
    limits = {"id": number, "max_documents": max_documents, "max_cost": max_cost}
    connection.execute(_LIMIT, limits)
    return number


def insert_folders(connection: Connection, rows: Sequence[str]) -> None:
    """Insert the missing folders of definitions; each row is a definition as JSON."""
    connection.execute(_INSERT_FOLDERS, {"rows": json_array(rows)})
