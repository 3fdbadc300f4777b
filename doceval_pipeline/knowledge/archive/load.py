"""What an archive holds of KnowledgeDocuments, on its way back into the tables.

The rows are read into tables of the transaction first, where they can be compared and fitted in.
Ids of documents and rows name nothing outside the database; one that is taken by now is replaced.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.knowledge.archive.dump import RowsDigest
from doceval_pipeline.knowledge.digests import digest_sql
from doceval_pipeline.knowledge.outcomes import outcome_sql
from doceval_pipeline.migrations.rows import insert_rows, read_lines, read_value

# What a role must be allowed to do here, which is asked before anything is done.
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
# Locked, so that nobody removes a content that is used again.
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
    SELECT here, sha256, file_size, content_type, doc_type,
           (extract(epoch FROM created_at - timestamptz '2000-01-01Z') * 1000000)::bigint
    FROM archived_docs WHERE missing ORDER BY sha256 COLLATE "C"
""")
_MOVED = text("SELECT id, here FROM archived_docs WHERE id <> here")
_FOLLOW_DOCUMENTS = text("""
    UPDATE archived_attempts r SET document_id = a.here
    FROM archived_docs a WHERE a.id = r.document_id AND a.id <> a.here
""")
# The ids of rows may differ where they were restored once before, and a row may have become an answer since;
# all else may not differ.
_COMPARED = "(to_jsonb(r) - 'id' - 'is_answer')::text"
_SAME_ROWS = text(f"""
    SELECT (SELECT {digest_sql(_COMPARED)} FROM archived_attempts r)
         = (SELECT {digest_sql(_COMPARED)} FROM llm_responses r WHERE batch_id = :batch_id)
""")
# The numbers of another installation name other rows and batches here.
_FORGET_ORIGINS = text("UPDATE archived_attempts SET reused_batch_id = 0 WHERE reused_batch_id <> 0")
_FORGET_QUESTIONS = text("DELETE FROM batch_questions WHERE batch_id = :batch_id")
_REPLACE_TAKEN_IDS = text("""
    UPDATE archived_attempts r SET id = nextval(pg_get_serial_sequence('llm_responses', 'id'))
    FROM llm_responses taken WHERE taken.id = r.id
""")
_PUT_BACK_ROWS = text("INSERT INTO llm_responses SELECT * FROM archived_attempts ORDER BY id")
_CONFIG_TABLE = text("""
    CREATE TEMPORARY TABLE archived_config (LIKE batch_configs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    ON COMMIT DROP
""")
_ATTEMPT_TWICE = text("""
    SELECT 1 FROM archived_attempts
    GROUP BY document_id, prompt_id, connection_id, attempt HAVING count(*) > 1 LIMIT 1
""")
# Only the highest attempt of a cell is current, and none before it is missing.
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
# Claims take a row by its status alone: what is set aside must be done, too.
_OUTCOMES = text(f"""
    SELECT count(*) FILTER (WHERE NOT ({_IS_DONE})), count(*) FILTER (WHERE {_IS_CURRENT}),
           count(*) FILTER (WHERE {_IS_CURRENT} AND {outcome_sql()} = '{Outcome.SUCCEEDED}'),
           count(*) FILTER (WHERE deliveries - uncounted NOT BETWEEN 0 AND 5)
    FROM archived_attempts
""")
_OTHER_CONNECTION = text("""
    SELECT count(*) FROM archived_attempts r
    WHERE NOT EXISTS (
        SELECT 1 FROM archived_config, jsonb_array_elements(config -> 'connections') AS c
        WHERE c = r.connection_details AND (c ->> 'id')::int = r.connection_id)
""")
_PUT_BACK_CONFIG = text("""
    INSERT INTO batch_configs SELECT * FROM archived_config ON CONFLICT (batch_id) DO NOTHING
""")
# Without it, PostgreSQL takes a large batch that has just come for a few rows, and compares each row of it
# with every other; where the user may not, it says so and goes on.
_ANALYZE = (text("ANALYZE docs"), text("ANALYZE llm_responses"))
_PUBLISHED = text("SELECT sha256 FROM batch_configs WHERE batch_id = :batch_id")
_ROWS = text("SELECT count(*) FROM llm_responses WHERE batch_id = :batch_id")


@dataclass(frozen=True, slots=True)
class MissingContent:
    """A content that is to be stored under `id`; `size` in bytes, the time in microseconds since 2000."""

    id: int
    sha256: str
    size: int
    content_type: str
    doc_type: str
    created_at: int


def require_free_number(connection: Connection, batch_id: int, sha256: str, attempts: int) -> None:
    """Refuse a number under which another batch stands, or rows that are not those of the archive.

    Parameters
    ----------
    sha256
        Of the batch's sealed configuration.
    attempts
        How many rows the archive holds.

    Raises
    ------
    ArchiveError
    """
    published = connection.scalar(_PUBLISHED, {"batch_id": batch_id})
    if published not in (None, sha256):
        raise ArchiveError(
            f"KnowledgeDocuments holds another batch {batch_id}, of another doc_eval: restore into an "
            "installation whose KNOWLEDGE_DOCUMENTS_URL names a database of its own"
        )
    rows = connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one()
    if rows not in (0, attempts):
        raise _other_rows(batch_id, rows)


