"""Lists the files of a batch for people and for exports, in bounded memory. Changes nothing."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.domain.export_record import DocumentFile

# How many rows are fetched at a time.
_STREAMED = {"yield_per": 1_000}

_LISTING = text("""
    SELECT f.folder_path AS folder, d.filepath AS path, b.state, b.reason, b.file_size AS size, b.sha256,
           b.content_type, b.knowledge_document_id AS document_id
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    WHERE b.batch_id = :batch_id
    ORDER BY f.folder_path, d.raw_path
""")
_FILES_OF_DOCUMENTS = text("""
    SELECT DISTINCT ON (b.knowledge_document_id)
           b.knowledge_document_id AS document_id, f.folder_path AS folder, d.filepath AS file,
           count(*) OVER (PARTITION BY b.knowledge_document_id) AS files
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    WHERE b.batch_id = :batch_id AND b.state = 'STAGED'
    ORDER BY b.knowledge_document_id, f.folder_path, d.raw_path
""")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a batch for people; `size` in bytes, `document_id` None if it is not stored."""

    folder: str
    path: str
    state: str
    reason: str | None
    size: int | None
    sha256: str | None
    content_type: str | None
    document_id: int | None

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval documents --json` prints, where `stored_as` is the document's id."""
        values = asdict(self)
        values["stored_as"] = values.pop("document_id")
        return values


def list_batch_files(connection: Connection, batch_id: int) -> Iterator[ListedFile]:
    """Every file of a batch, by folder and path."""
    rows = connection.execute(_LISTING, {"batch_id": batch_id}, execution_options=_STREAMED)
    return (ListedFile(**row._mapping) for row in rows)


def files_of_documents(connection: Connection, batch_id: int) -> Iterator[DocumentFile]:
    """Yield the stored documents of a batch with their first file, by `docs.id`, in bounded memory."""
    rows = connection.execute(_FILES_OF_DOCUMENTS, {"batch_id": batch_id}, execution_options=_STREAMED)
    return (DocumentFile(**row._mapping) for row in rows)
