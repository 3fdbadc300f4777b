"""Writes what an evaluation asks for: upserts of connections, prompts and batches by name.

All of it is checked before any of it is written, in one transaction. A batch whose staging has
begun is sealed and never changed here.
"""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text

from doceval_pipeline.doc_eval.definitions import Batch, Evaluation
from doceval_pipeline.doc_eval.evaluation_file import Located
from doceval_pipeline.doc_eval.yaml_text import Mistake

# One apply at a time, so that what was checked is still true when it is written.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('doceval apply', 0))")

# Existing rows are updated and only missing ones inserted, instead of ON CONFLICT, so that applying
# a file again does not use up numbers of the identity columns.
_INSERT_PROVIDERS = text("""
    INSERT INTO llm_providers (provider_type)
    SELECT DISTINCT provider FROM jsonb_to_recordset(:rows) AS g(provider text)
    WHERE NOT EXISTS (SELECT 1 FROM llm_providers WHERE provider_type = g.provider)
""")
_INSERT_MODELS = text("""
    INSERT INTO models (provider_id, model_name)
    SELECT DISTINCT p.id, g.model
    FROM jsonb_to_recordset(:rows) AS g(provider text, model text)
    JOIN llm_providers p ON p.provider_type = g.provider
    WHERE NOT EXISTS (SELECT 1 FROM models m WHERE m.provider_id = p.id AND m.model_name = g.model)
""")
_GIVEN_CONNECTIONS = """
    SELECT g.name, p.id AS provider_id, m.id AS model_id, g.base_url, g.port, g.api_key_env, g.config,
           g.prices
    FROM jsonb_to_recordset(:rows) AS g(name text, provider text, model text, base_url text, port int,
                                        api_key_env text, config jsonb, prices jsonb)
    JOIN llm_providers p ON p.provider_type = g.provider
    JOIN models m ON m.provider_id = p.id AND m.model_name = g.model
"""
_UPDATE_CONNECTIONS = text(f"""
    UPDATE connections c
    SET provider_id = g.provider_id, model_id = g.model_id, base_url = g.base_url, port_no = g.port,
        api_key_env = g.api_key_env, connection_config = g.config, prices = g.prices, updated_at = now()
    FROM ({_GIVEN_CONNECTIONS}) g
    WHERE c.name = g.name
      AND (c.provider_id, c.model_id, c.base_url, c.port_no, c.api_key_env, c.connection_config, c.prices)
          IS DISTINCT FROM
          (g.provider_id, g.model_id, g.base_url, g.port, g.api_key_env, g.config, g.prices)
    RETURNING c.name
""")
_INSERT_CONNECTIONS = text(f"""
    INSERT INTO connections (name, provider_id, model_id, base_url, port_no, api_key_env, connection_config,
                             prices)
    SELECT g.* FROM ({_GIVEN_CONNECTIONS}) g
    WHERE NOT EXISTS (SELECT 1 FROM connections c WHERE c.name = g.name)
    RETURNING name
""")
_UPDATE_PROMPTS = text("""
    UPDATE prompts p SET prompt_text = g.text, updated_at = now()
    FROM jsonb_to_recordset(:rows) AS g(name text, text text)
    WHERE p.name = g.name AND p.prompt_text IS DISTINCT FROM g.text
    RETURNING p.name
""")
_INSERT_PROMPTS = text("""
    INSERT INTO prompts (name, prompt_text)
    SELECT g.name, g.text FROM jsonb_to_recordset(:rows) AS g(name text, text text)
    WHERE NOT EXISTS (SELECT 1 FROM prompts p WHERE p.name = g.name)
    RETURNING name
""")