def read_config(connection: Connection, batch: Iterable[bytes]) -> None:
    """Read the published configuration into a table of the transaction.

    Parameters
    ----------
    batch
        The member of the batch, in pieces.
    """
    read_value(connection, "archived", batch)
    connection.execute(_CONFIG_TABLE)
    insert_rows(connection, "archived_config", "SELECT line -> 'published' AS line FROM archived")


def read_attempts(connection: Connection, rows: Iterable[bytes]) -> RowsDigest:
    """Read archived rows into a table of the transaction; the digest is as that of `rows_digest`.

    Parameters
    ----------
    rows
        In pieces of lines.
    """
    connection.execute(_ATTEMPTS_TABLE)
    read_lines(connection, "lines_of_attempts", rows)
    insert_rows(connection, "archived_attempts", "SELECT line FROM lines_of_attempts")
    count, digest = connection.execute(_ATTEMPTS_DIGEST).one()
    return RowsDigest(count, int(digest))


def read_docs(connection: Connection, rows: Iterable[bytes]) -> None:
    """Read archived rows of `docs` into a table of the transaction; `rows` come in pieces of lines."""
    connection.execute(_DOCS_TABLE)
    read_lines(connection, "lines_of_docs", rows)
    insert_rows(connection, "archived_docs", "SELECT line FROM lines_of_docs")


def problem_of_attempts(connection: Connection, expected: int, is_complete: bool | None) -> str | None:
    """Why the rows that were read cannot be those of a batch of another installation; None where they can.

    Parameters
    ----------
    expected
        How many cells the batch has; 0 where it was never queued.
    is_complete
        Whether it is said to be COMPLETED; None where any of its rows may have any outcome.
    """
    undone, current, succeeded, too_often = connection.execute(_OUTCOMES).one()
    if undone or current != expected:
        return "some are not done, missing or too many, those that are set aside included"
    if is_complete not in (None, succeeded > 0):
        return f"{succeeded} of them succeeded, and the status of the batch says otherwise"
    if too_often:
        return f"{too_often} of them were delivered more than five times"
    if connection.scalar(_OUT_OF_ORDER):
        return "they are not in order"
    if connection.scalar(_ATTEMPT_TWICE) or connection.scalar(_NO_SUCH_DOCUMENT):
        return "one is in it twice, or has no document"
    if connection.scalar(_OTHER_CONNECTION):
        return "they have other connections than the sealed configuration"
    return None


def place_docs(connection: Connection) -> list[MissingContent]:
    """Find a place for each document that was read: the stored content, or an id.

    Returns
    -------
    list[MissingContent]
        Those that are not stored, in the order of their sha256.
    """
    connection.execute(_USE_STORED)
    connection.execute(_GIVE_IDS)
    return [MissingContent(*row) for row in connection.execute(_MISSING)]


def moved_docs(connection: Connection) -> dict[int, int]:
    """The `docs.id` of now by the one in the archive, where they differ."""
    return {row[0]: row[1] for row in connection.execute(_MOVED)}


def put_back_rows(connection: Connection, batch_id: int) -> None:
    """Put the rows that were read back into the queue, unless just these are there.

    Raises
    ------
    ArchiveError
        Other rows of this batch are there.
    """
    connection.execute(_FOLLOW_DOCUMENTS)
    there = connection.execute(_ROWS, {"batch_id": batch_id}).scalar_one()
    if not there:
        connection.execute(_REPLACE_TAKEN_IDS)
        connection.execute(_PUT_BACK_ROWS)
        for statement in _ANALYZE:
            connection.execute(statement)
    elif not connection.execute(_SAME_ROWS, {"batch_id": batch_id}).scalar_one():
        raise _other_rows(batch_id, there)


def forget_origins(connection: Connection) -> None:
    """Call the batches unknown that the rows which were read were reused from: they are others here."""
    connection.execute(_FORGET_ORIGINS)


def put_back_config(connection: Connection, batch_id: int, is_trusted: bool) -> None:
    """Publish the configuration that was read again; another one must not be published.

    Parameters
    ----------
    is_trusted
        Whether the results of the batch may be reused: without its questions no batch finds them.
    """
    connection.execute(_PUT_BACK_CONFIG)
    if not is_trusted:
        connection.execute(_FORGET_QUESTIONS, {"batch_id": batch_id})


def _other_rows(batch_id: int, rows: int) -> ArchiveError:
    return ArchiveError(
        f"KnowledgeDocuments holds {rows} rows of batch {batch_id} that are not those of the archive: "
        f"doceval archive {batch_id} first, or find out which program wrote them"
    )
