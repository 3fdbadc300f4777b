"""Reads the files of a batch for its report: those left out, those evaluated, and the names of documents.

Files are ordered by their folder and their path below it.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.domain.files import EvaluatedFile, FileGroup, FileName

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
    SELECT f.folder_path, d.filepath, b.state, b.file_size AS size, b.knowledge_document_id
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    LEFT JOIN unnest(CAST(:first AS bigint[])) WITH ORDINALITY AS urgent(document_id, place)
        ON urgent.document_id = b.knowledge_document_id
    WHERE b.batch_id = :batch_id AND b.state IN ('STAGED', 'ASSIGNED')
    ORDER BY urgent.place NULLS LAST, f.folder_path, d.raw_path LIMIT :limit
""")
_FIRST_NAMES = text("""
    SELECT DISTINCT ON (b.knowledge_document_id) b.knowledge_document_id, f.folder_path, d.filepath
    FROM batch_documents b
    JOIN documents d ON d.id = b.document_id
    JOIN folders f ON f.id = d.folder_id
    WHERE b.batch_id = :batch_id AND b.knowledge_document_id = ANY(:document_ids)
    ORDER BY b.knowledge_document_id, f.folder_path, d.raw_path
""")


def folders(connection: Connection, batch_id: int) -> list[str]:
    """The folders in which files of a batch were found."""
    return list(connection.scalars(_FOLDERS, {"batch_id": batch_id}))


def files_left_out(connection: Connection, batch_id: int, names: int) -> list[FileGroup]:
    """Skipped and rejected files by state and reason, the largest group first; `names` of each at most."""
    groups: dict[tuple[str, str | None, int], list[FileName]] = {}
    for row in connection.execute(_LEFT_OUT, {"batch_id": batch_id, "names": names}):
        key = (row.state, row.reason, row.files)
        groups.setdefault(key, []).append(FileName(row.folder_path, row.filepath))
    return [
        FileGroup(state=state, reason=reason, files=files, names=tuple(named))
        for (state, reason, files), named in groups.items()
    ]


def evaluated_files(
    connection: Connection, batch_id: int, first: Sequence[int], limit: int
) -> list[EvaluatedFile]:
    """The first files that are evaluated or will be.

    Parameters
    ----------
    first
        Files of these documents come before the others, in this order.
    """
    rows = connection.execute(_EVALUATED, {"batch_id": batch_id, "first": list(first), "limit": limit})
    return [
        EvaluatedFile(
            name=FileName(row.folder_path, row.filepath),
            document_id=row.knowledge_document_id,
            state=row.state,
            size=row.size,
        )
        for row in rows
    ]


def first_names(connection: Connection, batch_id: int, document_ids: Sequence[int]) -> Mapping[int, FileName]:
    """The first file of each document; its other files are duplicates."""
    rows = connection.execute(_FIRST_NAMES, {"batch_id": batch_id, "document_ids": list(document_ids)})
    return {row.knowledge_document_id: FileName(row.folder_path, row.filepath) for row in rows}
