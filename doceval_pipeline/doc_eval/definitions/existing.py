"""Compares the definitions that an evaluation gives with those that the database has. Writes nothing."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from doceval_pipeline.doc_eval.definitions.evaluation_file import CHOICES
from doceval_pipeline.doc_eval.definitions.schema import Evaluation, NamedDefinition, RecurringDefinition
from doceval_pipeline.names import normal, normal_in_sql

# Each kind of definition, and the key of an evaluation that lists its definitions.
KINDS = {
    "connection": "connections",
    "prompt": "prompts",
    "batch": "batches",
    "recurring evaluation": "recurring",
}
STORED_NAMES = {
    "connections": text("SELECT name FROM connections"),
    "prompts": text("SELECT name FROM prompts"),
}

# The stored definitions under the keys of an evaluation file. PostgreSQL compares the JSON, because true == 1
# in Python.
_CONNECTIONS_STORED = """
    SELECT c.id, c.name, NULL AS sealed, jsonb_build_object(
        'provider', p.provider_type, 'model', m.model_name, 'base_url', c.base_url, 'port', c.port_no,
        'api_key_env', c.api_key_env, 'config', c.connection_config, 'prices', c.prices) AS has
    FROM connections c JOIN llm_providers p ON p.id = c.provider_id JOIN models m ON m.id = c.model_id
"""
_PROMPTS_STORED = """
    SELECT id, name, NULL AS sealed, jsonb_build_object(
        'text', prompt_text, 'threshold', threshold, 'weight', weight) AS has
    FROM prompts
