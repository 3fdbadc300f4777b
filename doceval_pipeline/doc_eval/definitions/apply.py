"""Writes what an evaluation asks for: upserts of connections, prompts, batches and what recurs, by name.

All of it is checked before any of it is written, in one transaction. A key that is not given keeps its
value. A batch whose staging has begun is sealed and never changed here.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, TextClause, text

from doceval_pipeline.doc_eval.definitions.changes import Change
from doceval_pipeline.doc_eval.definitions.evaluation_file import CHOICES, Located
from doceval_pipeline.doc_eval.definitions.schema import Batch, Evaluation, Named, Recurring, objection
from doceval_pipeline.doc_eval.definitions.yaml_text import Location, Mistake
from doceval_pipeline.doc_eval.lifecycle import CLOSED
from doceval_pipeline.names import normal, normal_in_sql, similar, skeleton, skeleton_in_sql
from doceval_pipeline.redaction import NOT_SHOWN, holds_key

# Finding a name that is meant compares with all of them, while others wait to apply.
MOST_SUGGESTIONS = 20
# One apply at a time, so that what was checked is still true when it is written.
# Of a table, because anybody who may connect can take an advisory lock and keep it; in a mode that only holds
# up vacuum besides.
_LOCK = text("LOCK TABLE connections IN SHARE UPDATE EXCLUSIVE MODE")

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
           g.prices, g.place
    FROM ROWS FROM (jsonb_to_recordset(:rows) AS (
        name text, provider text, model text, base_url text, port int, api_key_env text, config jsonb,
        prices jsonb)) WITH ORDINALITY
        AS g(name, provider, model, base_url, port, api_key_env, config, prices, place)
    JOIN llm_providers p ON p.provider_type = g.provider
    JOIN models m ON m.provider_id = p.id AND m.model_name = g.model
"""
_UPDATE_CONNECTIONS = text(f"""
    UPDATE connections c
    SET provider_id = g.provider_id, model_id = g.model_id, base_url = g.base_url, port_no = g.port,
        api_key_env = g.api_key_env, connection_config = g.config, prices = g.prices, updated_at = now()
    FROM ({_GIVEN_CONNECTIONS}) g
    WHERE c.name = g.name
""")
_INSERT_CONNECTIONS = text(f"""
    INSERT INTO connections (name, provider_id, model_id, base_url, port_no, api_key_env, connection_config,
                             prices)
    SELECT g.name, g.provider_id, g.model_id, g.base_url, g.port, g.api_key_env, g.config, g.prices
    FROM ({_GIVEN_CONNECTIONS}) g ORDER BY g.place
""")
_UPDATE_PROMPTS = text("""
    UPDATE prompts p SET prompt_text = g.text, updated_at = now()
    FROM jsonb_to_recordset(:rows) AS g(name text, text text)
    WHERE p.name = g.name
""")
_INSERT_PROMPTS = text("""
    INSERT INTO prompts (name, prompt_text)
    SELECT g.name, g.text FROM jsonb_to_recordset(:rows) AS g(name text, text text)
""")

# What is stored, under the keys of definitions. Of equal JSON the database decides: to Python, true is 1.
_CONNECTIONS_HERE = """
    SELECT c.id, c.name, NULL AS sealed, jsonb_build_object(
        'provider', p.provider_type, 'model', m.model_name, 'base_url', c.base_url, 'port', c.port_no,
        'api_key_env', c.api_key_env, 'config', c.connection_config, 'prices', c.prices) AS has
    FROM connections c JOIN llm_providers p ON p.id = c.provider_id JOIN models m ON m.id = c.model_id
"""
_PROMPTS_HERE = """
    SELECT id, name, NULL AS sealed, jsonb_build_object('text', prompt_text) AS has FROM prompts
"""
_BATCHES_HERE = """
    SELECT b.id, b.batch_name AS name, b.config_snapshot IS NOT NULL AS sealed, jsonb_build_object(
        'description', b.description, 'metadata', b.meta_data, 'include', to_jsonb(b.include_patterns),
        'exclude', to_jsonb(b.exclude_patterns), 'priority', b.priority, 'reuse', b.reuse,
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
_RECURRING_HERE = """
    SELECT id, name, NULL AS sealed, definition AS has FROM recurring_evaluations
