"""The files of a batch and their states: the tables `documents` and `batch_documents`.

Callers pass in what they found and stored. Nothing here reads a file or another database.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, TextClause, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.files import DocumentRange, Fingerprint, MeasuredDocument, document_ranges
from doceval_pipeline.portions import Progress, ignore_progress, in_parallel, in_portions

# Files sent to the server in one statement; rows read from it at a time. Larger portions leave more work
# after the last file was found: 2,500 took 5 % less time than 5,000 for 10,000 files.
PORTION = 2_500
# Stored documents that one database passes to the other at a time.
DOCUMENTS = 10_000
# Stored documents whose rows one statement queues. More are not faster, and progress is reported after each.
QUEUED_DOCUMENTS = 2_500

_FOUND_TABLE = text("""
    CREATE TEMPORARY TABLE found (
        folder_id int, raw_path bytea, filepath text, state text, reason text, file_size bigint,
        modified_ns bigint, etag text
    ) ON COMMIT DROP
""")
# Files that a statement brings along: the rows of the table `found`.
_SENT = """unnest(CAST(:folder_ids AS int[]), CAST(:raw_paths AS bytea[]), CAST(:filepaths AS text[]),
                  CAST(:states AS text[]), CAST(:reasons AS text[]), CAST(:sizes AS bigint[]),
                  CAST(:modified AS bigint[]), CAST(:etags AS text[]))
"""
_WITH_SENT = f"""
    WITH found AS (
        SELECT * FROM {_SENT}
            AS sent(folder_id, raw_path, filepath, state, reason, file_size, modified_ns, etag))
"""
_ADD_FOUND = text(f"INSERT INTO found SELECT * FROM {_SENT}")
_FOUND = text("""
    SELECT folder_id, raw_path, filepath, state, reason, file_size AS size, modified_ns, etag FROM found
    ORDER BY folder_id, raw_path
""")
_REMEMBER = """
    INSERT INTO documents (folder_id, raw_path, filepath, filename)
    SELECT f.folder_id, f.raw_path, f.filepath, regexp_replace(f.filepath, '^.*/', '')
    FROM found f
    ON CONFLICT (folder_id, sha256(raw_path)) DO NOTHING
"""
_FORGET_ASSIGNMENT = text("DELETE FROM batch_documents WHERE batch_id = :batch_id")
# Only objects have a version: files on disk are compared by their bytes.
_VERSION = "f.etag, CASE WHEN f.etag IS NOT NULL THEN f.modified_ns END"
# A subquery leaves one plan. Without statistics, a join may read all documents for each portion of files.
_ASSIGN = f"""
    INSERT INTO batch_documents (batch_id, document_id, state, reason, file_size, etag, modified_ns)
    SELECT :batch_id,
           (SELECT d.id FROM documents d
            WHERE d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)),
           f.state, f.reason, f.file_size, {_VERSION}
    FROM found f
"""
_REMEMBER_FOUND, _ASSIGN_FOUND = text(_REMEMBER), text(_ASSIGN)
_REMEMBER_SENT, _ASSIGN_SENT = text(_WITH_SENT + _REMEMBER), text(_WITH_SENT + _ASSIGN)
_ASSIGN_NEW = text(f"""
    INSERT INTO batch_documents (batch_id, document_id, state, reason, file_size, etag, modified_ns)
    SELECT :batch_id, d.id, f.state, f.reason, f.file_size, {_VERSION}
    FROM found f
    JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    WHERE NOT EXISTS (SELECT 1 FROM batch_documents b WHERE b.batch_id = :batch_id AND b.document_id = d.id)
""")
_ASSIGN_USABLE_NOW = text(f"""
    UPDATE batch_documents b
    SET state = 'ASSIGNED', reason = NULL, file_size = f.file_size, (etag, modified_ns) = ROW({_VERSION})
    FROM found f
    JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    WHERE b.batch_id = :batch_id AND b.document_id = d.id
      AND b.state IN ('SKIPPED', 'REJECTED') AND f.state = 'ASSIGNED'
