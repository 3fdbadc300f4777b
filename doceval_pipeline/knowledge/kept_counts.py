"""Cells of batches by outcome, as the statements on `llm_responses` keep them: where to look.

The triggers and functions are in the migration 0004. What is done is counted from the rows themselves, in
`responses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.knowledge.counts import CellCounts

_FOLD = text("SELECT fold_response_counts()")
_RECOUNT = text("SELECT recount_responses(:batch_id)")
_NEWEST = text("SELECT coalesce(max(version), 0) FROM response_counts")
_COUNTS = text("""
    WITH pending AS MATERIALIZED (
        SELECT batch_id, sum(waiting) AS waiting, sum(running) AS running, sum(paused) AS paused,
               sum(succeeded) AS succeeded, sum(failed) AS failed, sum(unknown) AS unknown,
               sum(reused) AS reused
        FROM response_deltas GROUP BY batch_id)
    SELECT batch_id, sum(waiting)::bigint, sum(running)::bigint, sum(paused)::bigint, sum(succeeded)::bigint,
           sum(failed)::bigint, sum(unknown)::bigint, sum(reused)::bigint, max(version), bool_or(pending)
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


@dataclass(frozen=True, slots=True)
class KeptCounts:
    """The counts of a batch. `version` grows with each change that was folded in; `pending` are more."""

    batch_id: int
    cells: CellCounts
    version: int
    pending: bool


def fold(connection: Connection) -> None:
    """Add up what statements have left, in the caller's transaction."""
    connection.execute(_FOLD)


def recount(connection: Connection, batch_id: int) -> None:
    """Count a batch anew from its rows, in the caller's transaction."""
    connection.execute(_RECOUNT, {"batch_id": batch_id})


def newest_version(connection: Connection) -> int:
    """The version of the newest change that was folded in; 0 where there is none."""
    return int(connection.execute(_NEWEST).scalar_one())


def read_counts(connection: Connection, batch_ids: Sequence[int], seen: int) -> list[KeptCounts]:
    """The counts of some batches, and of all that changed after the version `seen`, in that order."""
    rows = connection.execute(_COUNTS, {"batch_ids": list(batch_ids), "seen": seen})
    return [KeptCounts(row[0], CellCounts(*row[1:8]), row[8], row[9]) for row in rows]
