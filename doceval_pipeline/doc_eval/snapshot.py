"""Seals and reads the configuration of a batch: its selection as canonical JSON with a sha256.

A batch is sealed once: later edits of prompts or connections do not change its snapshot. A snapshot never
holds a key: connections consist of allowed fields only, and values that others wrote into the database are
checked again.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.columns import Labels
from doceval_pipeline.domain.snapshot import Snapshot
from doceval_pipeline.errors import EvaluationFileError, StagingError

VERSION = 1

_LOCK_CHOICE = text("SELECT 1 FROM batches WHERE id = :batch_id FOR UPDATE")
_SELECTED = text("""
    SELECT json_build_object(
        'id', b.id, 'name', b.batch_name, 'description', b.description, 'metadata', b.meta_data,
        'include', to_json(b.include_patterns), 'exclude', to_json(b.exclude_patterns))
    FROM batches b WHERE b.id = :batch_id
""")
_MARGIN = text("SELECT to_json(margin) FROM batches WHERE id = :batch_id")
_FOLDERS = text("""
    SELECT json_build_object('id', f.id, 'path', f.folder_path)
    FROM batch_folders l JOIN folders f ON f.id = l.folder_id
    WHERE l.batch_id = :batch_id ORDER BY f.id
""")
# The same keys as llm_responses.connection_details; nothing else ever reaches a queue row.
_CONNECTION = """
    SELECT json_build_object(
        'id', c.id, 'name', c.name, 'provider_type', p.provider_type, 'model_name', m.model_name,
        'base_url', c.base_url, 'port_no', c.port_no, 'connection_config', c.connection_config,
        'api_key_env', c.api_key_env)
    FROM connections c
    JOIN llm_providers p ON p.id = c.provider_id
    JOIN models m ON m.id = c.model_id
"""
_CONNECTIONS = text(f"""
    {_CONNECTION} JOIN batch_connections l ON l.connection_id = c.id
    WHERE l.batch_id = :batch_id ORDER BY c.id
""")
_CONNECTIONS_NAMED = text(f"{_CONNECTION} WHERE c.name = ANY(:names) ORDER BY c.id")
_PROMPT = "SELECT json_build_object('id', p.id, 'name', p.name, 'text', p.prompt_text) FROM prompts p"
_PROMPTS = text(f"""
    {_PROMPT} JOIN batch_prompts l ON l.prompt_id = p.id WHERE l.batch_id = :batch_id ORDER BY p.id
""")
_PROMPTS_NAMED = text(f"{_PROMPT} WHERE p.name = ANY(:names) ORDER BY p.id")
_SEALED = text(
    "SELECT config_snapshot::text AS canonical, config_sha256 AS sha256 FROM batches WHERE id = :batch_id"
)
_SEALED_NAMES = text("""
    SELECT b.id AS batch_id, named.kind, CAST(named.item ->> 'id' AS int) AS id, named.item ->> 'name' AS name
    FROM batches b
    CROSS JOIN LATERAL (
        SELECT 'connections' AS kind, c.item, c.place
        FROM json_array_elements(b.config_snapshot -> 'connections') WITH ORDINALITY AS c(item, place)
        UNION ALL
        SELECT 'prompts', p.item, p.place
        FROM json_array_elements(b.config_snapshot -> 'prompts') WITH ORDINALITY AS p(item, place)) AS named
    WHERE b.id = ANY(CAST(:batch_ids AS int[])) AND b.config_snapshot IS NOT NULL
    ORDER BY b.id, named.kind, named.place
""")
_SEAL = text("""
    UPDATE batches SET config_snapshot = CAST(:canonical AS json), config_sha256 = :sha256
    WHERE id = :batch_id AND config_snapshot IS NULL
