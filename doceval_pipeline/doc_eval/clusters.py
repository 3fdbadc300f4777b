"""Placeholder."""

from collections.abc import Sequence

from sqlalchemy import Connection


def document_clusters(connection: Connection, document_ids: Sequence[int]) -> dict[int, int]:
    """Clusters."""
    return {}
