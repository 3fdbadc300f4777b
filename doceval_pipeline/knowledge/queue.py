"""Writes the queue: one row for each (document, prompt, connection) of a batch, and its sealed config."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.errors import DatabaseError

# The only keys that reach a queue row; there is no key for a secret.
CONNECTION_DETAILS = (
    "id",
    "name",
    "provider_type",
    "model_name",
    "base_url",
    "port_no",
    "connection_config",
    "api_key_env",
)

_PUBLISH_CONFIG = text("""
    INSERT INTO batch_configs (batch_id, config, sha256)
    VALUES (:batch_id, CAST(:config AS jsonb), :sha256)
    ON CONFLICT (batch_id) DO NOTHING
""")
_PUBLISHED = text("SELECT sha256 FROM batch_configs WHERE batch_id = :batch_id")
_ENQUEUE = text("""
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details)
    SELECT :batch_id, d.id, p.id, c.id, c.details
    FROM unnest(CAST(:documents AS bigint[])) AS d(id)
    CROSS JOIN unnest(CAST(:prompts AS int[])) AS p(id)
    CROSS JOIN unnest(CAST(:connections AS int[]), CAST(:details AS jsonb[])) AS c(id, details)
    WHERE NOT EXISTS (
        SELECT 1 FROM llm_responses r
        WHERE r.batch_id = :batch_id AND r.document_id = d.id AND r.prompt_id = p.id
          AND r.connection_id = c.id)
    ORDER BY d.id, p.id, c.id
""")
_QUEUED_CELLS = text("""
    SELECT count(*) FROM current_llm_responses
    WHERE batch_id = :batch_id
      AND document_id = ANY(:documents) AND prompt_id = ANY(:prompts) AND connection_id = ANY(:connections)
""")
_ROWS = text("SELECT count(*) FROM llm_responses WHERE batch_id = :batch_id")
_FOREIGN_DOCUMENTS = text("""
    SELECT count(*) FROM llm_responses r
    WHERE r.batch_id = :batch_id AND NOT EXISTS (
        SELECT 1 FROM unnest(CAST(:documents AS bigint[])) AS d(id) WHERE d.id = r.document_id)
""")
_ORPHANS = text("""
    SELECT count(*) FROM llm_responses r
    WHERE r.batch_id = :batch_id AND NOT EXISTS (SELECT 1 FROM docs WHERE docs.id = r.document_id)
""")


def publish_config(connection: Connection, batch_id: int, canonical: str, sha256: str) -> None:
    """Put a sealed configuration where processors find it; a second time changes nothing.

    Raises
    ------
    DatabaseError
        Another configuration stands under this number: the database belongs to another doc_eval.
    """
    connection.execute(_PUBLISH_CONFIG, {"batch_id": batch_id, "config": canonical, "sha256": sha256})
    if connection.scalar(_PUBLISHED, {"batch_id": batch_id}) != sha256:
        raise DatabaseError(
            f"KnowledgeDocuments already holds another batch {batch_id}, with another configuration: it is "
            "used by another doc_eval database; set KNOWLEDGE_DOCUMENTS_URL to one of its own"
        )


def enqueue(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> int:
    """Queue every cell that has no row yet, in the caller's transaction.

    Parameters
    ----------
    documents
        Distinct `docs.id`.
    prompts, connections
        As a sealed configuration lists them.

    Returns
    -------
    int
        How many rows were added.
    """
    details = [json.dumps({key: c[key] for key in CONNECTION_DETAILS}) for c in connections]
    return connection.execute(
        _ENQUEUE,
        {
            "batch_id": batch_id,
            "documents": list(documents),
            "prompts": [p["id"] for p in prompts],
            "connections": [c["id"] for c in connections],
            "details": details,
        },
    ).rowcount


def count_queued_cells(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    prompts: Sequence[dict[str, Any]],
    connections: Sequence[dict[str, Any]],
) -> int:
    """How many of the cells of these documents, prompts and connections have a row."""
    count: int = connection.execute(
        _QUEUED_CELLS,
        {
            "batch_id": batch_id,
            "documents": list(documents),
            "prompts": [p["id"] for p in prompts],
            "connections": [c["id"] for c in connections],
        },
    ).scalar_one()
    return count


def count_rows(connection: Connection, batch_id: int) -> int:
    """How many rows a batch has in the queue, all attempts counted."""
    return int(connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one())


def count_orphans(connection: Connection, batch_id: int, documents: Sequence[int]) -> tuple[int, int]:
    """Rows of a batch whose document is not stored, and rows whose document is not the batch's."""
    orphans = connection.execute(_ORPHANS, {"batch_id": batch_id}).scalar_one()
    foreign = connection.execute(
        _FOREIGN_DOCUMENTS, {"batch_id": batch_id, "documents": list(documents)}
    ).scalar_one()
    return int(orphans), int(foreign)
