"""The files that the newest occurrence of a recurring evaluation knew, and how found files compare with them.

Found files are in the temporary table `found` of the transaction; see `doc_eval.files`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from doceval_pipeline.domain.recurring import FileComparison

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition

# The usable files of the table `found`, compared with what the newest occurrence knew of them. A file that a
# batch could not read counts as changed: each time if the reason may have passed, otherwise once.
_COMPARED = """
    SELECT f.folder_id, f.raw_path, f.file_size, f.modified_ns, k.document_id,
           k.document_id IS NOT NULL AND (
               (k.file_size, k.modified_ns, k.etag) IS DISTINCT FROM (f.file_size, f.modified_ns, f.etag)
               OR EXISTS (SELECT 1 FROM batch_documents b
                          WHERE b.batch_id IN (k.batch_id, newest.batch_id) AND b.document_id = k.document_id
                            AND b.state = 'REJECTED'
                            AND (b.reason = ANY(CAST(:passing_reasons AS text[]))
                                 OR NOT EXISTS (
                                     SELECT 1 FROM batch_documents e
                                     JOIN occurrences o ON o.batch_id = e.batch_id
                                     WHERE o.recurring_id = :id AND e.document_id = b.document_id
                                       AND e.batch_id < b.batch_id AND e.state = 'REJECTED'))))
               AS is_changed
    FROM found f
    CROSS JOIN (SELECT max(batch_id) AS batch_id FROM occurrences WHERE recurring_id = :id) AS newest
    LEFT JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    LEFT JOIN recurring_files k ON k.recurring_id = :id AND k.document_id = d.id
    WHERE f.state = 'ASSIGNED'
"""
# Known files that no longer exist, usable or not. Files below a folder that was found but not entered count
# as existing, and so do those of a folder without any file, which may be a missing mount. Files below a
# folder that the definition no longer names are gone.
_GONE = """
    SELECT k.document_id
    FROM recurring_files k JOIN documents d ON d.id = k.document_id
    WHERE k.recurring_id = :id
      AND (d.folder_id IN (SELECT folder_id FROM found)
           OR d.folder_id NOT IN (SELECT id FROM folders WHERE folder_path = ANY(CAST(:paths AS text[]))))
      AND NOT EXISTS (SELECT 1 FROM found f
                      WHERE f.folder_id = d.folder_id AND sha256(f.raw_path) = sha256(d.raw_path))
      AND NOT EXISTS (SELECT 1 FROM not_entered n WHERE n.folder_id = d.folder_id
                        AND substring(d.raw_path FOR octet_length(n.beginning)) = n.beginning)
"""
_NOT_ENTERED = """
    not_entered AS MATERIALIZED (
        SELECT folder_id, CASE raw_path WHEN CAST('.' AS bytea) THEN CAST('' AS bytea)
                                        ELSE raw_path || CAST('/' AS bytea) END AS beginning
        FROM found WHERE reason = ANY(CAST(:folder_reasons AS text[])))
"""
_COMPARE = text(f"""
    WITH {_NOT_ENTERED}
    SELECT count(*) FILTER (WHERE document_id IS NULL) AS new, count(*) FILTER (WHERE is_changed) AS changed,
           count(*) FILTER (WHERE document_id IS NOT NULL AND NOT is_changed) AS unchanged,
           (SELECT count(*) FROM ({_GONE}) AS gone) AS gone
    FROM ({_COMPARED}) AS compared
""")
# A folder without any file, which may be a missing mount.
_EMPTY_FOLDER = text("""
    SELECT f.folder_path, count(*) AS files
    FROM recurring_files k JOIN documents d ON d.id = k.document_id JOIN folders f ON f.id = d.folder_id
    WHERE k.recurring_id = :id AND f.folder_path = ANY(CAST(:paths AS text[]))
      AND f.id NOT IN (SELECT folder_id FROM found)
    GROUP BY 1 ORDER BY 1 LIMIT 1
""")
# Files of the newest batch that changed or were missing when it read them.
_UNREAD = text("""
    SELECT EXISTS (
        SELECT 1 FROM batch_documents b
        JOIN recurring_files k ON k.document_id = b.document_id AND k.batch_id = b.batch_id
        WHERE k.recurring_id = :id AND b.state = 'REJECTED' AND b.reason = ANY(CAST(:reasons AS text[]))
          AND b.batch_id = (SELECT max(batch_id) FROM occurrences WHERE recurring_id = :id))
""")
_KEEP_NEW_AND_CHANGED = text(f"""
    DELETE FROM found f USING ({_COMPARED}) AS compared
    WHERE f.state = 'ASSIGNED' AND f.folder_id = compared.folder_id AND f.raw_path = compared.raw_path
      AND compared.document_id IS NOT NULL AND NOT compared.is_changed