""")


def seal(connection: Connection, batch_id: int) -> Snapshot:
    """Seal a batch's configuration; a sealed batch keeps its snapshot, byte for byte.

    Raises
    ------
    StagingError
        The selection of the batch contains a key.
    """
    sealed = read_snapshot(connection, batch_id)
    if sealed is not None:
        return sealed
    parameters = {"batch_id": batch_id}
    # The selection must not change between reading and sealing.
    connection.execute(_LOCK_CHOICE, parameters)
    config = compose(connection, batch_id)
    require_no_key(config)
    canonical = canonical_json(config)
    sha256 = hashlib.sha256(canonical.encode()).hexdigest()
    connection.execute(_SEAL, {**parameters, "canonical": canonical, "sha256": sha256})
    return Snapshot(canonical, sha256)


def require_no_key(config: dict[str, Any]) -> None:
    """Refuse a configuration with a key, as an apply does: other programs may have written the rows.

    Raises
    ------
    StagingError
        The configuration contains a key.
    """
    # The schema of evaluation files takes 60 ms to import, and most commands seal nothing.
    from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, refuse_credentials

    connections = [
        {
            "name": given["name"],
            "provider": given["provider_type"],
            "model": given["model_name"],
            "base_url": given["base_url"],
            "api_key_env": given["api_key_env"],
            "config": given["connection_config"],
        }
        for given in config["connections"]
    ]
    prompts = [{"name": prompt["name"], "text": prompt["text"]} for prompt in config["prompts"]]
    batch = {key: config["batch"][key] for key in ("name", "description", "metadata")}
    try:
        refuse_credentials({"connections": connections, "prompts": prompts, "batches": [batch]}, key_path)
    except EvaluationFileError as error:
        raise StagingError(
            f"the configuration of the batch contains a key ({error.problems[0]}): remove it from doc_eval"
        ) from None


def compose(connection: Connection, batch_id: int) -> dict[str, Any]:
    """The current selection of a batch: the data that would be sealed now."""
    parameters = {"batch_id": batch_id}
    # Without a margin the key is absent, so that the snapshot is the one of earlier versions.
    margin = connection.scalar(_MARGIN, parameters)
    batch = connection.execute(_SELECTED, parameters).scalar_one()
    return {
        "version": VERSION,
        "batch": batch if margin is None else {**batch, "margin": margin},
        "folders": list(connection.scalars(_FOLDERS, parameters)),
        "connections": list(connection.scalars(_CONNECTIONS, parameters)),
        "prompts": list(connection.scalars(_PROMPTS, parameters)),
    }


def compose_questions(
    connection: Connection, connections: Sequence[str], prompts: Sequence[str]
) -> dict[str, Any]:
    """The named connections and prompts, as a batch made now would be sealed with them."""
    return {
        "connections": list(connection.scalars(_CONNECTIONS_NAMED, {"names": list(connections)})),
        "prompts": list(connection.scalars(_PROMPTS_NAMED, {"names": list(prompts)})),
    }


def edited_since(connection: Connection, batch_id: int, sealed: Snapshot) -> list[tuple[str, str]]:
    """Kinds and names of prompts and connections that were edited since the batch was sealed."""
    config, now = sealed.config, compose(connection, batch_id)
    return [
        (kind, item["name"])
        for kind in ("prompt", "connection")
        for item in config[f"{kind}s"]
        if item not in now[f"{kind}s"]
    ]


def read_snapshot(connection: Connection, batch_id: int) -> Snapshot | None:
    """The sealed configuration of a batch; None before its staging began."""
    row = connection.execute(_SEALED, {"batch_id": batch_id}).one()
    return None if row.canonical is None else Snapshot(row.canonical, row.sha256)


def sealed_names(connection: Connection, batch_ids: Sequence[int]) -> dict[int, Labels]:
    """The names of connections and prompts in sealed configurations, in their order, by batch."""
    names: dict[int, dict[str, dict[int, str]]] = {
        batch_id: {"connections": {}, "prompts": {}} for batch_id in batch_ids
    }
    for row in connection.execute(_SEALED_NAMES, {"batch_ids": arrays.of_numbers(batch_ids)}):
        names[row.batch_id][row.kind][row.id] = row.name
    return {batch_id: Labels(**kinds) for batch_id, kinds in names.items()}


def canonical_json(value: Any) -> str:
    """JSON that is the same text for the same value: keys sorted, no spaces, UTF-8 not escaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