""")
# A file that was not found still exists if its folder was found and not entered. '.' stands for a whole
# folder that is the same as another one of the batch.
_MARK_GONE = text("""
    WITH not_entered AS MATERIALIZED (
        SELECT folder_id, state, reason,
               CASE raw_path WHEN CAST('.' AS bytea) THEN CAST('' AS bytea)
                             ELSE raw_path || CAST('/' AS bytea) END AS beginning
        FROM found WHERE reason = ANY(:folder_reasons))
    UPDATE batch_documents b
    SET (state, reason) = (
            SELECT coalesce(f.state, n.state, 'REJECTED'), coalesce(f.reason, n.reason, 'vanished')
            FROM (SELECT 1) AS one
            LEFT JOIN not_entered n ON n.folder_id = d.folder_id
                AND substring(d.raw_path FOR octet_length(n.beginning)) = n.beginning
            LIMIT 1),
        knowledge_document_id = NULL
    FROM documents d
    LEFT JOIN found f ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    WHERE b.batch_id = :batch_id AND b.document_id = d.id
      AND b.state IN ('ASSIGNED', 'STAGED') AND coalesce(f.state, 'REJECTED') <> 'ASSIGNED'
""")
_FOLLOW_VERSIONS = text("""
    UPDATE batch_documents b SET etag = f.etag, modified_ns = f.modified_ns
    FROM documents d JOIN found f ON f.folder_id = d.folder_id AND sha256(f.raw_path) = sha256(d.raw_path)
    WHERE b.batch_id = :batch_id AND b.document_id = d.id AND b.state IN ('ASSIGNED', 'STAGED')
      AND f.etag IS NOT NULL
      AND (b.etag, b.modified_ns, b.file_size) IS DISTINCT FROM (f.etag, f.modified_ns, f.file_size)
    RETURNING b.document_id
""")
_ASSIGN_AGAIN = text("""
    UPDATE batch_documents SET state = 'ASSIGNED', reason = NULL, knowledge_document_id = NULL
    WHERE batch_id = :batch_id AND document_id = ANY(CAST(:file_ids AS bigint[]))
""")
# No join: PostgreSQL's statistics do not include files that were assigned just now, so it scanned all files
# of a folder for each file, which took minutes for 100,000 of them.
_FOLDER = "(SELECT f.folder_path FROM folders f WHERE f.id = d.folder_id)"
_STAGED = text(f"""
    SELECT b.document_id AS file_id, {_FOLDER} AS folder, d.raw_path, b.sha256, b.etag
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    WHERE b.batch_id = :batch_id AND b.state = 'STAGED'
      AND (b.etag IS NULL OR b.document_id = ANY(CAST(:other_versions AS bigint[])))
    ORDER BY b.document_id
""")
_SET_TOTAL = text("""
    UPDATE batches SET total_documents = (
        SELECT count(*) FROM batch_documents WHERE batch_id = :batch_id AND state IN ('ASSIGNED', 'STAGED'))
    WHERE id = :batch_id
""")
_TALLY = text("""
    SELECT state, coalesce(reason, '') AS reason, count(*) AS files,
           coalesce(sum(file_size), 0)::bigint AS bytes
    FROM batch_documents WHERE batch_id = :batch_id GROUP BY 1, 2 ORDER BY 1, 2
""")
_TALLIES = text("""
    SELECT batch_id, state, count(*) AS files,
           count(DISTINCT knowledge_document_id) FILTER (WHERE state = 'STAGED') AS stored_documents
    FROM batch_documents WHERE batch_id = ANY(:batch_ids) GROUP BY 1, 2
