"""Writes document contents into `docs` by COPY BINARY, streamed, each distinct content once.

Contents arrive as base64 in pieces, so that memory stays bounded however large a document is.
Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg2.errors
from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.migrations.copying import copy

_COLUMNS = "document_id, sha256, content_type, doc_type, file_size, content"
_COPY = f"COPY docs ({_COLUMNS}) FROM STDIN (FORMAT binary)"
_COPY_AS_IT_WAS = f"COPY docs (id, created_at, {_COLUMNS}) FROM STDIN (FORMAT binary)"
_MESSAGE_BYTES = 256 * 1024
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_LENGTH = struct.Struct("!i")
_KNOWN = text("SELECT sha256, id FROM docs WHERE sha256 = ANY(CAST(:sha256s AS text[]))")
_STORED_UNDER_OTHER_TYPES = """
    FROM unnest(CAST(:sha256s AS text[]), CAST(:content_types AS text[])) AS found(sha256, content_type)
    JOIN docs ON docs.sha256 = found.sha256 AND docs.content_type <> found.content_type
"""
# Roles that were granted by an earlier release may not write it; they keep the type that is stored.
_MAY_CORRECT = text(f"""
    SELECT has_column_privilege('docs', 'content_type', 'UPDATE')
       AND EXISTS (SELECT 1 {_STORED_UNDER_OTHER_TYPES})
""")
# Locked in the order in which contents are stored. A content lies beside its row and is not written anew.
_CORRECT = text(f"""
    WITH wrong AS (
        SELECT docs.id, found.content_type {_STORED_UNDER_OTHER_TYPES}
        ORDER BY docs.sha256 FOR NO KEY UPDATE OF docs
    )
    UPDATE docs SET content_type = wrong.content_type FROM wrong WHERE docs.id = wrong.id
""")
_ABSENT = text("""
    SELECT wanted.id FROM unnest(CAST(:ids AS bigint[])) AS wanted(id)
    WHERE NOT EXISTS (SELECT 1 FROM docs WHERE docs.id = wanted.id)
""")


class DocumentArrived(Exception):
    """Another process stored one of the contents in the meantime: look again which are missing."""


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A content to store.

    `file_size` is in bytes of the document itself; `content` gives its base64 in pieces that add
    up to `4 * ((file_size + 2) // 3)` bytes. `id` and `created_at`, in microseconds since 2000, are given
    only where the content had them before.
    """

    sha256: str
    file_size: int
    content_type: str
    doc_type: str
    content: Iterable[bytes]
    id: int | None = None
    created_at: int | None = None


def find_documents(connection: Connection, sha256s: Sequence[str]) -> dict[str, int]:
    """Which contents are stored already: `docs.id` by sha256."""
    return {row[0]: row[1] for row in connection.execute(_KNOWN, {"sha256s": arrays.of_texts(sha256s)})}


def correct_types(connection: Connection, content_types: Mapping[str, str]) -> None:
    """Write the content type of stored contents, given by sha256, where an earlier release found another."""
    given = {
        "sha256s": arrays.of_texts(content_types),
        "content_types": arrays.of_texts(content_types.values()),
    }
    if connection.scalar(_MAY_CORRECT, given):
        connection.execute(_CORRECT, given)


def missing_documents(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Which of some `docs.id` are not there (any more)."""
    return list(connection.scalars(_ABSENT, {"ids": arrays.of_numbers(ids)}))


def copy_documents(connection: Connection, documents: Iterable[NewDocument], as_it_was: bool = False) -> None:
    """Store contents that are not there yet, in the caller's transaction.

    Give them ordered by sha256: two processes that store the same contents at once then wait for
    each other in turn, and never in a circle.

    Parameters
    ----------
    as_it_was
        Store each under the `id` and with the time that it gives, instead of new ones.

    Raises
    ------
    ContentArrived
        One of them was stored by another process; the transaction must be rolled back.
    Exception
        Whatever a document's `content` raised; the transaction must be rolled back.
    """
    try:
        copy(connection, _COPY_AS_IT_WAS if as_it_was else _COPY, _joined(_binary_rows(documents)))
    except psycopg2.errors.UniqueViolation:
        raise DocumentArrived from None


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of some size: each one costs a call and a message, whatever it holds."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _MESSAGE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _binary_rows(documents: Iterable[NewDocument]) -> Iterator[bytes]:
    yield _HEADER
    for document in documents:
        length = 4 * ((document.file_size + 2) // 3)
        before = [value for value in (document.id, document.created_at) if value is not None]
        yield b"".join(
            (
                struct.pack("!h", 6 + len(before)),
                *(_field(struct.pack("!q", value)) for value in before),
                _field(b"sha256:" + document.sha256.encode()),
                _field(document.sha256.encode()),
                _field(document.content_type.encode()),
                _field(document.doc_type.encode()),
                _field(struct.pack("!q", document.file_size)),
                _LENGTH.pack(length),
            )
        )
        yield from (piece for piece in document.content if piece)
    yield _TRAILER


def _field(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