"""


def _compared(here: str) -> TextClause:
    """A statement that compares definitions with what is stored under names that read alike.

    Of `prices` what is not given keeps its value too.
    """
    return text(f"""
        SELECT g.name AS given_name, h.id, h.name, h.sealed,
               (h.has || wanted.given || jsonb_build_object('name', h.name))::text AS wanted,
               coalesce((SELECT jsonb_object_agg(new.key, jsonb_build_array(h.has -> new.key, new.value))
                         FROM jsonb_each(wanted.given) AS new
                         WHERE h.has -> new.key IS DISTINCT FROM new.value), '{{}}') AS changes
        FROM jsonb_to_recordset(:rows) AS g(name text, given jsonb, whole jsonb)
        JOIN ({here}) h ON {normal_in_sql("h.name")} = g.name
        CROSS JOIN LATERAL (SELECT CASE
            WHEN jsonb_typeof(g.given -> 'prices') IS DISTINCT FROM 'object' THEN g.given
            WHEN jsonb_typeof(h.has -> 'prices') = 'object' THEN
                jsonb_set(g.given, '{{prices}}', (h.has -> 'prices') || (g.given -> 'prices'))
            ELSE jsonb_set(g.given, '{{prices}}', g.whole -> 'prices') END) AS wanted(given)
        ORDER BY h.id
    """)


# The names of kinds, and the key of an evaluation that lists them.
_PLURALS = {
    "connection": "connections",
    "prompt": "prompts",
    "batch": "batches",
    "recurring evaluation": "recurring",
}
_LOCK_BATCHES = text(f"""
    SELECT FROM batches WHERE {normal_in_sql("batch_name")} = ANY(:names) FOR UPDATE
""")
_COMPARED = {
    "connection": _compared(_CONNECTIONS_HERE),
    "prompt": _compared(_PROMPTS_HERE),
    "batch": _compared(_BATCHES_HERE),
    "recurring evaluation": _compared(_RECURRING_HERE),
}
_NAMES = {
    "connections": text("SELECT name FROM connections"),
    "prompts": text("SELECT name FROM prompts"),
}
_LOOKING_ALIKE = {
    kind: text(f"SELECT {column} FROM {table} WHERE {skeleton_in_sql(column)} = ANY(:skeletons)")
    for kind, table, column in (
        ("connection", "connections", "name"),
        ("prompt", "prompts", "name"),
        ("batch", "batches", "batch_name"),
        ("recurring evaluation", "recurring_evaluations", "name"),
    )
}


def _names_in(key: str) -> str:
    """The names in a list of a definition `r`, of which there are none where a person broke the list."""
    listed = f"r.definition -> '{key}'"
    return f"jsonb_array_elements_text(CASE jsonb_typeof({listed}) WHEN 'array' THEN {listed} ELSE '[]' END)"


_USED_BY = text("""
    SELECT 'connection' AS kind, l.connection_id AS id, b.id AS batch_id,
           b.config_snapshot IS NULL AS changeable
    FROM batch_connections l JOIN batches b ON b.id = l.batch_id
    WHERE l.connection_id = ANY(:connections) AND b.archived_at IS NULL AND b.status <> ALL(:closed)
    UNION ALL
    SELECT 'prompt', l.prompt_id, b.id, b.config_snapshot IS NULL
    FROM batch_prompts l JOIN batches b ON b.id = l.batch_id
    WHERE l.prompt_id = ANY(:prompts) AND b.archived_at IS NULL AND b.status <> ALL(:closed)
    ORDER BY batch_id
""")
_RECURRING_USERS = text(f"""
    SELECT 'connection' AS kind, c.id, r.name
    FROM recurring_evaluations r
    CROSS JOIN {_names_in("connections")} AS used(name)
    JOIN connections c ON c.name = used.name
    WHERE c.id = ANY(:connections)
    UNION ALL
    SELECT 'prompt', p.id, r.name
    FROM recurring_evaluations r
    CROSS JOIN {_names_in("prompts")} AS used(name)
    JOIN prompts p ON p.name = used.name
    WHERE p.id = ANY(:prompts)
    ORDER BY name
""")
_BATCH_COLUMNS = (
    "name text, description text, metadata jsonb, include text[], exclude text[], stage_after timestamptz, "
    "priority int, reuse text"
)
_INSERT_BATCHES = text(f"""
    WITH numbered AS (
        SELECT nextval(pg_get_serial_sequence('batches', 'id')) AS number, g.*
        FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS}))
    INSERT INTO batches (id, batch_number, batch_name, description, meta_data, include_patterns,
                         exclude_patterns, stage_after, priority, reuse)
    SELECT number, number, name, description, metadata, include, exclude, stage_after, priority, reuse
    FROM numbered
    RETURNING batch_name, id
