"""Reads what a report says of a batch's files: why some are left out, and the names of those it shows.

A file is told by the folder it was found in and its path below it; files are in the order of the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

_FOLDERS = text("""
    SELECT folder_path FROM folders
    WHERE id IN (SELECT d.folder_id FROM batch_documents b JOIN documents d ON d.id = b.document_id
                 WHERE b.batch_id = :batch_id)
    ORDER BY 1
""")
_LEFT_OUT = text("""
    SELECT state, reason, files, folder_path, filepath
    FROM (SELECT b.state, b.reason, f.folder_path, d.filepath, count(*) OVER alike AS files,
                 row_number() OVER (alike ORDER BY f.folder_path, d.raw_path) AS place
          FROM batch_documents b
          JOIN documents d ON d.id = b.document_id
          JOIN folders f ON f.id = d.folder_id
          WHERE b.batch_id = :batch_id AND b.state IN ('SKIPPED', 'REJECTED')
          WINDOW alike AS (PARTITION BY b.state, b.reason)) AS placed
    WHERE place <= :names
    ORDER BY files DESC, state, reason COLLATE "C" NULLS FIRST, place
""")
_EVALUATED = text("""
    SELECT f.folder_path, d.filepath, b.state, b.file_size, b.knowledge_document_id
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    LEFT JOIN unnest(CAST(:first AS bigint[])) WITH ORDINALITY AS urgent(stored_as, place)
        ON urgent.stored_as = b.knowledge_document_id
    WHERE b.batch_id = :batch_id AND b.state IN ('STAGED', 'ASSIGNED')
    ORDER BY urgent.place NULLS LAST, f.folder_path, d.raw_path LIMIT :limit
""")
_FIRST_NAMES = text("""
    SELECT DISTINCT ON (b.knowledge_document_id) b.knowledge_document_id, f.folder_path, d.filepath
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    WHERE b.batch_id = :batch_id AND b.knowledge_document_id = ANY(:stored)
    ORDER BY b.knowledge_document_id, f.folder_path, d.raw_path
""")


@dataclass(frozen=True, slots=True)
class FileName:
    """Where a file was found, and its path below."""

    folder: str
    path: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files that are not evaluated for the same reason: how many, and the names of the first."""

    state: str
    reason: str | None
    files: int
    names: tuple[FileName, ...]


@dataclass(frozen=True, slots=True)
class EvaluatedFile:
    """A file that is evaluated, or will be; `size` in bytes, `stored_as` None where it is not stored yet."""

    name: FileName
    state: str
    size: int | None
    stored_as: int | None


def folders(connection: Connection, batch_id: int) -> list[str]:
    """The folders in which files of a batch were found."""
    return list(connection.scalars(_FOLDERS, {"batch_id": batch_id}))


def files_left_out(connection: Connection, batch_id: int, names: int) -> list[LeftOut]:
    """Files that were skipped or rejected, by state and reason, the most frequent first.

    Parameters
    ----------
    names
        How many of each are named.
    """
    groups: dict[tuple[str, str | None, int], list[FileName]] = {}
    for state, reason, files, folder, path in connection.execute(
        _LEFT_OUT, {"batch_id": batch_id, "names": names}
    ):
        groups.setdefault((state, reason, files), []).append(FileName(folder, path))
    return [LeftOut(*key, tuple(found)) for key, found in groups.items()]


def evaluated_files(
    connection: Connection, batch_id: int, first: Sequence[int], limit: int
) -> list[EvaluatedFile]:
    """The first files that are evaluated, or will be.

    Parameters
    ----------
    first
        Files stored as one of these come before the others, in this order.
    """
    rows = connection.execute(_EVALUATED, {"batch_id": batch_id, "first": list(first), "limit": limit})
    return [EvaluatedFile(FileName(row[0], row[1]), *row[2:]) for row in rows]


def first_names(connection: Connection, batch_id: int, stored: Sequence[int]) -> Mapping[int, FileName]:
    """The first file of each of some stored contents; others with the same content are its duplicates."""
    rows = connection.execute(_FIRST_NAMES, {"batch_id": batch_id, "stored": list(stored)})
    return {row[0]: FileName(row[1], row[2]) for row in rows}
