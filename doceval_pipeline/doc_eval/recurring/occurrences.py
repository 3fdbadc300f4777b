"""Reads and records the occurrences of recurring evaluations, and the batches that they made."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline.doc_eval.lifecycle import CLOSED
from doceval_pipeline.domain.recurring import (
    FileComparison,
    Occurrence,
    OccurrenceOutcome,
    OccurrenceSummary,
    RecurringOrigin,
)

_RECORDED = """
    SELECT due_at, outcome, reason, batch_id, new_files, changed_files, unchanged_files, gone_files,
           recorded_at
    FROM occurrences WHERE recurring_id = :id
"""
_OCCURRENCES = text(f"{_RECORDED} ORDER BY due_at DESC LIMIT :most")
_OCCURRENCE = text(f"{_RECORDED} AND due_at = :due_at")
_RECORD = text("""
    INSERT INTO occurrences (recurring_id, due_at, outcome, reason, batch_id, new_files, changed_files,
                             unchanged_files, gone_files)
    VALUES (:id, :due_at, :outcome, :reason, :batch_id, :new, :changed, :unchanged, :gone)
""")
# Keeps occurrences with a batch, the newest one, and the newest one of the schedule, from which the next time
# is counted.
_DELETE_OLD = text("""
    DELETE FROM occurrences o
    WHERE o.outcome <> 'MADE' AND o.recorded_at < now() - make_interval(days => :days)
      AND o.due_at <= now()
      AND EXISTS (SELECT 1 FROM occurrences n
                  WHERE n.recurring_id = o.recurring_id AND n.due_at > o.due_at AND n.due_at <= now()
                    AND (extract(microseconds FROM o.due_at) <> 0 OR extract(microseconds FROM n.due_at) = 0))
""")
_SUMMARY = text("""
    SELECT count(*) AS occurrences, count(o.batch_id) AS batches,
           coalesce(array_agg(o.batch_id ORDER BY o.batch_id) FILTER (
               WHERE b.status <> ALL(:closed) AND b.archived_at IS NULL), '{}') AS open_batches
    FROM occurrences o LEFT JOIN batches b ON b.id = o.batch_id
    WHERE o.recurring_id = :id
""")
# Its values change with each occurrence, and so whenever the known files change.
_KNOWN_FILES_VERSION = text("""
    SELECT count(*) AS occurrences, max(batch_id) AS batch_id, max(recorded_at) AS recorded_at, now() AS now
    FROM occurrences WHERE recurring_id = :id
""")
_ORIGINS = text("""
    SELECT o.batch_id, r.name, o.due_at FROM occurrences o
    JOIN recurring_evaluations r ON r.id = o.recurring_id
    WHERE o.batch_id = ANY(CAST(:batch_ids AS int[]))
""")
_MARK_CHANGES_ONLY = text("UPDATE batches SET is_of_changes = true WHERE id = :batch_id")
_HAS_ONLY_CHANGES = text("SELECT is_of_changes FROM batches WHERE id = :batch_id")


def list_occurrences(connection: Connection, recurring_id: int, most: int) -> list[Occurrence]:
    """The newest occurrences, at most `most`, newest first."""
    rows = connection.execute(_OCCURRENCES, {"id": recurring_id, "most": most})
    return [_occurrence(row) for row in rows]


def occurrence_at(connection: Connection, recurring_id: int, due_at: datetime) -> Occurrence | None:
    """The occurrence of one time; None if it is not recorded."""
    row = connection.execute(_OCCURRENCE, {"id": recurring_id, "due_at": due_at}).first()
    return None if row is None else _occurrence(row)


def record_occurrence(
    connection: Connection,
    recurring_id: int,
    due_at: datetime,
    outcome: OccurrenceOutcome,
    files: FileComparison,
    reason: str | None = None,
    batch_id: int | None = None,
) -> Occurrence:
    """Record the occurrence of a time; the primary key rejects a second one."""
    values = {"id": recurring_id, "due_at": due_at}
    connection.execute(
        _RECORD,
        {
            **values,
            "outcome": outcome.value,
            "reason": reason,
            "batch_id": batch_id,
            "new": files.new,
            "changed": files.changed,
            "unchanged": files.unchanged,
            "gone": files.gone,
        },
    )
    return _occurrence(connection.execute(_OCCURRENCE, values).one())


def delete_old_occurrences(connection: Connection, days: int) -> int:
    """Delete occurrences without a batch that are older than `days`, except the newest; return the number."""
    return connection.execute(_DELETE_OLD, {"days": days}).rowcount


def summarize_occurrences(connection: Connection, recurring_id: int) -> OccurrenceSummary:
    """Count the occurrences of a recurring evaluation, their batches, and the open ones of those."""
    row = connection.execute(_SUMMARY, {"id": recurring_id, "closed": list(CLOSED)}).one()
    return OccurrenceSummary(row.occurrences, row.batches, list(row.open_batches))


def known_files_version(connection: Connection, recurring_id: int) -> tuple[tuple[Any, ...], datetime]:
    """A value that changes with each occurrence, and the server's time."""
    row = connection.execute(_KNOWN_FILES_VERSION, {"id": recurring_id}).one()
    return (row.occurrences, row.batch_id, row.recorded_at), row.now


def recurring_origins(connection: Connection, batch_ids: Sequence[int]) -> dict[int, RecurringOrigin]:
    """The origin of each of the given batches that an existing recurring evaluation made."""
    rows = connection.execute(_ORIGINS, {"batch_ids": list(batch_ids)})
    return {row.batch_id: RecurringOrigin(row.name, row.due_at) for row in rows}


def mark_changes_only(connection: Connection, batch_id: int) -> None:
    """Record that a batch has only the files that it was made with: new and changed ones, or a sample."""
    connection.execute(_MARK_CHANGES_ONLY, {"batch_id": batch_id})


def has_only_changes(connection: Connection, batch_id: int) -> bool:
    """Whether a batch has only new and changed files, or a sample, so that no rescan adds others."""
    return bool(connection.scalar(_HAS_ONLY_CHANGES, {"batch_id": batch_id}))


def _occurrence(row: Row[Any]) -> Occurrence:
    return Occurrence(
        due_at=row.due_at,
        outcome=OccurrenceOutcome(row.outcome),
        reason=row.reason,
        batch_id=row.batch_id,
        files=FileComparison(row.new_files, row.changed_files, row.unchanged_files, row.gone_files),
        recorded_at=row.recorded_at,
    )
