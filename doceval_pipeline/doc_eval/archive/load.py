"""Loads the rows of an archive back into doc_eval.

Ids in a sealed configuration must stay the same: those of the batch, its folders, connections and prompts.
Ids of files have no meaning outside of the database and are replaced if they are in use.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.migrations.rows import insert_rows, read_lines, read_value, reserve_ids
from doceval_pipeline.names import normal_in_sql

# Selection of a batch: table, its name column, and the column of its link table.
SELECTED = {
    "folders": ("folder_path", "folder_id"),
    "connections": ("name", "connection_id"),
    "prompts": ("name", "prompt_id"),
}

# Rights that the role needs; checked before anything is changed.
RIGHTS = (
    *((table, "SELECT, INSERT, DELETE") for table in ("documents", "batch_documents")),
    *((table, "SELECT, INSERT, UPDATE") for table in ("batches", "folders", "connections", "prompts")),
    *((table, "SELECT, INSERT") for table in ("llm_providers", "models", "batch_folders")),
    *((table, "INSERT") for table in ("batch_connections", "batch_prompts")),
    *((table, "SELECT, INSERT") for table in ("batch_progress", "connection_history")),
)
NUMBERED = ("batches", "folders", "connections", "prompts", "documents")

_BATCH_SOURCE = "SELECT line -> 'batch' AS line FROM archived"
_LIST = "SELECT value AS line FROM archived, json_array_elements(line -> '{name}')"
_SAME_BATCH = text("""
    SELECT config_sha256 IS NOT DISTINCT FROM :config_sha256
           AND created_at = CAST(:created_at AS timestamptz)
    FROM batches WHERE id = :id
""")
_ARCHIVE_SHA256 = text("SELECT archive_sha256 FROM batches WHERE id = :id")
_IS_FOREIGN = text("SELECT is_foreign FROM batches WHERE id = :id")
_EXISTING_CONNECTIONS = text("""
    SELECT json_build_object(
        'id', c.id, 'name', c.name, 'provider_type', p.provider_type, 'model_name', m.model_name,
        'base_url', c.base_url, 'port_no', c.port_no, 'connection_config', c.connection_config,
        'api_key_env', c.api_key_env)
    FROM connections c JOIN llm_providers p ON p.id = c.provider_id JOIN models m ON m.id = c.model_id
    ORDER BY c.id
""")
_EXISTING_FOLDERS = text("SELECT folder_path FROM folders WHERE folder_path = ANY(:paths)")
_TAKEN = text(f"""
    SELECT id, batch_name FROM batches
    WHERE id = :id OR batch_number = :batch_number
       OR {normal_in_sql("batch_name")} = {normal_in_sql("CAST(:batch_name AS text)")}
    ORDER BY id LIMIT 1
""")
_SELECTION_TAKEN = """
    SELECT a.id AS archived_id, a.{name} AS archived_name, here.id AS here_id, here.{name} AS here_name
    FROM archived_{table} a JOIN {table} here ON (here.id = a.id) <> ({here} = {archived})
    ORDER BY a.id
"""
# The bytes that were hashed when the batch was sealed.
_SEALED_WRONG = text("""
    SELECT 1 FROM archived_batches
    WHERE encode(sha256(convert_to(config_snapshot::text, 'UTF8')), 'hex') <> config_sha256
""")
_ARCHIVED_FILES = text("""
    SELECT a.raw_path, a.filepath, a.filename, p.state, p.reason
    FROM archived_documents a JOIN archived_batch_documents p ON p.document_id = a.id
""")
_FILE_TWICE = text("""
    SELECT 1 FROM archived_documents GROUP BY folder_id, sha256(raw_path) HAVING count(*) > 1 LIMIT 1
""")
_ARCHIVED_CONNECTIONS = """
    (SELECT a.* FROM archived, json_to_recordset(line -> 'connections')
        AS a(id int, provider_type text, model_name text)) AS a
