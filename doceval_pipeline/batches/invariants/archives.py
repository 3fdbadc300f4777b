"""Invariants of archived batches: the archive file exists and both databases hold nothing of the batch."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.invariant import Database, Invariant, Scope
from doceval_pipeline.errors import ArchiveError

_ARCHIVED = text("""
    SELECT b.id AS batch_id, b.archive_file AS file,
           (SELECT count(*) FROM batch_documents f WHERE f.batch_id = b.id) AS files
    FROM batches b WHERE b.archived_at IS NOT NULL ORDER BY b.id
""")
_LEFT_OVER = text("""
    SELECT h.batch_id, h.file AS subject, h.file,
           format('%s rows, %s configurations and %s files remain', coalesce(r.rows, 0),
                  coalesce(c.configurations, 0), h.files) AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:file AS text[]), CAST(:files AS bigint[]))
        AS h(batch_id, file, files)
    LEFT JOIN (SELECT batch_id, count(*) AS rows FROM llm_responses GROUP BY batch_id) AS r USING (batch_id)
    LEFT JOIN (SELECT batch_id, count(*) AS configurations FROM batch_configs GROUP BY batch_id) AS c
        USING (batch_id)
    WHERE r.rows > 0 OR c.configurations > 0 OR h.files > 0
    ORDER BY h.batch_id
""")
_ARCHIVES = text("""
    SELECT b.id AS batch_id, b.archive_file AS subject, NULL AS problem, b.archive_file AS file,
           b.archive_sha256
    FROM batches b WHERE b.archived_at IS NOT NULL ORDER BY b.id
""")


def _archive_problem(databases: Databases, row: Mapping[str, Any], scope: Scope) -> str | None:
    try:
        with open_archive(databases.settings.archives / row["file"]) as archive:
            other = archive.manifest.batch != row["batch_id"] or (
                scope.every_byte and archive.sha256() != row["archive_sha256"]
            )
    except ArchiveError as error:
        return str(error)
    return "the file differs from the one that was written" if other else None


ARCHIVED_IS_GONE = Invariant(
    name="archived-is-gone",
    statement="the rows of every archived batch are removed from both databases",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_ARCHIVED,
    query=_LEFT_OVER,
    fix="run doceval archive {batch_id} again, or doceval restore {file}",
)
ARCHIVE_IS_THERE = Invariant(
    name="archive-is-there",
    statement="every archived batch has its archive file",
    runs_in=(Database.DOC_EVAL,),
    query=_ARCHIVES,
    inspect=_archive_problem,
    fix="put a copy of {file} into $DOCEVAL_HOME/archives",
)
INVARIANTS = (ARCHIVED_IS_GONE, ARCHIVE_IS_THERE)
