"""Reads the series of recurring evaluations: occurrences with their batches, and files that changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.domain.recurring import FileComparison, OccurrenceOutcome
from doceval_pipeline.domain.series import ContentChange, OccurrenceState, SeriesOccurrence

OCCURRENCES_READ = 1_000
"""This many of the newest occurrences are summed and compared; earlier ones are only counted."""

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
_COUNT = text("""
    SELECT count(*) AS occurrences, count(*) FILTER (WHERE outcome = 'MADE') AS made
    FROM occurrences WHERE recurring_id = :id
""")
# The occurrence of a batch and the earlier ones of its series, newest first.
_UP_TO = text(f"""
    SELECT {_COLUMNS}
    FROM occurrences own
    JOIN occurrences o ON o.recurring_id = own.recurring_id AND o.due_at <= own.due_at
    LEFT JOIN batches b ON b.id = o.batch_id
    WHERE own.batch_id = :batch_id ORDER BY o.due_at DESC LIMIT :most
""")
_NEXT = text("""
    SELECT id FROM recurring_evaluations ORDER BY id <= :after, id LIMIT :most
""")
_EXISTING = text("SELECT id FROM recurring_evaluations WHERE id = ANY(CAST(:ids AS int[]))")
# One row per series, with a digest of everything that its page shows.
_DIGESTS = text("""
    SELECT r.id, r.name, encode(sha256(convert_to(
               concat_ws(E'\\n', r.name, r.definition ->> 'timezone', string_agg(format(
               '%s %s %s %s %s %s %s %s %s', extract(epoch FROM o.due_at), o.outcome, o.reason, o.batch_id,
               CASE WHEN b.status IN ('PAUSED', 'FAILED_STAGING')
                      OR b.status IN ('COMPLETED', 'FAILED') AND b.result_digest = b.reported_digest
                    THEN b.status END,
               b.reported_digest, b.archived_at IS NULL, b.cancelled_at IS NULL, b.held_reason),
               E'\\n' ORDER BY o.due_at)),
               'UTF8')), 'hex') AS digest
    FROM recurring_evaluations r
    JOIN LATERAL (SELECT * FROM occurrences o WHERE o.recurring_id = r.id
                  ORDER BY due_at DESC LIMIT :most) AS o ON true
    LEFT JOIN batches b ON b.id = o.batch_id
    WHERE r.id = ANY(CAST(:ids AS int[]))
    GROUP BY r.id, r.name ORDER BY r.id
""")


def _changes(condition: str) -> TextClause:
    """Files whose content differs from that in the latest earlier occurrence that had the file."""
    return text(f"""
        WITH occurrence AS MATERIALIZED (
            SELECT batch_id, place
            FROM unnest(CAST(:batch_ids AS int[])) WITH ORDINALITY AS o(batch_id, place)),
        version AS (
            SELECT o.place, b.document_id AS file_id, b.batch_id, b.knowledge_document_id AS document_id,
                   lag(b.batch_id) OVER versions AS batch_id_before,
                   lag(b.knowledge_document_id) OVER versions AS document_id_before
            FROM occurrence o JOIN batch_documents b ON b.batch_id = o.batch_id
            WHERE b.state = 'STAGED' {condition}
            WINDOW versions AS (PARTITION BY b.document_id ORDER BY o.place)),
        changed AS (
            SELECT *, count(*) OVER () AS total FROM version
            WHERE document_id <> document_id_before
              AND (CAST(:batch_id AS int) IS NULL OR batch_id = :batch_id)
            ORDER BY place DESC, file_id LIMIT :most)
        SELECT (SELECT due_at FROM occurrences o WHERE o.batch_id = c.batch_id) AS due_at, c.batch_id,
               c.document_id, c.batch_id_before, c.document_id_before, f.folder_path AS folder,
               d.filepath AS file, c.total
        FROM changed c JOIN documents d ON d.id = c.file_id JOIN folders f ON f.id = d.folder_id
        ORDER BY c.place DESC, f.folder_path, d.raw_path
    """)


_CHANGES_OF_SERIES = _changes("")
_CHANGES_OF_BATCH = _changes("""
    AND b.document_id IN (SELECT document_id FROM batch_documents WHERE batch_id = :batch_id)