"""
# Providers and models are identified by their names.
_FOLLOW_MODELS = (
    text(f"""
        INSERT INTO llm_providers (provider_type)
        SELECT DISTINCT provider_type FROM {_ARCHIVED_CONNECTIONS}
        WHERE NOT EXISTS (SELECT 1 FROM llm_providers p WHERE p.provider_type = a.provider_type)
    """),
    text(f"""
        INSERT INTO models (provider_id, model_name)
        SELECT DISTINCT p.id, a.model_name
        FROM {_ARCHIVED_CONNECTIONS} JOIN llm_providers p USING (provider_type)
        WHERE NOT EXISTS (SELECT 1 FROM models m WHERE m.provider_id = p.id AND m.model_name = a.model_name)
    """),
    text(f"""
        UPDATE archived_connections c SET provider_id = p.id, model_id = m.id
        FROM {_ARCHIVED_CONNECTIONS}
        JOIN llm_providers p USING (provider_type)
        JOIN models m ON m.provider_id = p.id AND m.model_name = a.model_name
        WHERE a.id = c.id
    """),
)
# Archives of earlier versions have only the prices of connections. The report is set once it is written.
_MARK_ARCHIVED = text("""
    UPDATE archived_batches
    SET archived_at = CAST(:archived_at AS timestamptz), archive_file = :file, archive_sha256 = :sha256,
        report_file = NULL, processed_documents = :contents, is_foreign = true,
        -- Computed from the rows once they are restored.
        result_digest = CASE WHEN status IN ('COMPLETED', 'FAILED') THEN '0000000000000000' END,
        reported_digest = CASE WHEN status IN ('COMPLETED', 'FAILED') THEN '0000000000000000' END,
        prices_at_completion = CASE WHEN status IN ('COMPLETED', 'FAILED') THEN coalesce(
            prices_at_completion,
            (SELECT jsonb_object_agg(id, prices) FROM archived_connections WHERE prices IS NOT NULL),
            '{}') END
""")
# As in `dump`: no scan may find a file while it is added or removed.
_BLOCK_SCANS = text("LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE")
_FIND_FILES = text("""
    CREATE TEMPORARY TABLE archived_file_ids ON COMMIT DROP AS
    SELECT a.id, same.id IS NULL AS missing,
           coalesce(same.id, CASE WHEN taken.id IS NULL THEN a.id
                                  ELSE nextval(pg_get_serial_sequence('documents', 'id')) END) AS here
    FROM archived_documents a
    LEFT JOIN documents same ON same.folder_id = a.folder_id AND sha256(same.raw_path) = sha256(a.raw_path)
    LEFT JOIN documents taken ON taken.id = a.id
""")
_PLACE_FILES = (
    text("DELETE FROM archived_documents a USING archived_file_ids f WHERE f.id = a.id AND NOT f.missing"),
    text("UPDATE archived_documents a SET id = f.here FROM archived_file_ids f WHERE f.id = a.id"),
    text("""
        UPDATE archived_batch_documents SET document_id = f.here
        FROM archived_file_ids f WHERE f.id = document_id
    """),
)
_FOLLOW_CONTENTS = text("""
    UPDATE archived_batch_documents p SET knowledge_document_id = moved.now
    FROM unnest(CAST(:before AS bigint[]), CAST(:now AS bigint[])) AS moved(before, now)
    WHERE p.knowledge_document_id = moved.before
""")
_LOAD_FILES = (
    text("DELETE FROM batch_documents WHERE batch_id = :batch_id"),
    text("INSERT INTO documents SELECT * FROM archived_documents ORDER BY id"),
    text("INSERT INTO batch_documents SELECT * FROM archived_batch_documents ORDER BY document_id"),
)
_MARK_RESTORED = text("""
    UPDATE batches SET archived_at = NULL, archive_file = NULL, archive_sha256 = NULL,
                       report_file = CASE WHEN reported_digest IS NOT NULL THEN report_file END
    WHERE id = :batch_id
