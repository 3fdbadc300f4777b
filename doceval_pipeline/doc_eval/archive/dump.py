"""What doc_eval knows of a batch, on its way into an archive; and that it stands in one.

The way back is in `restored`.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, TextClause, text

from doceval_pipeline.doc_eval.batches import BatchRecord

# What a role must be allowed to do here, which is asked before anything is done.
RIGHTS = (
    ("batches", "SELECT, UPDATE"),
    *((table, "SELECT, DELETE") for table in ("documents", "batch_documents", "recurring_files")),
    *((table, "SELECT, INSERT") for table in ("batch_progress", "connection_history")),
    *((f"batch_{table}", "SELECT") for table in ("folders", "connections", "prompts")),
    *((table, "SELECT") for table in ("folders", "connections", "prompts", "llm_providers", "models")),
)
# Rows that are fetched at a time.
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
_USED_BY_OTHERS = text("""
    SELECT DISTINCT b.knowledge_document_id
    FROM unnest(CAST(:stored AS bigint[])) AS mine(id)
    JOIN batch_documents b ON b.knowledge_document_id = mine.id
    WHERE b.batch_id <> :batch_id
""")
# Only the state that was exported may be called archived.
_RECORD = text("""
    UPDATE batches SET archived_at = CAST(:archived_at AS timestamptz), archive_file = :file,
                       archive_sha256 = :sha256
    WHERE id = :batch_id AND archived_at IS NULL AND status = :status
      AND result_digest IS NOT DISTINCT FROM :result_digest
      AND reported_digest IS NOT DISTINCT FROM :reported_digest
""")
_TAKE_BACK = text("""
    UPDATE batches SET archived_at = NULL, archive_file = NULL, archive_sha256 = NULL WHERE id = :batch_id
""")
# A walk that has just found a file in `documents` must not see it vanish before it is assigned.
_NO_WALK_NOW = text("LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE")
# Without its batch, a file that the batch could not read is new to its recurring evaluation.
_FORGET_REJECTED = text("""
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
    """The rows of a batch and of what it selects, as one JSON object.

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
    """Each file of a batch: its row of `documents`, and its row of `batch_documents`, as JSON."""
    return _stream(connection, _FILES, batch_id)


def progress_rows(connection: Connection, batch_id: int) -> Iterator[str]:
    """The rows of `batch_progress` as JSON."""
    return _stream(connection, _PROGRESS, batch_id)


def history_rows(connection: Connection, batch_id: int) -> Iterator[str]:
    """The rows of `connection_history` as JSON."""
    return _stream(connection, _HISTORY, batch_id)


def count_files(connection: Connection, batch_id: int) -> int:
    """How many files a batch has, usable or not."""
    return int(connection.execute(_COUNT_FILES, {"batch_id": batch_id}).scalar_one())


def used_by_others(connection: Connection, batch_id: int, stored: Sequence[int]) -> set[int]:
    """Which of some `docs.id` are files of another batch too."""
    return set(connection.scalars(_USED_BY_OTHERS, {"batch_id": batch_id, "stored": list(stored)}))


def record_archive(
    connection: Connection, batch: BatchRecord, archived_at: str, file: str, sha256: str
) -> bool:
    """Record where a batch stands from now on; False where it is no longer as `batch` says.

    Parameters
    ----------
    file
        The name of the file below the folder of archives.
    sha256
        Of the whole file, in hex.
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


def take_back(connection: Connection, batch_id: int) -> None:
    """Say that a batch is not archived after all; nothing was removed of it yet."""
    connection.execute(_TAKE_BACK, {"batch_id": batch_id})


def remove_files(connection: Connection, batch_id: int) -> None:
    """Remove the files of a batch, in the caller's transaction; those of other batches stay."""
    connection.execute(_NO_WALK_NOW)
    connection.execute(_FORGET_REJECTED, {"batch_id": batch_id})
    connection.execute(_REMOVE_FILES, {"batch_id": batch_id})


def _stream(connection: Connection, statement: TextClause, batch_id: int) -> Iterator[str]:
    options = {"yield_per": CHUNK}
    yield from connection.execute(statement, {"batch_id": batch_id}, execution_options=options).scalars()