_EXISTING_BATCHES = text("""
    SELECT b.batch_name AS name, b.id, b.description, b.meta_data AS metadata,
           b.include_patterns AS include, b.exclude_patterns AS exclude, b.stage_after, b.status,
           b.config_snapshot IS NOT NULL AS sealed,
           ARRAY(SELECT f.folder_path FROM batch_folders l JOIN folders f ON f.id = l.folder_id
                 WHERE l.batch_id = b.id) AS folders,
           ARRAY(SELECT c.name FROM batch_connections l JOIN connections c ON c.id = l.connection_id
                 WHERE l.batch_id = b.id) AS connections,
           ARRAY(SELECT p.name FROM batch_prompts l JOIN prompts p ON p.id = l.prompt_id
                 WHERE l.batch_id = b.id) AS prompts
    FROM batches b
    WHERE b.batch_name = ANY(:names)
    FOR UPDATE OF b
""")
_BATCH_COLUMNS = (
    "name text, description text, metadata jsonb, include text[], exclude text[], stage_after timestamptz, "
    "priority int"
)
_INSERT_BATCHES = text(f"""
    WITH numbered AS (
        SELECT nextval(pg_get_serial_sequence('batches', 'id')) AS number, g.*
        FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS}))
    INSERT INTO batches (id, batch_number, batch_name, description, meta_data, include_patterns,
                         exclude_patterns, stage_after, priority)
    SELECT number, number, name, description, metadata, include, exclude, stage_after, priority FROM numbered
""")
_UPDATE_BATCHES = text(f"""
    UPDATE batches b SET description = g.description, meta_data = g.metadata,
                         include_patterns = g.include, exclude_patterns = g.exclude,
                         stage_after = g.stage_after
    FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS})
    WHERE b.batch_name = g.name AND b.config_snapshot IS NULL
""")
# No part of what is sealed: it decides when a row is evaluated, and not how.
_UPDATE_PRIORITIES = text(f"""
    UPDATE batches b SET priority = g.priority FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS})
    WHERE b.batch_name = g.name AND b.priority <> g.priority
    RETURNING b.batch_name
""")
_INSERT_FOLDERS = text("""
    INSERT INTO folders (folder_path, folder_name)
    SELECT DISTINCT f.path, regexp_replace(f.path, '^.*/', '')
    FROM jsonb_to_recordset(:rows) AS g(folders text[]), unnest(g.folders) AS f(path)
    WHERE NOT EXISTS (SELECT 1 FROM folders WHERE folder_path = f.path)
""")


def _relink(table: str, column: str, listed: str, target: str, target_name: str) -> tuple[Any, Any]:
    """Statements that make a link table of `:rows`' batches hold exactly what each lists."""
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
# Renewing the time makes the request due at once, also after a failed staging.
_REQUEST_STAGING = text("""
    UPDATE batches b SET stage_requested_at = now()
    FROM (SELECT id, status = 'SAVED' AND stage_requested_at IS NOT NULL
                     OR status = 'FAILED_STAGING' AND stage_requested_at IS NOT NULL AS waits
          FROM batches WHERE batch_name = ANY(:names) AND status IN ('SAVED', 'FAILED_STAGING')
          FOR UPDATE) AS before
    WHERE b.id = before.id
    RETURNING b.batch_name, coalesce(before.waits, false)
""")
_BATCH_NUMBERS = text("SELECT batch_name, id FROM batches WHERE batch_name = ANY(:names)")


@dataclass(frozen=True)
class Changes:
    """Names of one kind, by what was done to them."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Applied:
    """What an apply did.

    `numbers` gives the number of each batch that was named; `staging_requested` the batches whose
    staging will be started by the daemon because of this apply, and `staging_requested_again` those
    that wait for it since an earlier one.
    """

    connections: Changes
    prompts: Changes
    batches: Changes
    numbers: dict[str, int]
    staging_requested: list[str]
    staging_requested_again: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was written at all."""
        kinds = (self.connections, self.prompts, self.batches)
        return bool(self.staging_requested) or any(kind.created or kind.updated for kind in kinds)


def lock_definitions(connection: Connection) -> None:
    """Be the only one that writes connections, prompts, folders and new batches, for this transaction."""
    connection.execute(_LOCK)


def apply_evaluation(engine: Engine, located: Located, stage: bool = False) -> Applied:
    """Write an evaluation into doc_eval; applying it again changes nothing.

    Parameters
    ----------
    located
        The evaluation, where its parts are, and the mistakes that were found without the database.
    stage
        Ask for the staging of its batches that are still SAVED.

    Raises
    ------
    EvaluationFileError
        Every mistake: of the file, of what it refers to, and of sealed batches that it would change.
        Nothing was written.
    """
    evaluation = located.evaluation
    names = [batch.name for batch in evaluation.batches]
    with engine.begin() as connection:
        lock_definitions(connection)
        existing = {
            row["name"]: row for row in connection.execute(_EXISTING_BATCHES, {"names": names}).mappings()
        }
        located.refuse(
            [*_unknown_references(connection, evaluation), *_sealed_changes(evaluation.batches, existing)]
        )
        applied = Applied(
            connections=_apply_connections(connection, evaluation),
            prompts=_apply_prompts(connection, evaluation),
            batches=_apply_batches(connection, evaluation.batches, existing),
            numbers={row[0]: row[1] for row in connection.execute(_BATCH_NUMBERS, {"names": names})},
            staging_requested=[],
        )
        if not stage:
            return applied
        asked = dict(connection.execute(_REQUEST_STAGING, {"names": names}).tuples().all())
        return replace(
            applied,
            staging_requested=[name for name in names if asked.get(name) is False],
            staging_requested_again=[name for name in names if asked.get(name) is True],
        )


