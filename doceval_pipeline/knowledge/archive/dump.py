"""Dumps the rows of a batch in KnowledgeDocuments for an archive, and removes them.

`load` restores them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.knowledge.digests import digest_sql
from doceval_pipeline.knowledge.reuse import IS_ANSWER

# Rights that the role needs; checked before anything is changed.
RIGHTS = (
    ("llm_responses", "SELECT, UPDATE, DELETE"),
    ("current_llm_responses", "SELECT"),
    ("docs", "SELECT, UPDATE, DELETE"),
    ("batch_configs", "SELECT, INSERT, DELETE"),
    ("batch_questions", "SELECT, DELETE"),
    ("response_deltas", "INSERT"),
)
# Rows, and small documents, per fetch.
ROWS_AT_A_TIME = 500
DOCUMENTS_AT_A_TIME = 16
# Documents up to this size are fetched whole, larger ones in pieces. In bytes, before encoding.
SMALL_DOCUMENT = 1024 * 1024
# Characters of base64; a multiple of 4, so that each piece can be decoded separately.
PIECE = 4 * 1024 * 1024

_CONFIG = text("SELECT row_to_json(c)::text FROM batch_configs c WHERE batch_id = :batch_id")
_HAS_CONFIG = text("SELECT EXISTS (SELECT 1 FROM batch_configs WHERE batch_id = :batch_id)")
_ATTEMPTS = text("""
    SELECT row_to_json(r)::text FROM llm_responses r WHERE batch_id = :batch_id ORDER BY id
""")
# Limit of texts in an archive. PostgreSQL knows lengths without reading the texts.
LARGEST_TEXT = 16 * 1024 * 1024
_TOO_LONG = text("""
    SELECT r.id, v.name, v.bytes
    FROM llm_responses r, LATERAL (VALUES
        ('response_text', octet_length(response_text)), ('response_json', octet_length(response_json)),
        ('error_message', octet_length(error_message)), ('task_id', octet_length(task_id)),
        ('worker', octet_length(worker)), ('file_name', octet_length(file_name)),
        ('status', octet_length(status))) AS v(name, bytes)
    WHERE r.batch_id = :batch_id AND v.bytes > :most
    ORDER BY r.id, v.name LIMIT 1
""")
_ROWS_DIGEST = text(f"""
    SELECT count(*), {digest_sql("r::text")} FROM llm_responses r WHERE batch_id = :batch_id
""")
_DOCUMENT_IDS = text("""
    SELECT document_id FROM llm_responses WHERE batch_id = :batch_id
    UNION SELECT unnest(CAST(:stored AS bigint[])) ORDER BY 1
""")
# Everything except the content, which an archive stores as a document.
DOC_COLUMNS = "id, document_id, sha256, content_type, doc_type, file_size, encoding, created_at"
_DOCS = text(f"""
    SELECT row_to_json(d)::text
    FROM (SELECT {DOC_COLUMNS} FROM docs WHERE id = ANY(:documents)) AS d ORDER BY sha256
""")
_DOCUMENTS = text("""
    SELECT id, sha256, file_size, CASE WHEN file_size <= :small THEN content END AS content
    FROM docs WHERE id = ANY(:documents) ORDER BY sha256
""")
# Cut from bytes, because substring() of a text counts characters from the beginning.
# OFFSET 0 keeps PostgreSQL from converting the whole content again for each piece.
_CONTENT_PIECES = text("""
    SELECT convert_from(substring(whole.content, start, :length), 'UTF8')
    FROM (SELECT convert_to(content, 'UTF8') AS content FROM docs WHERE id = :document_id OFFSET 0) AS whole,
         LATERAL generate_series(1, octet_length(whole.content), CAST(:length AS int)) AS start
""")
_REMOVE_ROWS = text(f"""
    WITH gone AS (DELETE FROM llm_responses r WHERE batch_id = :batch_id RETURNING r::text AS written)
    SELECT count(*), {digest_sql("written")} FROM gone
""")
_REMOVE_CONFIG = text("DELETE FROM batch_configs WHERE batch_id = :batch_id")
# For each removed answer, the newest row of another batch with the same origin becomes the answer, except
# superseded rows and rows of batches whose results are not reused. LATERAL with LIMIT reads the index
# llm_responses_reused once per answer; a join took 72 s instead of 9 s for 100,000 answers that were not
# analyzed yet.
_PROMOTE = text(f"""
    UPDATE llm_responses SET is_answer = true
    WHERE id IN (
        SELECT kept.id
        FROM (SELECT coalesce(r.reused_batch_id, r.batch_id) AS batch_id, coalesce(r.reused_from, r.id) AS id
              FROM llm_responses r WHERE r.batch_id = :batch_id AND {IS_ANSWER}) AS origin
        CROSS JOIN LATERAL (
            SELECT k.id FROM llm_responses k
            WHERE k.reused_from = origin.id AND k.reused_batch_id = origin.batch_id
              AND NOT k.is_answer AND k.superseded_at IS NULL AND k.batch_id <> :batch_id
              AND EXISTS (SELECT 1 FROM batch_questions q
                          WHERE (q.batch_id, q.prompt_id, q.connection_id)
                              = (k.batch_id, k.prompt_id, k.connection_id))
            ORDER BY k.id DESC LIMIT 1) AS kept)