""")
_UPDATE_BATCHES = text(f"""
    UPDATE batches b SET description = g.description, meta_data = g.metadata,
                         include_patterns = g.include, exclude_patterns = g.exclude,
                         stage_after = g.stage_after, reuse = g.reuse
    FROM jsonb_to_recordset(:rows) AS g({_BATCH_COLUMNS})
    WHERE b.batch_name = g.name AND b.config_snapshot IS NULL
""")
# No part of what is sealed: it decides when a row is evaluated, and not how.
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
_LIMIT = text("UPDATE batches SET max_documents = :max_documents, max_cost = :max_cost WHERE id = :id")
_COST_LIMITS = text(f"""
    SELECT r.name, r.definition ->> 'max_cost',
           array_agg(c.name ORDER BY c.name COLLATE "C") FILTER (WHERE num_nonnulls(
               c.prices ->> 'input_per_million', c.prices ->> 'output_per_million') < 2),
           array_agg(DISTINCT coalesce(c.prices ->> 'currency', 'USD'))
    FROM recurring_evaluations r
    CROSS JOIN {_names_in("connections")} AS n(name)
    JOIN connections c ON {normal_in_sql("c.name")} = {normal_in_sql("n.name")}
    WHERE {normal_in_sql("r.name")} = ANY(CAST(:names AS text[])) AND r.definition ->> 'max_cost' IS NOT NULL
    GROUP BY r.id ORDER BY r.name COLLATE "C"
""")
_INSERT_RECURRING = text("""
    INSERT INTO recurring_evaluations (name, definition)
    SELECT g.value ->> 'name', g.value - 'name'
    FROM jsonb_array_elements(:rows) WITH ORDINALITY AS g(value, place) ORDER BY g.place
""")
# Times of another schedule that have passed are not made up.
_UPDATE_RECURRING = text("""
    UPDATE recurring_evaluations r
    SET definition = g.value - 'name', updated_at = now(),
        watched_from = CASE WHEN (r.definition -> 'schedule', r.definition -> 'timezone')
                                 IS DISTINCT FROM (g.value -> 'schedule', g.value -> 'timezone')
                            THEN now() ELSE r.watched_from END
    FROM jsonb_array_elements(:rows) AS g(value)
    WHERE r.name = g.value ->> 'name'
""")
# Renewing the time makes the request due at once, also after a failed staging.
_REQUEST_STAGING = text("""
    UPDATE batches b SET stage_requested_at = now()
    FROM (SELECT id, status = 'SAVED' AND stage_requested_at IS NOT NULL
                     OR status = 'FAILED_STAGING' AND stage_requested_at IS NOT NULL AS waits
          FROM batches WHERE id = ANY(:ids) AND status IN ('SAVED', 'FAILED_STAGING')
          FOR UPDATE) AS before
    WHERE b.id = before.id
    RETURNING b.id, coalesce(before.waits, false)