""")


@dataclass(frozen=True, slots=True)
class SeriesDigest:
    """A recurring evaluation with occurrences, and a digest of everything that its page shows."""

    id: int
    name: str
    digest: str


def series_occurrences(connection: Connection, recurring_id: int, most: int) -> list[SeriesOccurrence]:
    """The newest occurrences of a recurring evaluation, at most `most`, oldest first, without results."""
    rows = connection.execute(_OCCURRENCES, {"id": recurring_id, "most": most}).all()
    return [_occurrence(row) for row in reversed(rows)]


def count_occurrences(connection: Connection, recurring_id: int) -> tuple[int, int]:
    """The number of occurrences of a recurring evaluation, and how many of them made a batch."""
    row = connection.execute(_COUNT, {"id": recurring_id}).one()
    return row.occurrences, row.made


def occurrences_up_to(connection: Connection, batch_id: int, most: int) -> list[SeriesOccurrence]:
    """The occurrence of a batch and earlier ones, newest first, without results; empty for other batches."""
    return [_occurrence(row) for row in connection.execute(_UP_TO, {"batch_id": batch_id, "most": most})]


def next_series(connection: Connection, after: int, most: int) -> list[int]:
    """The ids of at most `most` recurring evaluations: those after the id `after`, then from the first on."""
    return list(connection.scalars(_NEXT, {"after": after, "most": most}))


def existing_series(connection: Connection, ids: Iterable[int]) -> set[int]:
    """The given recurring evaluations that exist."""
    return set(connection.scalars(_EXISTING, {"ids": arrays.of_numbers(ids)}))


def series_digests(connection: Connection, most: int, ids: Iterable[int]) -> list[SeriesDigest]:
    """The given recurring evaluations that have an occurrence, with a digest of the newest `most` ones."""
    parameters = {"most": most, "ids": arrays.of_numbers(ids)}
    return [SeriesDigest(**row._mapping) for row in connection.execute(_DIGESTS, parameters)]


def content_changes(
    connection: Connection, batch_ids: Sequence[int], most: int, batch_id: int | None = None
) -> tuple[list[ContentChange], int]:
    """Files whose content changed within a series, newest occurrence first, and the number of all of them.

    Parameters
    ----------
    batch_ids
        The batches of the series, oldest first.
    most
        At most this many are returned.
    batch_id
        Only changes that this batch found.
    """
    statement = _CHANGES_OF_SERIES if batch_id is None else _CHANGES_OF_BATCH
    ids = arrays.of_numbers(batch_ids)
    rows = connection.execute(statement, {"batch_ids": ids, "most": most, "batch_id": batch_id}).all()
    with_folder = len({row.folder for row in rows}) > 1
    changes = [
        ContentChange(
            due_at=row.due_at,
            batch_id=row.batch_id,
            partition_key=partition_key(row.batch_id),
            document_id=row.document_id,
            batch_id_before=row.batch_id_before,
            document_id_before=row.document_id_before,
            file=f"{row.folder.rstrip('/')}/{row.file}" if with_folder else row.file,
        )
        for row in rows
    ]
    return changes, rows[0].total if rows else 0


def _occurrence(row: Row[Any]) -> SeriesOccurrence:
    state, reason = _state(row)
    is_done = row.status in (Status.COMPLETED, Status.FAILED)
    has_results = is_done and row.archived_at is None and row.cancelled_at is None
    seconds = None
    if has_results and row.started_at is not None and row.completed_at is not None:
        seconds = max(0.0, (row.completed_at - row.started_at).total_seconds())
    return SeriesOccurrence(
        due_at=row.due_at,
        state=state,
        reason=reason,
        files=FileComparison(row.new_files, row.changed_files, row.unchanged_files, row.gone_files),
        batch_id=row.batch_id,
        partition_key=None if row.batch_id is None else partition_key(row.batch_id),
        batch=row.batch_name,
        has_results=has_results,
        seconds=seconds,
    )


def _state(row: Row[Any]) -> tuple[OccurrenceState, str | None]:
    """The state of an occurrence, and the reason for it."""
    if row.outcome != OccurrenceOutcome.MADE:
        skipped = row.outcome == OccurrenceOutcome.SKIPPED
        return (OccurrenceState.SKIPPED if skipped else OccurrenceState.NOT_MADE), row.reason
    if row.archived_at is not None:
        return OccurrenceState.ARCHIVED, None
    if row.cancelled_at is not None and row.status == Status.FAILED:
        return OccurrenceState.CANCELLED, None
    if row.status == Status.PAUSED:
        reason = row.held_reason
        return (OccurrenceState.PAUSED if reason is None else OccurrenceState.HELD), reason
    if row.status == Status.FAILED:
        return OccurrenceState.FAILED, "no evaluation succeeded"
    if row.status == Status.FAILED_STAGING:
        return OccurrenceState.FAILED, "its staging failed"
    return (OccurrenceState.DONE if row.status == Status.COMPLETED else OccurrenceState.OPEN), None
