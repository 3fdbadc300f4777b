"""Loads the rows of an archive back into KnowledgeDocuments.

The rows are first read into temporary tables, where they are compared and adjusted. Ids of documents and rows
have no meaning outside of the database and are replaced if they are in use.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.files import Fingerprint
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.knowledge.archive.dump import RowsDigest
from doceval_pipeline.knowledge.digests import digest_sql
from doceval_pipeline.knowledge.outcomes import outcome_sql
from doceval_pipeline.migrations.rows import insert_rows, read_lines, read_value

# Rights that the role needs; checked before anything is changed.
RIGHTS = (
    ("docs", "SELECT, INSERT, UPDATE"),
    ("llm_responses", "SELECT, INSERT, DELETE"),
    ("current_llm_responses", "SELECT"),
    ("batch_configs", "SELECT, INSERT"),
    ("batch_questions", "SELECT, DELETE"),
)
NUMBERED = ("docs", "llm_responses")
FUNCTIONS = ("recount_responses",)

_ATTEMPTS_TABLE = text("""
    CREATE TEMPORARY TABLE archived_attempts (LIKE llm_responses INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    ON COMMIT DROP
""")
_DOCS_TABLE = text("""
    CREATE TEMPORARY TABLE archived_docs (
        id bigint, sha256 text, content_type text, doc_type text, file_size bigint, created_at timestamptz,
        here bigint, missing boolean NOT NULL DEFAULT false
    ) ON COMMIT DROP
""")
_ATTEMPTS_DIGEST = text(f"SELECT count(*), {digest_sql('r::text')} FROM archived_attempts r")
# Locked, so that no program removes a document that is used again.
_USE_STORED = text("""
    UPDATE archived_docs a SET here = stored.id
    FROM (SELECT id, sha256 FROM docs WHERE sha256 IN (SELECT sha256 FROM archived_docs)
          ORDER BY id FOR KEY SHARE) AS stored
    WHERE stored.sha256 = a.sha256
""")
_GIVE_IDS = text("""
    UPDATE archived_docs a
    SET missing = true,
        here = CASE WHEN EXISTS (SELECT 1 FROM docs WHERE docs.id = a.id)
                    THEN nextval(pg_get_serial_sequence('docs', 'id')) ELSE a.id END
    WHERE here IS NULL
""")
_MISSING = text("""
    SELECT here AS id, sha256, file_size AS size, content_type, doc_type,
           (extract(epoch FROM created_at - timestamptz '2000-01-01Z') * 1000000)::bigint AS created_at
    FROM archived_docs WHERE missing ORDER BY sha256 COLLATE "C"
""")
_MOVED = text("SELECT id, here FROM archived_docs WHERE id <> here")
_FOLLOW_DOCUMENTS = text("""
    UPDATE archived_attempts r SET document_id = a.here
    FROM archived_docs a WHERE a.id = r.document_id AND a.id <> a.here
""")
# Ids of rows may differ if they were restored once before, and a row may have become an answer since; nothing
# else may differ.
_COMPARED = "(to_jsonb(r) - 'id' - 'is_answer')::text"
_SAME_ROWS = text(f"""
    SELECT (SELECT {digest_sql(_COMPARED)} FROM archived_attempts r)
         = (SELECT {digest_sql(_COMPARED)} FROM llm_responses r WHERE batch_id = :batch_id)
""")
# Ids of another installation refer to other rows and batches here.
_CLEAR_ORIGINS = text("UPDATE archived_attempts SET reused_batch_id = 0 WHERE reused_batch_id <> 0")
_DELETE_QUESTIONS = text("DELETE FROM batch_questions WHERE batch_id = :batch_id")
_REPLACE_TAKEN_IDS = text("""
    UPDATE archived_attempts r SET id = nextval(pg_get_serial_sequence('llm_responses', 'id'))
    FROM llm_responses taken WHERE taken.id = r.id
""")
_LOAD_ROWS = text("INSERT INTO llm_responses SELECT * FROM archived_attempts ORDER BY id")
_CONFIG_TABLE = text("""
    CREATE TEMPORARY TABLE archived_config (LIKE batch_configs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    ON COMMIT DROP
""")
_ATTEMPT_TWICE = text("""
    SELECT 1 FROM archived_attempts
    GROUP BY document_id, prompt_id, connection_id, attempt HAVING count(*) > 1 LIMIT 1
""")
# Only the highest attempt of an evaluation is current, and no earlier one is missing.
_OUT_OF_ORDER = text("""
    SELECT 1 FROM archived_attempts
    GROUP BY document_id, prompt_id, connection_id
    HAVING count(*) <> max(attempt) OR count(*) FILTER (WHERE superseded_at IS NULL) <> 1
        OR max(attempt) FILTER (WHERE superseded_at IS NULL) <> max(attempt)
    LIMIT 1
""")
_NO_SUCH_DOCUMENT = text("""
    SELECT 1 FROM archived_attempts a
    WHERE NOT EXISTS (SELECT 1 FROM archived_docs d WHERE d.id = a.document_id) LIMIT 1
""")
_IS_DONE = f"{outcome_sql()} IN ('{Outcome.SUCCEEDED}', '{Outcome.FAILED}')"
_IS_CURRENT = "withdrawn_at IS NULL AND superseded_at IS NULL"
# Processors claim rows by status alone, so rows that are set aside must be done, too.
_OUTCOMES = text(f"""
    SELECT count(*) FILTER (WHERE NOT ({_IS_DONE})) AS unfinished,
           count(*) FILTER (WHERE {_IS_CURRENT}) AS current,
           count(*) FILTER (WHERE {_IS_CURRENT} AND {outcome_sql()} = '{Outcome.SUCCEEDED}') AS succeeded,
           count(*) FILTER (WHERE deliveries - uncounted NOT BETWEEN 0 AND 5) AS delivered_too_often
    FROM archived_attempts
""")
_OTHER_CONNECTION = text("""
    SELECT count(*) FROM archived_attempts r
    WHERE NOT EXISTS (
        SELECT 1 FROM archived_config, jsonb_array_elements(config -> 'connections') AS c
        WHERE c = r.connection_details AND (c ->> 'id')::int = r.connection_id)
""")
_LOAD_CONFIG = text("""
    INSERT INTO batch_configs SELECT * FROM archived_config ON CONFLICT (batch_id) DO NOTHING
""")
# Otherwise PostgreSQL assumes that a large restored batch has few rows and chooses nested loops. If the role
# may not analyze, PostgreSQL only logs a warning.
_ANALYZE = (text("ANALYZE docs"), text("ANALYZE llm_responses"))
_PUBLISHED = text("SELECT sha256 FROM batch_configs WHERE batch_id = :batch_id")
_ROWS = text("SELECT count(*) FROM llm_responses WHERE batch_id = :batch_id")


@dataclass(frozen=True, slots=True)
class MissingDocument:
    """A document to be stored under `id`; `created_at` in microseconds since 2000."""

    id: int
    fingerprint: Fingerprint
    created_at: int


def require_free_number(connection: Connection, batch_id: int, sha256: str, attempts: int) -> None:
    """Raises if another batch has this id, or rows that differ from the archive.

    Parameters
    ----------
    sha256
        sha256 of the sealed configuration of the batch.
    attempts
        Number of rows in the archive.

    Raises
    ------
    ArchiveError
    """
    published = connection.scalar(_PUBLISHED, {"batch_id": batch_id})
    if published not in (None, sha256):
        raise ArchiveError(
            f"KnowledgeDocuments has another batch {batch_id}, which belongs to another doc_eval: "
            "restore into an installation with its own KnowledgeDocuments (KNOWLEDGE_DOCUMENTS_URL)"
        )
    rows = connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one()
    if rows not in (0, attempts):
        raise _other_rows(batch_id, rows)


def read_config(connection: Connection, batch: Iterable[bytes]) -> None:
    """Reads the published configuration into a temporary table.

    Parameters
    ----------
    batch
        batch.json, in pieces.
    """
    read_value(connection, "archived", batch)
    connection.execute(_CONFIG_TABLE)
    insert_rows(connection, "archived_config", "SELECT line -> 'published' AS line FROM archived")


def read_attempts(connection: Connection, rows: Iterable[bytes]) -> RowsDigest:
    """Reads archived rows into a temporary table; returns their digest, as `rows_digest`.

    Parameters
    ----------
    rows
        Pieces of JSON lines.
    """
    connection.execute(_ATTEMPTS_TABLE)
    read_lines(connection, "lines_of_attempts", rows)
    insert_rows(connection, "archived_attempts", "SELECT line FROM lines_of_attempts")
    count, digest = connection.execute(_ATTEMPTS_DIGEST).one()
    return RowsDigest(count, int(digest))


def read_docs(connection: Connection, rows: Iterable[bytes]) -> None:
    """Reads archived rows of `docs` into a temporary table; `rows` are pieces of JSON lines."""
    connection.execute(_DOCS_TABLE)
    read_lines(connection, "lines_of_docs", rows)
    insert_rows(connection, "archived_docs", "SELECT line FROM lines_of_docs")


def attempts_problem(connection: Connection, expected: int, *, is_complete: bool | None) -> str | None:
    """Why the rows that were read cannot belong to a batch of another installation; None if they can.

    Parameters
    ----------
    expected
        Number of evaluations of the batch; 0 if it was never queued.
    is_complete
        Whether the archive says that it is COMPLETED; None if its rows may have any outcome.
    """
    counts = connection.execute(_OUTCOMES).one()
    if counts.unfinished or counts.current != expected:
        return "some are unfinished, missing or surplus, including rows that are set aside"
    if is_complete not in (None, counts.succeeded > 0):
        return f"{counts.succeeded} of them succeeded, which contradicts the status of the batch"
    if counts.delivered_too_often:
        return f"{counts.delivered_too_often} of them were delivered more than five times"
    if connection.scalar(_OUT_OF_ORDER):
        return "they are not in order"
    if connection.scalar(_ATTEMPT_TWICE) or connection.scalar(_NO_SUCH_DOCUMENT):
        return "one is duplicated or has no document"
    if connection.scalar(_OTHER_CONNECTION):
        return "their connections differ from the sealed configuration"
    return None


def assign_document_ids(connection: Connection) -> list[MissingDocument]:
    """Assigns an id to each document that was read: that of the stored document, or a free one.

    Returns
    -------
    list[MissingDocument]
        The documents that are not stored, ordered by sha256.
    """
    connection.execute(_USE_STORED)
    connection.execute(_GIVE_IDS)
    return [
        MissingDocument(
            row.id, Fingerprint(row.sha256, row.size, row.content_type, row.doc_type), row.created_at
        )
        for row in connection.execute(_MISSING)
    ]


def changed_document_ids(connection: Connection) -> dict[int, int]:
    """Current `docs.id` by archived `docs.id`, for documents whose id has changed."""
    return {row.id: row.here for row in connection.execute(_MOVED)}


def load_rows(connection: Connection, batch_id: int) -> None:
    """Loads the rows that were read into the queue, unless exactly these rows exist.

    Raises
    ------
    ArchiveError
        Other rows of this batch exist.
    """
    connection.execute(_FOLLOW_DOCUMENTS)
    existing = connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one()
    if not existing:
        connection.execute(_REPLACE_TAKEN_IDS)
        connection.execute(_LOAD_ROWS)
        for statement in _ANALYZE:
            connection.execute(statement)
    elif not connection.execute(_SAME_ROWS, {"batch_id": batch_id}).scalar_one():
        raise _other_rows(batch_id, existing)


def clear_origins(connection: Connection) -> None:
    """Clears the origin batches of reused rows: in this installation the ids mean other batches."""
    connection.execute(_CLEAR_ORIGINS)


def load_config(connection: Connection, batch_id: int, *, is_trusted: bool) -> None:
    """Publishes the configuration that was read, if the batch has none.

    Parameters
    ----------
    is_trusted
        Whether results of the batch may be reused. Otherwise its questions are deleted, so that no batch
        finds them.
    """
    connection.execute(_LOAD_CONFIG)
    if not is_trusted:
        connection.execute(_DELETE_QUESTIONS, {"batch_id": batch_id})


def _other_rows(batch_id: int, rows: int) -> ArchiveError:
    return ArchiveError(
        f"KnowledgeDocuments has {rows} rows of batch {batch_id} that differ from the archive: "
        f"run doceval archive {batch_id} first, or find the program that wrote them"
    )