def _unknown_references(connection: Connection, evaluation: Evaluation) -> Iterator[Mistake]:
    for kind in ("connections", "prompts"):
        known = {item.name for item in getattr(evaluation, kind) if isinstance(item.name, str)}
        known |= set(connection.scalars(text(f"SELECT name FROM {kind}")))
        for number, batch in enumerate(evaluation.batches):
            for position, name in enumerate(getattr(batch, kind)):
                if name is not None and name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    advice = f"did you mean {near[0]!r}?" if near else f"define it under {kind}"
                    problem = f"there is no {kind[:-1]} {name!r}: {advice}"
                    yield Mistake(("batches", number, kind, position), problem)


def _sealed_changes(batches: Sequence[Batch], existing: Mapping[str, RowMapping]) -> Iterator[Mistake]:
    for number, batch in enumerate(batches):
        row = existing.get(batch.name)
        if row is None or not row["sealed"]:
            continue
        changed = _changed_keys(batch, row)
        if changed:
            problem = (
                f"batch {batch.name!r} (number {row['id']}) is sealed since its "
                f"staging began, and {', '.join(changed)} would change: give the changed batch a new name"
            )
            yield Mistake(("batches", number), problem)


def _changed_keys(batch: Batch, row: RowMapping) -> list[str]:
    # Paths that earlier versions stored may contain links; another spelling is not another folder.
    existing = {**row, "folders": [os.path.realpath(folder) for folder in row["folders"]]}
    unordered = ("folders", "connections", "prompts")
    changed = [key for key in unordered if sorted(getattr(batch, key)) != sorted(existing[key])]
    return changed + [
        key
        for key in ("description", "metadata", "include", "exclude", "stage_after")
        if getattr(batch, key) != row[key]
    ]


def _apply_connections(connection: Connection, evaluation: Evaluation) -> Changes:
    rows = {"rows": _rows(evaluation.connections)}
    connection.execute(_INSERT_PROVIDERS, rows)
    connection.execute(_INSERT_MODELS, rows)
    updated = list(connection.scalars(_UPDATE_CONNECTIONS, rows))
    created = list(connection.scalars(_INSERT_CONNECTIONS, rows))
    return _changes(evaluation.connections, created, updated)


def _apply_prompts(connection: Connection, evaluation: Evaluation) -> Changes:
    rows = {"rows": _rows(evaluation.prompts)}
    updated = list(connection.scalars(_UPDATE_PROMPTS, rows))
    created = list(connection.scalars(_INSERT_PROMPTS, rows))
    return _changes(evaluation.prompts, created, updated)


def _apply_batches(
    connection: Connection, batches: Sequence[Batch], existing: Mapping[str, RowMapping]
) -> Changes:
    new = [batch for batch in batches if batch.name not in existing]
    changed = [b for b in batches if b.name in existing and _changed_keys(b, existing[b.name])]
    connection.execute(_INSERT_BATCHES, {"rows": _rows(new)})
    connection.execute(_UPDATE_BATCHES, {"rows": _rows(changed)})
    moved = list(connection.scalars(_UPDATE_PRIORITIES, {"rows": _rows(batches)}))
    written = {"rows": _rows([*new, *changed])}
    connection.execute(_INSERT_FOLDERS, written)
    for statement in _RELINK:
        connection.execute(statement, written)
    return _changes(batches, [b.name for b in new], [*(b.name for b in changed), *moved])


def _rows(items: Sequence[Any]) -> str:
    return json.dumps([item.model_dump(mode="json") for item in items], ensure_ascii=False)


def _changes(items: Sequence[Any], created: list[str], updated: list[str]) -> Changes:
    written = {*created, *updated}
    names = [item.name for item in items]
    return Changes(
        created=[name for name in names if name in created],
        updated=[name for name in names if name in updated],
        unchanged=[name for name in names if name not in written],
    )
