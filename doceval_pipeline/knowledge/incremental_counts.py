"""Counts of evaluations by outcome that triggers keep up to date, so that no tick counts rows.

Migration 0004 has the triggers and functions. `counts` counts the rows themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import CellCounts, Outcome

_FOLD = text("SELECT fold_response_counts()")
_RECOUNT = text("SELECT recount_responses(:batch_id)")
_NEWEST = text("SELECT coalesce(max(version), 0) FROM response_counts")
_COUNTS = text("""
    WITH pending AS MATERIALIZED (
        SELECT batch_id, sum(waiting) AS waiting, sum(running) AS running, sum(paused) AS paused,
               sum(succeeded) AS succeeded, sum(failed) AS failed, sum(unknown) AS unknown,
               sum(reused) AS reused
        FROM response_deltas GROUP BY batch_id)
    SELECT batch_id, sum(waiting)::bigint AS waiting, sum(running)::bigint AS running,
           sum(paused)::bigint AS paused, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
           sum(unknown)::bigint AS unknown, sum(reused)::bigint AS reused, max(version) AS version,
           bool_or(pending) AS pending
    FROM (
        SELECT batch_id, waiting, running, paused, succeeded, failed, unknown, reused, version,
               false AS pending
        FROM response_counts
        WHERE batch_id = ANY(:batch_ids) OR version > :seen OR batch_id IN (SELECT batch_id FROM pending)
        UNION ALL
        SELECT batch_id, waiting, running, paused, succeeded, failed, unknown, reused, 0, true
        FROM pending) AS counts
    GROUP BY batch_id ORDER BY max(version)
""")
_WITH_FAILURES = text("""
    SELECT batch_id FROM (SELECT batch_id, failed FROM response_counts
                          UNION ALL SELECT batch_id, failed FROM response_deltas) AS counts
    GROUP BY batch_id HAVING sum(failed) > 0
""")


@dataclass(frozen=True, slots=True)
class IncrementalCounts:
    """The counts of a batch. `version` grows with each folded change; `pending` if more must be folded."""

    batch_id: int
    cells: CellCounts
    version: int
    pending: bool


def fold(connection: Connection) -> None:
    """Add the pending changes to the counts, in the caller's transaction."""
    connection.execute(_FOLD)


def recount(connection: Connection, batch_id: int) -> None:
    """Recount a batch from its rows, in the caller's transaction."""
    connection.execute(_RECOUNT, {"batch_id": batch_id})


def newest_version(connection: Connection) -> int:
    """The version of the newest folded change; 0 if there is none."""
    return int(connection.execute(_NEWEST).scalar_one())


def read_counts(connection: Connection, batch_ids: Sequence[int], seen: int) -> list[IncrementalCounts]:
    """The counts of the given batches and of all that changed after version `seen`, by version."""
    return [
        IncrementalCounts(
            batch_id=row.batch_id,
            cells=CellCounts(reused=row.reused, **{str(word): getattr(row, word) for word in Outcome}),
            version=row.version,
            pending=row.pending,
        )
        for row in connection.execute(_COUNTS, {"batch_ids": list(batch_ids), "seen": seen})
    ]


def batches_with_failures(connection: Connection) -> list[int]:
    """All batches that have a failed evaluation."""
    return list(connection.scalars(_WITH_FAILURES))