""")
_FORGET_GONE = text(f"""
    WITH {_NOT_ENTERED}
    DELETE FROM recurring_files k WHERE k.recurring_id = :id AND k.document_id IN ({_GONE})
""")
# Files that a batch could not read and that are missing or unusable now: they count as new when they return.
_FORGET_UNREAD = text("""
    DELETE FROM recurring_files k USING documents d, batch_documents b
    WHERE k.recurring_id = :id AND d.id = k.document_id
      AND b.batch_id = k.batch_id AND b.document_id = k.document_id AND b.state = 'REJECTED'
      AND b.reason = ANY(CAST(:reasons AS text[]))
      AND NOT EXISTS (SELECT 1 FROM found f
                      WHERE f.folder_id = d.folder_id AND sha256(f.raw_path) = sha256(d.raw_path)
                        AND f.state = 'ASSIGNED')
""")
# Writes only differences: with scope `all`, most files are unchanged.
_REMEMBER_FILES = text("""
    INSERT INTO recurring_files AS k (recurring_id, document_id, file_size, modified_ns, etag, batch_id)
    SELECT :id, d.id, f.file_size, f.modified_ns, f.etag, :batch_id
    FROM found f
    JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    WHERE f.state = 'ASSIGNED'
    ON CONFLICT (recurring_id, document_id) DO UPDATE
    SET file_size = excluded.file_size, modified_ns = excluded.modified_ns, etag = excluded.etag,
        batch_id = excluded.batch_id
    WHERE (k.file_size, k.modified_ns, k.etag)
              IS DISTINCT FROM (excluded.file_size, excluded.modified_ns, excluded.etag)
       OR EXISTS (SELECT 1 FROM batch_documents r
                  WHERE r.batch_id = k.batch_id AND r.document_id = k.document_id
                    AND r.state = 'REJECTED')
""")


def compare_files(
    connection: Connection,
    recurring_id: int,
    definition: "RecurringDefinition",
    folder_reasons: Sequence[str],
    passing_reasons: Sequence[str],
) -> FileComparison:
    """Compare found files with those that the newest occurrence knew.

    Parameters
    ----------
    folder_reasons
        Why a folder was found but not entered.
    passing_reasons
        Why a file could not be read that may be readable by now.
    """
    parameters = {
        "id": recurring_id,
        "paths": list(definition.folders),
        "folder_reasons": list(folder_reasons),
        "passing_reasons": list(passing_reasons),
    }
    return FileComparison(**connection.execute(_COMPARE, parameters).one()._mapping)


def empty_folder(
    connection: Connection, recurring_id: int, definition: "RecurringDefinition"
) -> tuple[str, int] | None:
    """A folder without any found file, and the number of files known there; None if there is none."""
    row = connection.execute(_EMPTY_FOLDER, {"id": recurring_id, "paths": list(definition.folders)}).first()
    return None if row is None else (row.folder_path, row.files)


def has_unread(connection: Connection, recurring_id: int, reasons: Sequence[str]) -> bool:
    """Whether the newest batch could not read a file for one of the given reasons."""
    return bool(connection.scalar(_UNREAD, {"id": recurring_id, "reasons": list(reasons)}))


def keep_new_and_changed(connection: Connection, recurring_id: int, passing_reasons: Sequence[str]) -> None:
    """Remove usable files that are neither new nor changed from the table `found`."""
    connection.execute(_KEEP_NEW_AND_CHANGED, {"id": recurring_id, "passing_reasons": list(passing_reasons)})


def remember_files(connection: Connection, recurring_id: int, batch_id: int) -> None:
    """Record the usable found files, which a batch was assigned, as known."""
    connection.execute(_REMEMBER_FILES, {"id": recurring_id, "batch_id": batch_id})


def forget_gone(
    connection: Connection,
    recurring_id: int,
    definition: "RecurringDefinition",
    folder_reasons: Sequence[str],
) -> None:
    """Forget known files that were not found; call this before `keep_new_and_changed`."""
    parameters = {
        "id": recurring_id,
        "paths": list(definition.folders),
        "folder_reasons": list(folder_reasons),
    }
    connection.execute(_FORGET_GONE, parameters)


def forget_unread(connection: Connection, recurring_id: int, reasons: Sequence[str]) -> None:
    """Forget files that a batch could not read for one of the given reasons and that are not usable now."""
    connection.execute(_FORGET_UNREAD, {"id": recurring_id, "reasons": list(reasons)})