""")
_REMOVE_QUESTIONS = text("DELETE FROM batch_questions WHERE batch_id = :batch_id")
# Once they are locked, no program can queue a row for them; rows queued earlier are found below.
_LOCK_DOCUMENTS = text("SELECT id FROM docs WHERE id = ANY(:documents) ORDER BY id FOR UPDATE")
_REMOVE_DOCUMENTS = text("""
    DELETE FROM docs WHERE id = ANY(:documents)
       AND NOT EXISTS (SELECT 1 FROM llm_responses r WHERE r.document_id = docs.id)
""")


@dataclass(frozen=True)
class RowsDigest:
    """Number of rows of a batch, with all attempts, and a digest of all their values."""

    rows: int
    digest: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document of `size` bytes; `pieces` is its base64, in separately decodable pieces."""

    sha256: str
    size: int
    pieces: Iterator[str]


def config_row(connection: Connection, batch_id: int) -> str:
    """The row of `batch_configs` as JSON.

    Raises
    ------
    ArchiveError
        The batch has no published configuration.
    """
    row: str | None = connection.scalar(_CONFIG, {"batch_id": batch_id})
    if row is None:
        raise ArchiveError(
            f"batch {batch_id} has no configuration in KnowledgeDocuments because it was deleted: "
            f"run doceval archive {batch_id} again"
        )
    return row


def has_config(connection: Connection, batch_id: int) -> bool:
    """Whether the configuration of a batch is published; it is removed together with the rows."""
    return bool(connection.scalar(_HAS_CONFIG, {"batch_id": batch_id}))


def require_short_texts(connection: Connection, batch_id: int) -> None:
    """Raises if a row has a text that is too long for an archive.

    Raises
    ------
    ArchiveError
        Names the first such row and its column.
    """
    row = connection.execute(_TOO_LONG, {"batch_id": batch_id, "most": LARGEST_TEXT}).first()
    if row is not None:
        raise ArchiveError(
            f"batch {batch_id} cannot be archived: {row.name} of llm_responses.id {row.id} has "
            f"{row.bytes:,} bytes, and an archive allows {LARGEST_TEXT:,}: shorten it, then run doceval "
            f"archive {batch_id} again"
        )


def attempt_rows(connection: Connection, batch_id: int) -> Iterator[str]:
    """All rows of a batch in `llm_responses` as JSON, ordered by id."""
    options = {"yield_per": ROWS_AT_A_TIME}
    yield from connection.execute(_ATTEMPTS, {"batch_id": batch_id}, execution_options=options).scalars()


def rows_digest(connection: Connection, batch_id: int) -> RowsDigest:
    """Count and digest of the rows of a batch; call `write_exactly` on the transaction first."""
    rows, digest = connection.execute(_ROWS_DIGEST, {"batch_id": batch_id}).one()
    return RowsDigest(rows, int(digest))


def document_ids(connection: Connection, batch_id: int, stored: Sequence[int]) -> list[int]:
    """The distinct `docs.id` of all rows of a batch and of its `stored` files."""
    return list(connection.scalars(_DOCUMENT_IDS, {"batch_id": batch_id, "stored": list(stored)}))


def doc_rows(connection: Connection, documents: Sequence[int]) -> Iterator[str]:
    """The given rows of `docs` without content, as JSON, ordered by sha256."""
    options = {"yield_per": ROWS_AT_A_TIME}
    yield from connection.execute(_DOCS, {"documents": list(documents)}, execution_options=options).scalars()


def stored_documents(connection: Connection, documents: Sequence[int]) -> Iterator[StoredDocument]:
    """The given documents, ordered by sha256, in bounded memory."""
    parameters = {"documents": list(documents), "small": SMALL_DOCUMENT}
    options = {"yield_per": DOCUMENTS_AT_A_TIME}
    for row in connection.execute(_DOCUMENTS, parameters, execution_options=options):
        pieces = _pieces(connection, row.id) if row.content is None else iter((row.content,))
        yield StoredDocument(row.sha256, row.file_size, pieces)


def remove_rows(connection: Connection, batch_id: int) -> RowsDigest:
    """Removes the rows and the configuration of a batch in the caller's transaction.

    Returns
    -------
    RowsDigest
        Of the removed rows, as `rows_digest`. If it differs from the archived one, the caller must roll
        back the transaction.
    """
    # First: waits for batches that are reusing results now; later ones find none.
    connection.execute(_REMOVE_QUESTIONS, {"batch_id": batch_id})
    connection.execute(_PROMOTE, {"batch_id": batch_id})
    rows, digest = connection.execute(_REMOVE_ROWS, {"batch_id": batch_id}).one()
    connection.execute(_REMOVE_CONFIG, {"batch_id": batch_id})
    return RowsDigest(rows, int(digest))


def remove_documents(connection: Connection, documents: Sequence[int]) -> int:
    """Removes the given documents that no row needs, in the caller's transaction; returns their number.

    Waits for programs that are queueing rows for them.
    """
    connection.execute(_LOCK_DOCUMENTS, {"documents": list(documents)})
    return connection.execute(_REMOVE_DOCUMENTS, {"documents": list(documents)}).rowcount


def _pieces(connection: Connection, document_id: int) -> Iterator[str]:
    parameters = {"document_id": document_id, "length": PIECE}
    yield from connection.execute(_CONTENT_PIECES, parameters, execution_options={"yield_per": 1}).scalars()