""")
# The same, already reported results under the digest that they have here.
_FOLLOW_DIGEST = text("""
    UPDATE batches SET reported_digest = :digest, result_digest = :digest
    WHERE id = :batch_id AND reported_digest = result_digest
""")


@dataclass(frozen=True)
class Members:
    """The members of an archive for doc_eval: JSON in pieces; each member can be read repeatedly."""

    batch: Callable[[], Iterable[bytes]]
    files: Callable[[], Iterable[bytes]]
    progress: Callable[[], Iterable[bytes]]
    history: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file of an archived batch: path on disk, display path, name, state and reason."""

    raw_path: bytes
    filepath: str
    filename: str
    state: str
    reason: str | None


def is_same_batch(connection: Connection, batch: Mapping[str, Any]) -> bool | None:
    """Whether the batch with this id is the archived one; None if no batch has this id.

    Parameters
    ----------
    batch
        The archived row of `batches`.
    """
    same: bool | None = connection.scalar(_SAME_BATCH, dict(batch))
    return same


def archive_sha256_of(connection: Connection, batch_id: int) -> str | None:
    """sha256 of the archive of a batch; None if it is not archived."""
    sha256: str | None = connection.scalar(_ARCHIVE_SHA256, {"id": batch_id})
    return sha256


def is_foreign(connection: Connection, batch_id: int) -> bool:
    """Whether a batch was restored from an archive of another installation."""
    return bool(connection.scalar(_IS_FOREIGN, {"id": batch_id}))


def existing_connections(connection: Connection) -> list[dict[str, Any]]:
    """All connections, in the form of a sealed configuration."""
    return list(connection.scalars(_EXISTING_CONNECTIONS))


def existing_folders(connection: Connection, paths: Sequence[str]) -> set[str]:
    """The given folder paths that batches here have."""
    return set(connection.scalars(_EXISTING_FOLDERS, {"paths": list(paths)}))


def read_batch(connection: Connection, members: Members, batch: Mapping[str, Any], file: str) -> None:
    """Reads a new batch into temporary tables with the constraints of the real ones.

    Parameters
    ----------
    batch
        The archived row of `batches`.
    file
        Name of the archive.

    Raises
    ------
    ArchiveError
        An id or a name is in use here, or the rows are inconsistent.
    """
    read_value(connection, "archived", members.batch())
    _read_into(connection, "batches", _BATCH_SOURCE)
    for table in SELECTED:
        _read_into(connection, table, _LIST.format(name=table))
    for table, member in (("batch_progress", members.progress), ("connection_history", members.history)):
        read_lines(connection, f"lines_of_{table}", member())
        _read_into(connection, table, f"SELECT line FROM lines_of_{table}")
    if connection.scalar(_SEALED_WRONG):
        raise ArchiveError(
            f"{file} is damaged (its configuration differs from the sealed one): use another copy"
        )
    problems = [*_batch_taken(connection, batch), *_selection_taken(connection)]
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ArchiveError(
            f"{file} conflicts with this installation: {problems[0]}{more}: restore it into a separate "
            "installation, with DOCEVAL_HOME set to another folder"
        )


def register_batch(
    connection: Connection, batch_id: int, file: str, when: str, sha256: str, documents: int
) -> None:
    """Adds the batch that was read to this installation, as an archived batch.

    In the caller's transaction, with the selection of the batch; all ids stay the same.

    Parameters
    ----------
    file, when, sha256
        Name, time and sha256 of the archive.
    documents
        Number of documents with results.
    """
    connection.execute(
        _MARK_ARCHIVED, {"archived_at": when, "file": file, "sha256": sha256, "contents": documents}
    )
    for statement in _FOLLOW_MODELS:
        connection.execute(statement)
    for table in SELECTED:
        reserve_ids(connection, table, _largest(connection, table))
        connection.execute(
            text(f"""
                INSERT INTO {table} SELECT * FROM archived_{table} a
                WHERE NOT EXISTS (SELECT 1 FROM {table} here WHERE here.id = a.id)
            """)
        )
    reserve_ids(connection, "batches", batch_id)
    for table in ("batches", "batch_progress", "connection_history"):
        connection.execute(text(f"INSERT INTO {table} SELECT * FROM archived_{table}"))
    for table, (_, column) in SELECTED.items():
        link = f"INSERT INTO batch_{table} (batch_id, {column}) SELECT :batch_id, id FROM archived_{table}"
        connection.execute(text(link), {"batch_id": batch_id})