""")
# Without a choice of plan, because the statistics do not include files that were assigned just now: a page is
# read from the index in its order, and OFFSET 0 keeps each file's lookup apart from it.
_IN_ORDER_OF_THE_INDEX = text("SET LOCAL enable_sort = off")
_UNSTAGED = text(f"""
    SELECT b.document_id AS file_id, found.folder, found.raw_path, b.file_size AS size, b.etag
    FROM (SELECT document_id, file_size, etag FROM batch_documents
          WHERE batch_id = :batch_id AND state = 'ASSIGNED' AND (batch_id, document_id) > (:batch_id, :after)
          ORDER BY document_id LIMIT :most) AS b
    CROSS JOIN LATERAL (SELECT {_FOLDER} AS folder, d.raw_path FROM documents d
                        WHERE d.id = b.document_id OFFSET 0) AS found
    ORDER BY b.document_id
""")
# The rows of given files, without a choice of plan: one lookup for each file. The statistics do not include
# files that were assigned just now, and other plans read all files of the batch for each portion or file.
_LOOK_UP = text("""
    SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off
""")
_ROWS = """
    CROSS JOIN LATERAL (
        SELECT f.ctid FROM batch_documents f
        WHERE f.batch_id = :batch_id AND f.document_id = given.file_id AND f.state = 'ASSIGNED'
        OFFSET 0) AS assigned
    WHERE b.ctid = assigned.ctid
"""
_MARK_STAGED = text(f"""
    UPDATE batch_documents b
    SET state = 'STAGED', reason = NULL, file_size = given.size, sha256 = given.sha256,
        content_type = given.content_type, doc_type = given.doc_type,
        knowledge_document_id = given.document_id
    FROM unnest(CAST(:file_ids AS bigint[]), CAST(:sizes AS bigint[]), CAST(:sha256s AS text[]),
                CAST(:content_types AS text[]), CAST(:doc_types AS text[]), CAST(:document_ids AS bigint[]))
         AS given(file_id, size, sha256, content_type, doc_type, document_id)
    {_ROWS}
""")
_MARK_REJECTED = text(f"""
    UPDATE batch_documents b SET state = 'REJECTED', reason = given.reason
    FROM unnest(CAST(:file_ids AS bigint[]), CAST(:reasons AS text[])) AS given(file_id, reason)
    {_ROWS}
""")
_BACK_TO_ASSIGNED = text("""
    UPDATE batch_documents SET state = 'ASSIGNED', knowledge_document_id = NULL
    WHERE batch_id = :batch_id AND knowledge_document_id = ANY(CAST(:document_ids AS bigint[]))
      AND state = 'STAGED'
""")
_STORED_IDS = text("""
    SELECT DISTINCT knowledge_document_id FROM batch_documents
    WHERE batch_id = :batch_id AND state = 'STAGED' ORDER BY 1
""")
_USABLE = text("""
    SELECT d.folder_id, d.raw_path
    FROM batch_documents b JOIN documents d ON d.id = b.document_id
    WHERE b.batch_id = :batch_id AND b.state IN ('ASSIGNED', 'STAGED')
""")
_STAGED_DOCUMENTS = text("""
    SELECT DISTINCT sha256, file_size AS size, coalesce(content_type, '') AS content_type
    FROM batch_documents WHERE batch_id = :batch_id AND state = 'STAGED'
""")
# Of several files with the same document, the first in the order of paths.
_STORED_NAMES = text("""
    SELECT b.knowledge_document_id AS document_id, min(d.filepath COLLATE "C") AS path
    FROM batch_documents b JOIN documents d ON d.id = b.document_id
    WHERE b.batch_id = :batch_id AND b.state = 'STAGED' GROUP BY 1 ORDER BY 1
""")
_PATHS = text("""
    SELECT d.filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id
    WHERE b.batch_id = :batch_id AND coalesce(b.reason, '') = :reason ORDER BY d.id
