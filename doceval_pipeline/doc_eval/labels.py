"""Reads the current names of connections and prompts."""

from collections.abc import Collection

from sqlalchemy import Connection, text

from doceval_pipeline.domain.columns import Labels

_CONNECTION_NAMES = text("SELECT id, name FROM connections WHERE id = ANY(:ids)")
_ONE_CONNECTION_PER_MODEL = text("""
    SELECT count(*) = count(DISTINCT m.model_name)
    FROM connections c JOIN models m ON m.id = c.model_id WHERE c.id = ANY(:ids)
""")
_PROMPT_NAMES = text("SELECT id, name FROM prompts WHERE id = ANY(:ids)")


def read_labels(
    connection: Connection, connection_ids: Collection[int], prompt_ids: Collection[int]
) -> Labels:
    """The current names of the given connections and prompts."""
    connections = connection.execute(_CONNECTION_NAMES, {"ids": list(connection_ids)})
    prompts = connection.execute(_PROMPT_NAMES, {"ids": list(prompt_ids)})
    return Labels(
        connections={row.id: row.name for row in connections}, prompts={row.id: row.name for row in prompts}
    )


def has_one_connection_per_model(connection: Connection, connection_ids: Collection[int]) -> bool:
    """Whether no two of the given connections reach the same model, so that people may call them models."""
    return bool(connection.execute(_ONE_CONNECTION_PER_MODEL, {"ids": list(connection_ids)}).scalar_one())
