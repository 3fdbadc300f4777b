"""Reads the names of a batch's documents one by one, for an export, in bounded memory. Changes nothing."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, text

# Rows that are fetched at a time.
CHUNK = 1_000

_NAMED_DOCUMENTS = text("""
    SELECT DISTINCT ON (b.knowledge_document_id) b.knowledge_document_id, f.folder_path, d.filepath,
           count(*) OVER (PARTITION BY b.knowledge_document_id)
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    WHERE b.batch_id = :batch_id AND b.state = 'STAGED'
    ORDER BY b.knowledge_document_id, f.folder_path, d.raw_path
""")


class NamedDocument(NamedTuple):
    """A stored content: the first of the files that have it, and how many of them the batch has."""

    stored_as: int
    folder: str
    file: str
    files: int


def named_documents(connection: Connection, batch_id: int) -> Iterator[NamedDocument]:
    """The contents of a batch that are stored, in the order of their `docs.id`."""
    options = {"yield_per": CHUNK}
    found = connection.execute(_NAMED_DOCUMENTS, {"batch_id": batch_id}, execution_options=options)
    return (NamedDocument(*row) for row in found)