""")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An entry of a folder; `size` in bytes and `modified_ns` since 1970, if known; `etag` of an object."""

    folder_id: int
    raw_path: bytes
    filepath: str
    state: str
    reason: str | None
    size: int | None
    modified_ns: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class UnstagedFile:
    """A file that is assigned and not stored yet; `size` in bytes, when the folder was walked.

    `folder` is a path or a URL. An object is read in the version `etag`.
    """

    file_id: int
    folder: str
    raw_path: bytes
    size: int
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file whose document is stored in `docs` under `document_id`."""

    file_id: int
    document: Fingerprint
    document_id: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A staged file, with the sha256 of its document, and the version to compare if it is an object."""

    file_id: int
    folder: str
    raw_path: bytes
    sha256: str
    etag: str | None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many files of a batch share a state and a reason, and their size in bytes."""

    state: str
    reason: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DocumentCounts:
    """Files of a batch by state; `distinct` counts their stored documents."""

    assigned: int = 0
    staged: int = 0
    skipped: int = 0
    rejected: int = 0
    distinct: int = 0


def write_assignment(
    connection: Connection, batch_id: int, files: Iterable[FoundFile], progress: Progress = ignore_progress
) -> None:
    """Replace a batch's assignment with the given files, in the caller's transaction.

    The server writes one portion of the files while the next one is being found.
    """
    connection.execute(_FORGET_ASSIGNMENT, {"batch_id": batch_id})
    portions = _found_portions(files, progress)
    for _ in in_parallel(partial(_assign, connection, batch_id), portions, workers=1):
        pass
    connection.execute(_SET_TOTAL, {"batch_id": batch_id})


def _found_portions(files: Iterable[FoundFile], progress: Progress) -> Iterator[list[FoundFile]]:
    """The portions of files that a walk finds; `progress` receives how many were found so far."""
    found = 0
    progress(found, None, 0)
    for portion in in_portions(files, PORTION):
        found += len(portion)
        progress(found, None, 0)
        yield portion
    progress(found, found, 0)


def _assign(connection: Connection, batch_id: int, files: Sequence[FoundFile]) -> None:
    sent = _as_arrays(files)
    connection.execute(_REMEMBER_SENT, sent)
    connection.execute(_ASSIGN_SENT, {**sent, "batch_id": batch_id})


def assign_found(connection: Connection, batch_id: int) -> None:
    """Replace a batch's assignment with the temporary table `found`."""
    connection.execute(_REMEMBER_FOUND)
    connection.execute(_FORGET_ASSIGNMENT, {"batch_id": batch_id})
    connection.execute(_ASSIGN_FOUND, {"batch_id": batch_id})
    connection.execute(_SET_TOTAL, {"batch_id": batch_id})


def remember_found(
    connection: Connection, files: Iterable[FoundFile], progress: Progress = ignore_progress
) -> None:
    """Store files in the temporary table `found`, and new ones in `documents`."""
    store_found(connection, files, progress)
    connection.execute(_REMEMBER_FOUND)


def store_found(
    connection: Connection, files: Iterable[FoundFile], progress: Progress = ignore_progress
) -> None:
    """Store files in the temporary table `found`, which ends with the transaction."""
    connection.execute(_FOUND_TABLE)
    for portion in _found_portions(files, progress):
        connection.execute(_ADD_FOUND, _as_arrays(portion))


def read_found(connection: Connection) -> list[FoundFile]:
    """The files in the temporary table `found`."""
    rows = connection.execute(_FOUND)
    return [FoundFile(**{**row._mapping, "raw_path": bytes(row.raw_path)}) for row in rows]


def assign_new(connection: Connection, batch_id: int) -> int:
    """Assign found files that the batch does not have yet, or that were not usable; returns how many."""
    added = connection.execute(_ASSIGN_NEW, {"batch_id": batch_id}).rowcount
    return added + connection.execute(_ASSIGN_USABLE_NOW, {"batch_id": batch_id}).rowcount


def assign_usable_now(
    connection: Connection, batch_id: int, files: Iterable[FoundFile], progress: Progress
) -> None:
    """Assign only files of a batch that were unusable and are usable now."""
    store_found(connection, files, progress)
    connection.execute(_ASSIGN_USABLE_NOW, {"batch_id": batch_id})
    connection.execute(_SET_TOTAL, {"batch_id": batch_id})