""")


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
    that wait for it since an earlier one. `changes` are the values of existing definitions that it replaced,
    and `notes` are about limits of recurring evaluations that cannot be checked as they are meant.
    """

    connections: Changes
    prompts: Changes
    batches: Changes
    recurring: Changes
    numbers: dict[str, int]
    staging_requested: list[str]
    staging_requested_again: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was written at all."""
        kinds = (self.connections, self.prompts, self.batches, self.recurring)
        return bool(self.staging_requested) or any(kind.created or kind.updated for kind in kinds)


@dataclass(frozen=True)
class _Stored:
    """A definition that exists, beside the one that is given: what it will be, as JSON, and what changes.

    `alike` are the numbers of all that read like it, where there are several and none is written as it is
    given.
    """

    id: int
    name: str
    sealed: bool
    wanted: str
    changes: Mapping[str, tuple[Any, Any]]
    alike: tuple[int, ...] = ()


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
    with engine.begin() as connection:
        lock_definitions(connection)
        evaluation = _with_stored_names(connection, located.evaluation)
        stored = {
            kind: _stored(connection, kind, [i for i in getattr(evaluation, plural) if i.is_whole])
            for kind, plural in _PLURALS.items()
        }
        located.refuse(
            [
                *_alike(evaluation, stored),
                *_looking_alike(connection, evaluation, stored),
                *_unknown_references(connection, evaluation),
                *_sealed_changes(evaluation.batches, stored["batch"]),
            ]
        )
        _write_connections(connection, evaluation.connections, stored["connection"])
        _write_prompts(connection, evaluation.prompts, stored["prompt"])
        _write_recurring(connection, evaluation.recurring, stored["recurring evaluation"])
        numbers = _write_batches(connection, evaluation.batches, stored["batch"])
        applied = Applied(
            connections=_changes(evaluation.connections, stored["connection"]),
            prompts=_changes(evaluation.prompts, stored["prompt"]),
            batches=_changes(evaluation.batches, stored["batch"]),
            recurring=_changes(evaluation.recurring, stored["recurring evaluation"]),
            numbers=numbers,
            staging_requested=[],
            changes=_told(connection, evaluation, stored),
            notes=list(_notes_on_limits(connection, evaluation.recurring)),
        )
        if not stage:
            return applied
        asked = dict(connection.execute(_REQUEST_STAGING, {"ids": list(numbers.values())}).tuples().all())
        return replace(
            applied,
            staging_requested=[name for name, number in numbers.items() if asked.get(number) is False],
            staging_requested_again=[name for name, number in numbers.items() if asked.get(number) is True],
        )


def _notes_on_limits(connection: Connection, items: Sequence[Recurring]) -> Iterator[str]:
    """Notes on each `max_cost` that is not compared with one sum of money."""
    names = [normal(item.name) for item in items]
    for name, limit, unpriced, currencies in connection.execute(_COST_LIMITS, {"names": names}):
        if unpriced:
            yield (
                f"{name}: input or output price is missing for {', '.join(unpriced)}, so max_cost cannot be "
                "checked and every batch with evaluations to process will be held: add prices"
            )
        elif len(currencies) > 1:
            together = " and ".join(currencies)
            applies = f"max_cost ({limit}) applies to each currency separately"
            yield f"{name}: its prices are in {together}; {applies}"


def _with_stored_names(connection: Connection, evaluation: Evaluation) -> Evaluation:
    """The evaluation whose batches name connections and prompts as they are stored."""
    changed = {choices: list(getattr(evaluation, choices)) for choices in CHOICES}
    for kind in ("connections", "prompts"):
        names = list(connection.scalars(_NAMES[kind]))
        # A name in its normal form comes before one that only reads alike.
        stored = {normal(name): name for name in names} | {name: name for name in names}
        for choices, items in changed.items():
            changed[choices] = [
                item.model_copy(update={kind: [stored.get(name, name) for name in getattr(item, kind)]})
                for item in items
            ]
    return evaluation.model_copy(update=changed)


def _stored(connection: Connection, kind: str, items: Sequence[Named]) -> dict[str, _Stored]:
    """The stored definitions that have one of the given names, by the given name."""
    if kind == "batch":
        connection.execute(_LOCK_BATCHES, {"names": [item.name for item in items]})
    given = json.dumps([{"name": item.name, "given": _given(item), "whole": _whole(item)} for item in items])
    found: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(_COMPARED[kind], {"rows": given}):
        found.setdefault(row.given_name, []).append(row)
    return {name: _chosen(name, rows) for name, rows in found.items()}


def _chosen(name: str, rows: Sequence[Row[Any]]) -> _Stored:
    """The definition of a name; of several that read alike, the one that is written as it is given."""
    row = next((row for row in rows if row.name == name), rows[0])
    alike = tuple(row.id for row in rows) if len(rows) > 1 and row.name != name else ()
    changes = {key: (old, new) for key, (old, new) in row.changes.items() if not _is_respelled(key, old, new)}
    return _Stored(row.id, row.name, bool(row.sealed), row.wanted, changes, alike)


def _is_respelled(key: str, old: Any, new: Any) -> bool:
    """Whether only the spelling of folders differs: earlier versions stored paths with links in them."""
    return key == "folders" and sorted(map(os.path.realpath, old)) == new


def _whole(item: Named) -> dict[str, Any]:
    """All of a definition, in the form in which what is stored is compared."""
    return _comparable(item.model_dump())


def _given(item: Named) -> dict[str, Any]:
    """The keys that a definition gives, without its name."""
    given = item.model_dump(exclude_unset=True, exclude={"name"})
    if isinstance(item, Recurring):
        # One of the two is given, and takes the other's place.
        given |= {"schedule": item.schedule, "on_arrival": item.on_arrival}
    return _comparable(given)


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _in_order(key, value) for key, value in values.items()}


def _in_order(key: str, value: Any) -> Any:
    if key in ("folders", "connections", "prompts"):
        return sorted(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value


def _alike(evaluation: Evaluation, stored: Mapping[str, Mapping[str, _Stored]]) -> Iterator[Mistake]:
    """Names that may mean several definitions, from before names were compared as people read them."""
    for kind, plural in _PLURALS.items():
        for number, item in enumerate(getattr(evaluation, plural)):
            found = stored[kind].get(item.name) if isinstance(item.name, str) else None
            if found is not None and found.alike:
                numbers = " and ".join(map(str, found.alike))
                problem = (
                    f"{plural} {numbers} have the name {item.name!r}, written in other Unicode forms: give "
                    "this one another name"
                )
                yield Mistake((plural, number, "name"), problem)


def _looking_alike(
    connection: Connection, evaluation: Evaluation, stored: Mapping[str, Mapping[str, _Stored]]
) -> Iterator[Mistake]:
    """New names that differ from others only in characters that need not be seen, such as joiners."""
    for kind, plural in _PLURALS.items():
        items = getattr(evaluation, plural)
        new = [(n, i.name) for n, i in enumerate(items) if i.is_whole and i.name not in stored[kind]]
        skeletons = [skeleton(name) for _, name in new]
        known = connection.scalars(_LOOKING_ALIKE[kind], {"skeletons": skeletons})
        seen = {skeleton(name): name for name in known}
        for number, name in new:
            other = seen.setdefault(skeleton(name), name)
            if other != name:
                problem = f"{name!r} may look like {other!r}, which exists: give it another name"
                yield Mistake((plural, number, "name"), problem)


def _unknown_references(connection: Connection, evaluation: Evaluation) -> Iterator[Mistake]:
    suggestions = MOST_SUGGESTIONS
    for kind in ("connections", "prompts"):
        known = {normal(item.name) for item in getattr(evaluation, kind) if isinstance(item.name, str)}
        known |= {normal(name) for name in connection.scalars(_NAMES[kind])}
        for location, name in _references(evaluation, kind):
            if name is not None and normal(name) not in known:
                near = similar(name, known) if suggestions > 0 else None
                suggestions -= 1
                advice = f"did you mean {near!r}?" if near else f"define it under {kind}"
                yield Mistake(location, f"there is no {kind[:-1]} {name!r}: {advice}")


def _references(evaluation: Evaluation, kind: str) -> Iterator[tuple[Location, str | None]]:
    """The names of connections or prompts that are chosen, each with its place."""
    for choices in CHOICES:
        for number, item in enumerate(getattr(evaluation, choices)):
            for position, name in enumerate(getattr(item, kind)):
                yield (choices, number, kind, position), name


def _sealed_changes(batches: Sequence[Batch], stored: Mapping[str, _Stored]) -> Iterator[Mistake]:
    for number, batch in enumerate(batches):
        found = stored.get(batch.name)
        if found is None or not found.sealed:
            continue
        # The priority decides when a queue row is evaluated; it is not sealed.
        changed = [key for key in Batch.model_fields if key in found.changes and key != "priority"]
        if changed:
            problem = (
                f"batch {batch.name!r} (number {found.id}) is sealed since its "
                f"staging began, and {', '.join(changed)} would change: give the changed batch a new name"
            )
            yield Mistake(("batches", number), problem)


def _write_connections(connection: Connection, items: Sequence[Named], stored: Mapping[str, _Stored]) -> None:
    new, changed = _new(items, stored), _changed(items, stored)
    rows = {"rows": _rows([*new, *changed])}
    connection.execute(_INSERT_PROVIDERS, rows)
    connection.execute(_INSERT_MODELS, rows)
    connection.execute(_UPDATE_CONNECTIONS, {"rows": _rows(changed)})
    connection.execute(_INSERT_CONNECTIONS, {"rows": _rows(new)})


def _write_prompts(connection: Connection, items: Sequence[Named], stored: Mapping[str, _Stored]) -> None:
    connection.execute(_UPDATE_PROMPTS, {"rows": _rows(_changed(items, stored))})
    connection.execute(_INSERT_PROMPTS, {"rows": _rows(_new(items, stored))})


def _write_batches(
    connection: Connection, items: Sequence[Batch], stored: Mapping[str, _Stored]
) -> dict[str, int]:
    """Write batches, and give the number of each by its name."""
    new, changed = _new(items, stored), _changed(items, stored)
    made = dict(connection.execute(_INSERT_BATCHES, {"rows": _rows(new)}).tuples().all())
    connection.execute(_UPDATE_BATCHES, {"rows": _rows(changed)})
    connection.execute(_UPDATE_PRIORITIES, {"rows": _rows(changed)})
    written = {"rows": _rows([*new, *changed])}
    connection.execute(_INSERT_FOLDERS, written)
    for statement in _RELINK:
        connection.execute(statement, written)
    return {item.name: stored[item.name].id if item.name in stored else made[item.name] for item in items}


def create_batch(
    connection: Connection, batch: Batch, max_documents: int | None, max_cost: float | None
) -> int:
    """Write a new batch under definitions that exist, in the caller's transaction; returns its number.

    Call `lock_definitions` before, and see that no batch has the name.
    """
    number = _write_batches(connection, [batch], {})[batch.name]
    limits = {"id": number, "max_documents": max_documents, "max_cost": max_cost}
    connection.execute(_LIMIT, limits)
    return number


def _write_recurring(connection: Connection, items: Sequence[Named], stored: Mapping[str, _Stored]) -> None:
    new, changed = _new(items, stored), _changed(items, stored)
    connection.execute(_UPDATE_RECURRING, {"rows": _rows(changed)})
    connection.execute(_INSERT_RECURRING, {"rows": _rows(new)})
    connection.execute(_INSERT_FOLDERS, {"rows": _rows([*new, *changed])})


def _new(items: Sequence[Named], stored: Mapping[str, _Stored]) -> list[str]:
    """The definitions that do not exist, as JSON."""
    return [json.dumps(_whole(item)) for item in items if item.name not in stored]


def _changed(items: Sequence[Named], stored: Mapping[str, _Stored]) -> list[str]:
    """The definitions that exist and are to be others, as JSON."""
    found = [stored[item.name] for item in items if item.name in stored]
    return [item.wanted for item in found if item.changes]


def _rows(items: Sequence[str]) -> str:
    return f"[{','.join(items)}]"


def _changes(items: Sequence[Named], stored: Mapping[str, _Stored]) -> Changes:
    names = [item.name for item in items]
    return Changes(
        created=[name for name in names if name not in stored],
        updated=[name for name in names if name in stored and stored[name].changes],
        unchanged=[name for name in names if name in stored and not stored[name].changes],
    )


def _told(
    connection: Connection, evaluation: Evaluation, stored: Mapping[str, Mapping[str, _Stored]]
) -> list[Change]:
    """What was replaced, and on which open batches and recurring evaluations it has an effect."""
    changed = {kind: [found.id for found in stored[kind].values() if found.changes] for kind in _PLURALS}
    used = {"connections": changed["connection"], "prompts": changed["prompt"]}
    users = connection.execute(_USED_BY, {**used, "closed": list(CLOSED)}).all()
    recurring: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for row in connection.execute(_RECURRING_USERS, used):
        recurring[row.kind, row.id].append(row.name)

    def affected(kind: str, found: _Stored, key: str) -> list[int]:
        if kind == "batch":
            return [found.id]
        return [
            user.batch_id
            for user in users
            if (user.kind, user.id) == (kind, found.id) and (user.changeable or key == "prices")
        ]

    return [
        Change(
            kind,
            item.name,
            key,
            _shown(kind, key, found.changes[key][0]),
            found.changes[key][1],
            affected(kind, found, key),
            recurring[kind, found.id],
        )
        for kind, plural in _PLURALS.items()
        for item in getattr(evaluation, plural)
        if (found := stored[kind].get(item.name)) is not None
        for key in type(item).model_fields
        if key in found.changes
    ]


def _shown(kind: str, key: str, old: Any) -> Any:
    """A value that was stored, unless it may hold a key: what is given was asked for that already."""
    if kind == "connection":
        refused = objection({"name": "c", "provider": "p", "model": "m", key: old}) is not None
    else:
        refused = holds_key(json.dumps(old, ensure_ascii=False))
    return NOT_SHOWN if refused else old
