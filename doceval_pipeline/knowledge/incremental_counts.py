"""Counts of evaluations by outcome that triggers keep up to date, so that no tick counts rows.

Migration 0004 has the triggers and functions. `counts` counts the rows themselves.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import CellCounts, Outcome

_FOLD = text("SELECT fold_response_counts()")
_RECOUNT = text("SELECT recount_responses(:batch_id)")
_NEWEST = text("SELECT coalesce(max(version), 0) FROM response_counts")
_NEXT_CHANGED = text("""
    SELECT batch_id, version FROM response_counts WHERE version > :seen ORDER BY version LIMIT :most
""")
# Joined, not compared with OR: that would read the counts of all batches.
_COUNTS = text("""
    WITH pending AS MATERIALIZED (
        SELECT batch_id, sum(waiting) AS waiting, sum(running) AS running, sum(paused) AS paused,
               sum(succeeded) AS succeeded, sum(failed) AS failed, sum(unknown) AS unknown,
               sum(reused) AS reused
        FROM response_deltas GROUP BY batch_id),
    wanted AS (SELECT unnest(CAST(:batch_ids AS int[])) AS batch_id UNION SELECT batch_id FROM pending)
    SELECT batch_id, sum(waiting)::bigint AS waiting, sum(running)::bigint AS running,
           sum(paused)::bigint AS paused, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
           sum(unknown)::bigint AS unknown, sum(reused)::bigint AS reused, max(version) AS version,
           bool_or(pending) AS pending
    FROM (
        SELECT batch_id, waiting, running, paused, succeeded, failed, unknown, reused, version,
               false AS pending
        FROM wanted JOIN response_counts USING (batch_id)
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


def next_changed(connection: Connection, seen: int, most: int) -> dict[int, int]:
    """The first `most` batches that changed after version `seen`, with their versions, by version."""
    rows = connection.execute(_NEXT_CHANGED, {"seen": seen, "most": most})
    return {row.batch_id: row.version for row in rows}


def read_counts(connection: Connection, batch_ids: Iterable[int]) -> list[IncrementalCounts]:
    """The counts of the given batches and of all with pending changes, by version."""
    return [
        IncrementalCounts(
            batch_id=row.batch_id,
            cells=CellCounts(reused=row.reused, **{str(word): getattr(row, word) for word in Outcome}),
            version=row.version,
            pending=row.pending,
        )
        for row in connection.execute(_COUNTS, {"batch_ids": arrays.of_numbers(batch_ids)})
    ]


def batches_with_failures(connection: Connection) -> list[int]:
    """All batches that have a failed evaluation."""
    return list(connection.scalars(_WITH_FAILURES))