"""
_BATCHES_STORED = """
    SELECT b.id, b.batch_name AS name, b.config_snapshot IS NOT NULL AS sealed, jsonb_build_object(
        'description', b.description, 'metadata', b.meta_data, 'include', to_jsonb(b.include_patterns),
        'exclude', to_jsonb(b.exclude_patterns), 'priority', b.priority, 'reuse', b.reuse,
        'margin', b.margin,
        'stage_after', to_char(b.stage_after AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'folders', to_jsonb(ARRAY(
            SELECT f.folder_path FROM batch_folders l JOIN folders f ON f.id = l.folder_id
            WHERE l.batch_id = b.id ORDER BY f.folder_path COLLATE "C")),
        'connections', to_jsonb(ARRAY(
            SELECT c.name FROM batch_connections l JOIN connections c ON c.id = l.connection_id
            WHERE l.batch_id = b.id ORDER BY c.name COLLATE "C")),
        'prompts', to_jsonb(ARRAY(
            SELECT p.name FROM batch_prompts l JOIN prompts p ON p.id = l.prompt_id
            WHERE l.batch_id = b.id ORDER BY p.name COLLATE "C"))) AS has
    FROM batches b
"""
_RECURRING_STORED = """
    SELECT id, name, NULL AS sealed, definition AS has FROM recurring_evaluations
"""


def _comparison(stored: str) -> TextClause:
    """A statement that compares definitions with the stored ones of the same normalized name.

    Keys that are not given keep their values, also inside `prices`. Recurring evaluations that were stored
    by earlier versions lack keys; a lacking key is null.
    """
    return text(f"""
        SELECT g.name AS given_name, s.id, s.name, s.sealed,
               (s.has || wanted.given || jsonb_build_object('name', s.name))::text AS wanted,
               coalesce((SELECT jsonb_object_agg(new.key, jsonb_build_array(s.has -> new.key, new.value))
                         FROM jsonb_each(wanted.given) AS new
                         WHERE coalesce(s.has -> new.key, 'null') <> new.value), '{{}}') AS changes
        FROM jsonb_to_recordset(:rows) AS g(name text, given jsonb, whole jsonb)
        JOIN ({stored}) s ON {normal_in_sql("s.name")} = g.name
        CROSS JOIN LATERAL (SELECT CASE
            WHEN jsonb_typeof(g.given -> 'prices') IS DISTINCT FROM 'object' THEN g.given
            WHEN jsonb_typeof(s.has -> 'prices') = 'object' THEN
                jsonb_set(g.given, '{{prices}}', (s.has -> 'prices') || (g.given -> 'prices'))
            ELSE jsonb_set(g.given, '{{prices}}', g.whole -> 'prices') END) AS wanted(given)
        ORDER BY s.id
    """)


_LOCK_BATCHES = text(f"""
    SELECT FROM batches WHERE {normal_in_sql("batch_name")} = ANY(:names) FOR UPDATE
""")
_COMPARISONS = {
    "connection": _comparison(_CONNECTIONS_STORED),
    "prompt": _comparison(_PROMPTS_STORED),
    "batch": _comparison(_BATCHES_STORED),
    "recurring evaluation": _comparison(_RECURRING_STORED),
}


@dataclass(frozen=True)
class ExistingDefinition:
    """A definition that exists, compared with the given one of the same name.

    `wanted` is the definition after the update, as JSON; `changes` has the old and the new value of each key
    that differs. `same_named` has the ids of all definitions whose names are equal after normalization, if
    there are several and none of them is spelled as given; otherwise it is empty.
    """

    id: int
    name: str
    is_sealed: bool
    wanted: str
    changes: Mapping[str, tuple[Any, Any]]
    same_named: tuple[int, ...] = ()


def existing_definitions(
    connection: Connection, evaluation: Evaluation
) -> dict[str, dict[str, ExistingDefinition]]:
    """The existing definitions of the names in an evaluation, by kind and given name."""
    return {
        kind: _existing(connection, kind, [item for item in getattr(evaluation, key) if item.is_complete])
        for kind, key in KINDS.items()
    }


def with_stored_names(connection: Connection, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the names of connections and prompts spelled as they are stored."""
    changed = {choices: list(getattr(evaluation, choices)) for choices in CHOICES}
    for kind in ("connections", "prompts"):
        names = list(connection.scalars(STORED_NAMES[kind]))
        # An exact match wins over one that is equal after normalization only.
        stored = {normal(name): name for name in names} | {name: name for name in names}
        for choices, items in changed.items():
            changed[choices] = [
                item.model_copy(update={kind: [stored.get(name, name) for name in getattr(item, kind)]})
                for item in items
            ]
    return evaluation.model_copy(update=changed)


def rows_to_insert(items: Sequence[NamedDefinition], existing: Mapping[str, ExistingDefinition]) -> list[str]:
    """The definitions that do not exist yet, each as JSON."""
    return [json.dumps(_complete(item)) for item in items if item.name not in existing]


def rows_to_update(items: Sequence[NamedDefinition], existing: Mapping[str, ExistingDefinition]) -> list[str]:
    """The existing definitions that change, each as JSON."""
    definitions = [existing[item.name] for item in items if item.name in existing]
    return [item.wanted for item in definitions if item.changes]


def json_array(rows: Sequence[str]) -> str:
    """A JSON array of rows that are JSON already."""
    return f"[{','.join(rows)}]"


def _existing(
    connection: Connection, kind: str, items: Sequence[NamedDefinition]
) -> dict[str, ExistingDefinition]:
    if kind == "batch":
        connection.execute(_LOCK_BATCHES, {"names": [item.name for item in items]})
    given = json.dumps(
        [{"name": item.name, "given": _given(item), "whole": _complete(item)} for item in items]
    )
    rows_by_name: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(_COMPARISONS[kind], {"rows": given}):
        rows_by_name.setdefault(row.given_name, []).append(row)
    return {name: _best_match(name, rows) for name, rows in rows_by_name.items()}


def _best_match(name: str, rows: Sequence[Row[Any]]) -> ExistingDefinition:
    """The definition of a name: the one with the same spelling, or else the first."""
    row = next((row for row in rows if row.name == name), rows[0])
    same_named = tuple(row.id for row in rows) if len(rows) > 1 and row.name != name else ()
    changes = {key: (old, new) for key, (old, new) in row.changes.items() if not _is_respelled(key, old, new)}
    return ExistingDefinition(row.id, row.name, bool(row.sealed), row.wanted, changes, same_named)


def _is_respelled(key: str, old: Any, new: Any) -> bool:
    """Whether only the paths of the same folders differ: earlier versions did not resolve links."""
    return key == "folders" and sorted(map(os.path.realpath, old)) == new


def _complete(item: NamedDefinition) -> dict[str, Any]:
    """All keys of a definition, defaults included, in the form in which definitions are compared."""
    return _comparable(item.model_dump())


def _given(item: NamedDefinition) -> dict[str, Any]:
    """The keys that a definition gives, without its name."""
    given = item.model_dump(exclude_unset=True, exclude={"name"})
    if isinstance(item, RecurringDefinition):
        # Giving one of the two replaces the other.
        given |= {"schedule": item.schedule, "on_arrival": item.on_arrival}
    return _comparable(given)


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _in_order(key, value) for key, value in values.items()}


def _in_order(key: str, value: Any) -> Any:
    if key in ("folders", "connections", "prompts"):
        return sorted(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, float) and value.is_integer():
        # As PostgreSQL writes it, and a person.
        return int(value)
    return value