def read_files(connection: Connection, members: Members, file: str) -> None:
    """Reads the files of a batch into temporary tables with the constraints of the real ones.

    Raises
    ------
    ArchiveError
        A file is duplicated.
    """
    read_lines(connection, "lines_of_files", members.files())
    _read_into(connection, "documents", "SELECT line -> 'document' AS line FROM lines_of_files")
    _read_into(connection, "batch_documents", "SELECT line -> 'in_batch' AS line FROM lines_of_files")
    if connection.scalar(_FILE_TWICE):
        raise ArchiveError(f"{file} is damaged (it contains a file of the batch twice): use another copy")


def archived_files(connection: Connection) -> Iterator[ArchivedFile]:
    """The files that were read."""
    for row in connection.execute(_ARCHIVED_FILES, execution_options={"yield_per": 1_000}):
        yield ArchivedFile(bytes(row.raw_path), row.filepath, row.filename, row.state, row.reason)


def load_files(connection: Connection, batch_id: int, moved: Mapping[int, int]) -> None:
    """Loads the files that were read, in the caller's transaction; replaces existing files of the batch.

    Parameters
    ----------
    moved
        Current `docs.id` by archived `docs.id`, for documents whose id has changed.
    """
    connection.execute(_BLOCK_SCANS)
    reserve_ids(connection, "documents", _largest(connection, "documents"))
    connection.execute(_FIND_FILES)
    for statement in _PLACE_FILES:
        connection.execute(statement)
    connection.execute(_FOLLOW_CONTENTS, {"before": list(moved), "now": list(moved.values())})
    for statement in _LOAD_FILES:
        connection.execute(statement, {"batch_id": batch_id})


def mark_restored(connection: Connection, batch_id: int, digest: str) -> None:
    """Marks a batch as no longer archived.

    Parameters
    ----------
    digest
        Digest of its results.
    """
    connection.execute(_FOLLOW_DIGEST, {"batch_id": batch_id, "digest": digest})
    connection.execute(_MARK_RESTORED, {"batch_id": batch_id})


def _batch_taken(connection: Connection, batch: Mapping[str, Any]) -> Iterator[str]:
    row = connection.execute(_TAKEN, dict(batch)).first()
    if row is not None:
        yield _taken("batch", batch["id"], batch["batch_name"], row.id, row.batch_name)


def _selection_taken(connection: Connection) -> Iterator[str]:
    for table, (name, _) in SELECTED.items():
        # Paths are compared byte by byte; names that look alike to people count as equal.
        compared = (f"here.{name}", f"a.{name}")
        here, archived = compared if table == "folders" else map(normal_in_sql, compared)
        statement = _SELECTION_TAKEN.format(table=table, name=name, here=here, archived=archived)
        for row in connection.execute(text(statement)):
            yield _taken(table.removesuffix("s"), **row._mapping)


def _taken(kind: str, archived_id: int, archived_name: str, here_id: int, here_name: str) -> str:
    if archived_id == here_id:
        return f"{kind} number {archived_id} is already used here by {here_name!r}"
    return f"{kind} {archived_name!r} has number {here_id} here and {archived_id} in the archive"


def _read_into(connection: Connection, table: str, source: str) -> None:
    """Reads rows into a temporary table with the columns and constraints of `table`."""
    connection.execute(
        text(
            f"CREATE TEMPORARY TABLE archived_{table} "
            f"(LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) ON COMMIT DROP"
        )
    )
    insert_rows(connection, f"archived_{table}", source)


def _largest(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"SELECT coalesce(max(id), 0) FROM archived_{table}")).scalar_one())