def mark_gone(connection: Connection, batch_id: int, folder_reasons: Sequence[str]) -> int:
    """Mark the batch's usable files that were not found or are no longer usable; returns how many.

    `folder_reasons` are the reasons for which a walk does not enter a folder.
    """
    parameters = {"batch_id": batch_id, "folder_reasons": list(folder_reasons)}
    return connection.execute(_MARK_GONE, parameters).rowcount


def follow_versions(connection: Connection, batch_id: int) -> list[int]:
    """Record the found versions of a batch's objects; returns the ids of those that had another version."""
    return list(connection.scalars(_FOLLOW_VERSIONS, {"batch_id": batch_id}))


def staged_files(
    connection: Connection, batch_id: int, other_versions: Sequence[int]
) -> Iterator[StoredFile]:
    """The files of a batch whose documents are stored. Reads a portion at a time.

    Of objects with a known version, only those in `other_versions`, given by their ids.
    """
    options = {"yield_per": PORTION}
    chosen = {"batch_id": batch_id, "other_versions": arrays.of_numbers(other_versions)}
    rows = connection.execute(_STAGED, chosen, execution_options=options)
    return (StoredFile(**{**row._mapping, "raw_path": bytes(row.raw_path)}) for row in rows)


def assign_again(connection: Connection, batch_id: int, file_ids: Sequence[int]) -> None:
    """Reset files to ASSIGNED, so that their bytes are read and stored again."""
    again = {"batch_id": batch_id, "file_ids": arrays.of_numbers(file_ids)}
    connection.execute(_ASSIGN_AGAIN, again)
    connection.execute(_SET_TOTAL, {"batch_id": batch_id})


def tally(connection: Connection, batch_id: int) -> list[Tally]:
    """Count a batch's files by state and reason."""
    return [Tally(**row._mapping) for row in connection.execute(_TALLY, {"batch_id": batch_id})]


def count_documents(connection: Connection, batch_ids: Sequence[int]) -> dict[int, DocumentCounts]:
    """Count the files of several batches by state, in one statement."""
    counts: dict[int, dict[str, int]] = {batch_id: {} for batch_id in batch_ids}
    for row in connection.execute(_TALLIES, {"batch_ids": list(batch_ids)}):
        counts[row.batch_id][row.state.lower()] = row.files
        if row.state == "STAGED":
            counts[row.batch_id]["distinct"] = row.stored_documents
    return {batch_id: DocumentCounts(**values) for batch_id, values in counts.items()}


def unstaged_files(
    connection: Connection, batch_id: int, after: int = 0, most: int | None = None
) -> list[UnstagedFile]:
    """The files of a batch that are assigned and not stored yet, in the order of their ids.

    The rest of the caller's transaction is planned without sorting (`enable_sort = off`).

    Parameters
    ----------
    after
        The id of the last file before them.
    most
        Their maximum number; None for all.
    """
    connection.execute(_IN_ORDER_OF_THE_INDEX)
    rows = connection.execute(_UNSTAGED, {"batch_id": batch_id, "after": after, "most": most})
    return [UnstagedFile(row.file_id, row.folder, bytes(row.raw_path), row.size, row.etag) for row in rows]


def mark_staged(connection: Connection, batch_id: int, files: Sequence[StagedFile]) -> None:
    """Record files as stored; skips files that are no longer ASSIGNED.

    The rest of the caller's transaction is planned with lookups (`_LOOK_UP`).
    """
    connection.execute(_LOOK_UP)
    connection.execute(
        _MARK_STAGED,
        {
            "batch_id": batch_id,
            "file_ids": arrays.of_numbers(f.file_id for f in files),
            "sizes": arrays.of_numbers(f.document.size for f in files),
            "sha256s": arrays.of_texts(f.document.sha256 for f in files),
            "content_types": arrays.of_texts(f.document.content_type for f in files),
            "doc_types": arrays.of_texts(f.document.doc_type for f in files),
            "document_ids": arrays.of_numbers(f.document_id for f in files),
        },
    )


