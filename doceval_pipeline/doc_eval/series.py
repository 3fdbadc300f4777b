"""Reads the series of recurring evaluations: occurrences with their batches, and files that changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.recurring import Outcome
from doceval_pipeline.domain.files import FileName

OCCURRENCES_READ = 1_000
"""The newest so many occurrences are added up and compared; earlier ones are counted."""

_COLUMNS = """
    o.due_at, o.outcome, o.reason, o.new_files, o.changed_files, o.unchanged_files, o.gone_files,
    o.batch_id, b.batch_name, b.status, b.started_at, b.completed_at, b.archived_at, b.cancelled_at,
    b.held_reason
"""
_OCCURRENCES = text(f"""
    SELECT {_COLUMNS}
    FROM occurrences o LEFT JOIN batches b ON b.id = o.batch_id
    WHERE o.recurring_id = :id ORDER BY o.due_at DESC LIMIT :most
""")
_TOTALS = text("""
    SELECT count(*), count(*) FILTER (WHERE outcome = 'MADE') FROM occurrences WHERE recurring_id = :id
""")
# Of the series of a batch: its own occurrence and those before it, newest first.
_UP_TO = text(f"""
    SELECT {_COLUMNS}
    FROM occurrences mine
    JOIN occurrences o ON o.recurring_id = mine.recurring_id AND o.due_at <= mine.due_at
    LEFT JOIN batches b ON b.id = o.batch_id
    WHERE mine.batch_id = :batch_id ORDER BY o.due_at DESC LIMIT :most
""")
# One line for each series; a digest of all that its page is made from.
_STATES = text("""
    SELECT r.id, r.name, encode(sha256(convert_to(
               concat_ws(E'\\n', r.name, r.definition ->> 'timezone', string_agg(format(
               '%s %s %s %s %s %s %s %s %s', extract(epoch FROM o.due_at), o.outcome, o.reason, o.batch_id,
               CASE WHEN b.status IN ('PAUSED', 'FAILED_STAGING')
                      OR b.status IN ('COMPLETED', 'FAILED') AND b.result_digest = b.reported_digest
                    THEN b.status END,
               b.reported_digest, b.archived_at IS NULL, b.cancelled_at IS NULL, b.held_reason),
               E'\\n' ORDER BY o.due_at)),
               'UTF8')), 'hex')
    FROM recurring_evaluations r
    JOIN LATERAL (SELECT * FROM occurrences o WHERE o.recurring_id = r.id
                  ORDER BY due_at DESC LIMIT :most) AS o ON true
    LEFT JOIN batches b ON b.id = o.batch_id
    GROUP BY r.id, r.name ORDER BY r.id
""")


def _changes(condition: str) -> TextClause:
    """Files that an occurrence found with other content than the newest occurrence before that had them."""
    return text(f"""
        WITH occurrence AS MATERIALIZED (
            SELECT batch_id, place
            FROM unnest(CAST(:batch_ids AS int[])) WITH ORDINALITY AS o(batch_id, place)),
        version AS (
            SELECT o.place, b.document_id AS file_id, b.batch_id, b.knowledge_document_id AS stored,
                   lag(b.batch_id) OVER versions AS batch_before,
                   lag(b.knowledge_document_id) OVER versions AS stored_before
            FROM occurrence o JOIN batch_documents b ON b.batch_id = o.batch_id
            WHERE b.state = 'STAGED' {condition}
            WINDOW versions AS (PARTITION BY b.document_id ORDER BY o.place)),
        changed AS (
            SELECT *, count(*) OVER () AS total FROM version
            WHERE stored <> stored_before AND (CAST(:batch_id AS int) IS NULL OR batch_id = :batch_id)
            ORDER BY place DESC, file_id LIMIT :most)
        SELECT c.batch_id, c.stored, c.batch_before, c.stored_before, f.folder_path, d.filepath, c.total
        FROM changed c JOIN documents d ON d.id = c.file_id JOIN folders f ON f.id = d.folder_id
        ORDER BY c.place DESC, f.folder_path, d.raw_path
    """)


_CHANGES_OF_SERIES = _changes("")
_CHANGES_OF_BATCH = _changes("""
    AND b.document_id IN (SELECT document_id FROM batch_documents WHERE batch_id = :batch_id)
""")


@dataclass(frozen=True, slots=True)
class RecordedOccurrence:
    """An occurrence with its batch, where it made one; times are UTC-aware."""

    due_at: datetime
    outcome: Outcome
    reason: str | None
    new_files: int
    changed_files: int
    unchanged_files: int
    gone_files: int
    batch_id: int | None
    batch_name: str | None
    status: Status | None
    started_at: datetime | None
    completed_at: datetime | None
    archived_at: datetime | None
    cancelled_at: datetime | None
    held_reason: str | None

    @property
    def has_results(self) -> bool:
        """Whether its batch is done, and its results are in the database."""
        is_done = self.status in (Status.COMPLETED, Status.FAILED)
        return is_done and self.archived_at is None and self.cancelled_at is None


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that an occurrence found with another content: batch and `docs.id` now and before."""

    batch_id: int
    stored: int
    batch_before: int
    stored_before: int
    file: FileName


@dataclass(frozen=True, slots=True)
class SeriesState:
    """A recurring evaluation with occurrences, and a digest of all that its page is made from."""

    id: int
    name: str
    digest: str


def series_occurrences(connection: Connection, recurring_id: int, most: int) -> list[RecordedOccurrence]:
    """The newest occurrences of a recurring evaluation, oldest first."""
    rows = connection.execute(_OCCURRENCES, {"id": recurring_id, "most": most}).all()
    return [_occurrence(row) for row in reversed(rows)]


def count_occurrences(connection: Connection, recurring_id: int) -> tuple[int, int]:
    """How many occurrences a recurring evaluation has, and how many of them made a batch."""
    total, made = connection.execute(_TOTALS, {"id": recurring_id}).one()
    return total, made


def occurrences_up_to(connection: Connection, batch_id: int, most: int) -> list[RecordedOccurrence]:
    """The occurrence of a batch and those before it, newest first; empty for any other batch."""
    return [_occurrence(row) for row in connection.execute(_UP_TO, {"batch_id": batch_id, "most": most})]


def series_states(connection: Connection, most: int) -> list[SeriesState]:
    """All recurring evaluations that have an occurrence, with the state of their newest ones."""
    return [SeriesState(*row) for row in connection.execute(_STATES, {"most": most})]


def changed_files(
    connection: Connection, batch_ids: Sequence[int], most: int, batch_id: int | None = None
) -> tuple[list[FileChange], int]:
    """Files whose content changed within a series, newest occurrence first, and how many there are.

    Parameters
    ----------
    batch_ids
        The batches of the series, oldest first.
    most
        How many are returned.
    batch_id
        Only changes that this batch found.
    """
    statement = _CHANGES_OF_SERIES if batch_id is None else _CHANGES_OF_BATCH
    ids = arrays.of_numbers(batch_ids)
    rows = connection.execute(statement, {"batch_ids": ids, "most": most, "batch_id": batch_id}).all()
    changes = [
        FileChange(
            row.batch_id,
            row.stored,
            row.batch_before,
            row.stored_before,
            FileName(row.folder_path, row.filepath),
        )
        for row in rows
    ]
    return changes, rows[0].total if rows else 0


def _occurrence(row: Row[Any]) -> RecordedOccurrence:
    values = dict(row._mapping)
    values["outcome"] = Outcome(row.outcome)
    values["status"] = None if row.status is None else Status(row.status)
    return RecordedOccurrence(**values)
