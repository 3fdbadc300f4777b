"""Dumps the rows of a batch in doc_eval for an archive, and marks the batch as archived.

`load` restores them.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, TextClause, text

from doceval_pipeline.doc_eval.batches import BatchRecord

# Rights that the role needs; checked before anything is changed.
RIGHTS = (
    ("batches", "SELECT, UPDATE"),
    *((table, "SELECT, DELETE") for table in ("documents", "batch_documents", "recurring_files")),
    *((table, "SELECT, INSERT") for table in ("batch_progress", "connection_history")),
    *((f"batch_{table}", "SELECT") for table in ("folders", "connections", "prompts")),
    *((table, "SELECT") for table in ("folders", "connections", "prompts", "llm_providers", "models")),
)
# Rows per fetch.
CHUNK = 1_000

_BATCH = text("SELECT row_to_json(b)::text FROM batches b WHERE id = :batch_id")
_FOLDERS = text("""
    SELECT row_to_json(f)::text FROM batch_folders l JOIN folders f ON f.id = l.folder_id
    WHERE l.batch_id = :batch_id ORDER BY f.id
""")
_CONNECTIONS = text("""
    SELECT row_to_json(named)::text FROM (
        SELECT c.*, p.provider_type, m.model_name
        FROM batch_connections l
        JOIN connections c ON c.id = l.connection_id
        JOIN llm_providers p ON p.id = c.provider_id
        JOIN models m ON m.id = c.model_id
        WHERE l.batch_id = :batch_id) AS named
    ORDER BY id
""")
_PROMPTS = text("""
    SELECT row_to_json(p)::text FROM batch_prompts l JOIN prompts p ON p.id = l.prompt_id
    WHERE l.batch_id = :batch_id ORDER BY p.id
""")
_FILES = text("""
    SELECT json_build_object('document', row_to_json(d), 'in_batch', row_to_json(b))::text
    FROM batch_documents b JOIN documents d ON d.id = b.document_id
    WHERE b.batch_id = :batch_id ORDER BY d.id
""")
_PROGRESS = text("""
    SELECT row_to_json(p)::text FROM batch_progress p WHERE batch_id = :batch_id ORDER BY observed_at
""")
_HISTORY = text("""
    SELECT row_to_json(h)::text FROM connection_history h
    WHERE batch_id = :batch_id ORDER BY connection_id, measure
""")
_COUNT_FILES = text("SELECT count(*) FROM batch_documents WHERE batch_id = :batch_id")
_DOCUMENTS_OF_OTHERS = text("""
    SELECT DISTINCT b.knowledge_document_id
    FROM unnest(CAST(:stored AS bigint[])) AS mine(id)
    JOIN batch_documents b ON b.knowledge_document_id = mine.id
    WHERE b.batch_id <> :batch_id
""")
# Only the exported state may be marked as archived.
_RECORD = text("""
    UPDATE batches SET archived_at = CAST(:archived_at AS timestamptz), archive_file = :file,
                       archive_sha256 = :sha256
    WHERE id = :batch_id AND archived_at IS NULL AND status = :status
      AND result_digest IS NOT DISTINCT FROM :result_digest
      AND reported_digest IS NOT DISTINCT FROM :reported_digest
""")
_UNMARK_ARCHIVED = text("""
    UPDATE batches SET archived_at = NULL, archive_file = NULL, archive_sha256 = NULL WHERE id = :batch_id
""")
# A scan that has just found a file in `documents` must not lose it before the file is assigned.
_BLOCK_SCANS = text("LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE")
# Without its batch, an unreadable file counts as new for its recurring evaluation.
_DELETE_REJECTED = text("""
    DELETE FROM recurring_files k USING batch_documents b
    WHERE b.batch_id = :batch_id AND b.state = 'REJECTED'
      AND k.batch_id = b.batch_id AND k.document_id = b.document_id
""")
_REMOVE_FILES = text("""
    WITH gone AS (DELETE FROM batch_documents WHERE batch_id = :batch_id RETURNING document_id)
    DELETE FROM documents d USING gone
    WHERE d.id = gone.document_id AND NOT EXISTS (
        SELECT 1 FROM batch_documents b WHERE b.document_id = d.id AND b.batch_id <> :batch_id)
      AND NOT EXISTS (SELECT 1 FROM recurring_files k WHERE k.document_id = d.id)
""")


def batch_json(connection: Connection, batch_id: int, published: str) -> str:
    """The rows of a batch and of its selection, as one JSON object.

    Parameters
    ----------
    published
        Its row of `batch_configs`, as JSON.
    """
    parameters = {"batch_id": batch_id}
    lists = {
        name: ",\n  ".join(connection.scalars(statement, parameters))
        for name, statement in (
            ("folders", _FOLDERS),
            ("connections", _CONNECTIONS),
            ("prompts", _PROMPTS),
        )
    }
    batch = connection.execute(_BATCH, parameters).scalar_one()
    members = [f'"batch": {batch}', f'"published": {published}']
    members += [f'"{name}": [\n  {rows}\n ]' for name, rows in lists.items()]
    return "{\n " + ",\n ".join(members) + "\n}\n"


def file_rows(connection: Connection, batch_id: int) -> Iterator[str]:
    """The files of a batch as JSON: the rows of `documents` and `batch_documents` of each."""
    return _stream(connection, _FILES, batch_id)


def progress_rows(connection: Connection, batch_id: int) -> Iterator[str]:
    """The rows of `batch_progress` as JSON."""
    return _stream(connection, _PROGRESS, batch_id)


def history_rows(connection: Connection, batch_id: int) -> Iterator[str]:
    """The rows of `connection_history` as JSON."""
    return _stream(connection, _HISTORY, batch_id)


def count_files(connection: Connection, batch_id: int) -> int:
    """Number of files of a batch, usable or not."""
    return int(connection.execute(_COUNT_FILES, {"batch_id": batch_id}).scalar_one())


def documents_of_other_batches(connection: Connection, batch_id: int, stored: Sequence[int]) -> set[int]:
    """The given `docs.id` that files of other batches also refer to."""
    return set(connection.scalars(_DOCUMENTS_OF_OTHERS, {"batch_id": batch_id, "stored": list(stored)}))


def record_archive(
    connection: Connection, batch: BatchRecord, archived_at: str, file: str, sha256: str
) -> bool:
    """Marks a batch as archived; returns False if it has changed since `batch` was read.

    Parameters
    ----------
    file
        Name of the file in the archives folder.
    sha256
        sha256 of the whole file, in hex.
    """
    parameters = {
        "batch_id": batch.id,
        "archived_at": archived_at,
        "file": file,
        "sha256": sha256,
        "status": batch.status.value,
        "result_digest": batch.result_digest,
        "reported_digest": batch.reported_digest,
    }
    return connection.execute(_RECORD, parameters).rowcount == 1


def unmark_archived(connection: Connection, batch_id: int) -> None:
    """Removes the mark that a batch is archived; none of its rows was removed yet."""
    connection.execute(_UNMARK_ARCHIVED, {"batch_id": batch_id})


def remove_files(connection: Connection, batch_id: int) -> None:
    """Removes the files of a batch in the caller's transaction; files of other batches stay."""
    connection.execute(_BLOCK_SCANS)
    connection.execute(_DELETE_REJECTED, {"batch_id": batch_id})
    connection.execute(_REMOVE_FILES, {"batch_id": batch_id})


def _stream(connection: Connection, statement: TextClause, batch_id: int) -> Iterator[str]:
    options = {"yield_per": CHUNK}
    yield from connection.execute(statement, {"batch_id": batch_id}, execution_options=options).scalars()