def mark_rejected(connection: Connection, batch_id: int, reasons: dict[int, str]) -> None:
    """Record files as rejected; `reasons` is by file id. The transaction is planned as by `mark_staged`."""
    connection.execute(_LOOK_UP)
    connection.execute(
        _MARK_REJECTED,
        {
            "batch_id": batch_id,
            "file_ids": arrays.of_numbers(reasons),
            "reasons": arrays.of_texts(reasons.values()),
        },
    )
    connection.execute(_SET_TOTAL, {"batch_id": batch_id})


def unmark_staged(connection: Connection, batch_id: int, document_ids: Sequence[int]) -> int:
    """Reset files whose documents were deleted to ASSIGNED; returns how many."""
    vanished = {"batch_id": batch_id, "document_ids": arrays.of_numbers(document_ids)}
    return connection.execute(_BACK_TO_ASSIGNED, vanished).rowcount


def stored_document_ids(connection: Connection, batch_id: int) -> list[int]:
    """The distinct `docs.id` of a batch's staged files."""
    return list(connection.scalars(_STORED_IDS, {"batch_id": batch_id}))


def usable_files(connection: Connection, batch_id: int) -> set[tuple[int, bytes]]:
    """The usable files of a batch, each as the id of its folder and its path below it."""
    rows = connection.execute(_USABLE, {"batch_id": batch_id})
    return {(row.folder_id, bytes(row.raw_path)) for row in rows}


def staged_documents(connection: Connection, batch_id: int) -> dict[str, MeasuredDocument]:
    """A batch's staged documents, by sha256."""
    rows = connection.execute(_STAGED_DOCUMENTS, {"batch_id": batch_id})
    return {row.sha256: MeasuredDocument(row.size, row.content_type) for row in rows}


def stored_ranges(connection: Connection, batch_id: int) -> Iterator[DocumentRange]:
    """The stored documents of a batch, without names; at least one range. Reads a portion at a time."""
    return document_ranges((ids, ()) for (ids,) in _columns(connection, _STORED_IDS, batch_id, DOCUMENTS))


def named_ranges(connection: Connection, batch_id: int) -> Iterator[DocumentRange]:
    """As `stored_ranges`, with the path of a file below its folder for each document."""
    return document_ranges(_columns(connection, _STORED_NAMES, batch_id, QUEUED_DOCUMENTS))


def _columns(connection: Connection, statement: TextClause, batch_id: int, most: int) -> Iterator[Any]:
    """The columns of each portion of at most so many rows."""
    options = {"yield_per": most}
    rows = connection.execute(statement, {"batch_id": batch_id}, execution_options=options)
    return (tuple(zip(*portion, strict=True)) for portion in rows.partitions(most))


def paths(connection: Connection, batch_id: int, reason: str = "") -> Iterator[str]:
    """The shown paths of a batch's usable files, or of the files that are left out for `reason`."""
    options = {"yield_per": PORTION}
    yield from connection.execute(
        _PATHS, {"batch_id": batch_id, "reason": reason}, execution_options=options
    ).scalars()


def _as_arrays(files: Sequence[FoundFile]) -> dict[str, str]:
    return {
        "folder_ids": arrays.of_numbers(f.folder_id for f in files),
        "raw_paths": arrays.of_bytes(f.raw_path for f in files),
        "filepaths": arrays.of_texts(f.filepath for f in files),
        "states": arrays.of_texts(f.state for f in files),
        "reasons": arrays.of_texts(f.reason for f in files),
        "sizes": arrays.of_numbers(f.size for f in files),
        "modified": arrays.of_numbers(f.modified_ns for f in files),
        "etags": arrays.of_texts(f.etag for f in files),
    }
