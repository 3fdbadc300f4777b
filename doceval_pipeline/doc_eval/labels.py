"""Which batches a comparison over batches is made of, and what their connections and prompts are called."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, text

# A cancelled batch has cells that failed for no fault of a model.
_FINISHED = text("""
    SELECT id, result_digest FROM batches
    WHERE status IN ('COMPLETED', 'FAILED') AND cancelled_at IS NULL AND archived_at IS NULL
      AND reported_digest = result_digest
    ORDER BY id
""")
_OTHERS = text("SELECT count(*) FROM batches WHERE id <> ALL(:ids)")
_CONNECTION_NAMES = text("SELECT id, name FROM connections WHERE id = ANY(:ids)")
_PROMPT_NAMES = text("SELECT id, name FROM prompts WHERE id = ANY(:ids)")


@dataclass(frozen=True, slots=True)
class Names:
    """What connections and prompts are called now, by number."""

    connections: dict[int, str]
    prompts: dict[int, str]

    def connection(self, number: int) -> str:
        """The name of a connection, or its number where it has none here."""
        return self.connections.get(number, f"connection {number}")

    def prompt(self, number: int) -> str:
        """The name of a prompt, or its number where it has none here."""
        return self.prompts.get(number, f"prompt {number}")


def finished_batches(connection: Connection) -> dict[int, str]:
    """Batches that are done and whose report stands, with the digest of their results.

    Cancelled and archived ones are left out.
    """
    return {row[0]: row[1] for row in connection.execute(_FINISHED)}


def count_others(connection: Connection, batch_ids: Collection[int]) -> int:
    """How many batches there are beside some."""
    return int(connection.execute(_OTHERS, {"ids": list(batch_ids)}).scalar_one())


def read_names(connection: Connection, connections: Collection[int], prompts: Collection[int]) -> Names:
    """What some connections and prompts are called now."""
    return Names(
        {row[0]: row[1] for row in connection.execute(_CONNECTION_NAMES, {"ids": list(connections)})},
        {row[0]: row[1] for row in connection.execute(_PROMPT_NAMES, {"ids": list(prompts)})},
    )
