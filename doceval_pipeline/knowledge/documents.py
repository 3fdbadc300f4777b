"""Writes documents into `docs` by COPY BINARY, streamed, each distinct document once.

Their content arrives as base64 in pieces, so that memory is bounded for documents of any size.
Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg2.errors
from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.files import Fingerprint
from doceval_pipeline.migrations.copying import copy

_COLUMNS = "document_id, sha256, content_type, doc_type, file_size, content"
_MESSAGE_BYTES = 256 * 1024
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_LENGTH = struct.Struct("!i")
_KNOWN = text("SELECT sha256, id FROM docs WHERE sha256 = ANY(CAST(:sha256s AS text[]))")
_STORED_UNDER_OTHER_TYPES = """
    FROM unnest(CAST(:sha256s AS text[]), CAST(:content_types AS text[])) AS found(sha256, content_type)
    JOIN docs ON docs.sha256 = found.sha256 AND docs.content_type <> found.content_type
"""
# Roles with the grants of an earlier release may not update the column: the stored type then stays.
_MAY_CORRECT = text(f"""
    SELECT has_column_privilege('docs', 'content_type', 'UPDATE')
       AND EXISTS (SELECT 1 {_STORED_UNDER_OTHER_TYPES})
""")
# Locks rows in the order in which documents are stored. The content is TOASTed and is not rewritten.
_CORRECT = text(f"""
    WITH wrong AS (
        SELECT docs.id, found.content_type {_STORED_UNDER_OTHER_TYPES}
        ORDER BY docs.sha256 FOR NO KEY UPDATE OF docs
    )
    UPDATE docs SET content_type = wrong.content_type FROM wrong WHERE docs.id = wrong.id
""")
# A role that was granted its rights by hand may not use the sequence; the rows then get their ids from it.
_RESERVED = text("""
    WITH ids AS MATERIALIZED (SELECT CAST(pg_get_serial_sequence('docs', 'id') AS regclass) AS sequence)
    SELECT nextval(ids.sequence) FROM ids CROSS JOIN generate_series(1, :count)
    WHERE has_sequence_privilege(ids.sequence, 'USAGE, UPDATE')
""")
_ABSENT = text("""
    SELECT wanted.id FROM unnest(CAST(:ids AS bigint[])) AS wanted(id)
    WHERE NOT EXISTS (SELECT 1 FROM docs WHERE docs.id = wanted.id)
""")


class DocumentArrived(Exception):
    """Another process stored one of the documents meanwhile: find the missing ones again."""


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to store.

    `content` yields the base64 of its bytes, `4 * ((size + 2) // 3)` bytes, in pieces. `id` is a reserved
    one, or that of a document stored before; then `created_at` is set, too, in microseconds since 2000.
    """

    fingerprint: Fingerprint
    content: Iterable[bytes]
    id: int | None = None
    created_at: int | None = None


def find_documents(connection: Connection, sha256s: Sequence[str]) -> dict[str, int]:
    """The documents that are stored already: `docs.id` by sha256."""
    rows = connection.execute(_KNOWN, {"sha256s": arrays.of_texts(sha256s)})
    return {row.sha256: row.id for row in rows}


def correct_types(connection: Connection, content_types: Mapping[str, str]) -> None:
    """Correct the content types of stored documents, by sha256, where an earlier release detected another."""
    given = {
        "sha256s": arrays.of_texts(content_types),
        "content_types": arrays.of_texts(content_types.values()),
    }
    if connection.scalar(_MAY_CORRECT, given):
        connection.execute(_CORRECT, given)


def missing_documents(connection: Connection, ids: Sequence[int]) -> list[int]:
    """The given `docs.id` that are not stored."""
    return list(connection.scalars(_ABSENT, {"ids": arrays.of_numbers(ids)}))


def take_ids(connection: Connection, count: int) -> list[int]:
    """Take ids for new documents from the sequence of `docs`; empty if the role may not."""
    return list(connection.scalars(_RESERVED, {"count": count}))


def copy_documents(
    connection: Connection,
    documents: Iterable[NewDocument],
    *,
    with_ids: bool = False,
    with_times: bool = False,
) -> None:
    """Store documents that are not stored yet, in the caller's transaction.

    Pass them ordered by sha256, so that two processes that store the same documents at once cannot deadlock.

    Parameters
    ----------
    with_ids, with_times
        Store each document with its `id` and its `created_at`, instead of new values.

    Raises
    ------
    DocumentArrived
        Another process stored one of them; the transaction must be rolled back.
    Exception
        Whatever a document's `content` raised; the transaction must be rolled back.
    """
    columns = "id, " * with_ids + "created_at, " * with_times + _COLUMNS
    statement = f"COPY docs ({columns}) FROM STDIN (FORMAT binary)"
    try:
        copy(
            connection, statement, _joined(_binary_rows(documents, with_ids=with_ids, with_times=with_times))
        )
    except psycopg2.errors.UniqueViolation:
        raise DocumentArrived from None


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces: each one costs a call and a message, whatever its size."""
    buffer: list[bytes] = []
    size = 0
    for piece in pieces:
        buffer.append(piece)
        size += len(piece)
        if size >= _MESSAGE_BYTES:
            yield b"".join(buffer)
            buffer, size = [], 0
    yield b"".join(buffer)


def _binary_rows(
    documents: Iterable[NewDocument], *, with_ids: bool = False, with_times: bool = False
) -> Iterator[bytes]:
    yield _HEADER
    for document in documents:
        fingerprint = document.fingerprint
        length = 4 * ((fingerprint.size + 2) // 3)
        before = [document.id] * with_ids + [document.created_at] * with_times
        yield b"".join(
            (
                struct.pack("!h", 6 + len(before)),
                *(_field(struct.pack("!q", value)) for value in before),
                _field(b"sha256:" + fingerprint.sha256.encode()),
                _field(fingerprint.sha256.encode()),
                _field(fingerprint.content_type.encode()),
                _field(fingerprint.doc_type.encode()),
                _field(struct.pack("!q", fingerprint.size)),
                _LENGTH.pack(length),
            )
        )
        yield from (piece for piece in document.content if piece)
    yield _TRAILER


def _field(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
