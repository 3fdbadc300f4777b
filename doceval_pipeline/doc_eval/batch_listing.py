"""Lists batches by status, name, time and recurring evaluation, newest first. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.batches import BatchRecord, matches_pattern, read_batches
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status
from doceval_pipeline.names import normal

_IS_OPEN, _IS_CLOSED = (
    f"archived_at IS NULL AND status IN ({', '.join(repr(status.value) for status in states)})"
    for states in (OPEN, CLOSED)
)
# Words beside the states, and the SQL condition of each.
_SPECIAL = {
    "archived": "archived_at IS NOT NULL",
    "held": "held_reason IS NOT NULL",
    "open": _IS_OPEN,
    "closed": _IS_CLOSED,
}
STATE_WORDS = (*(status.value for status in Status), *_SPECIAL)
_IS_SPECIAL = " OR ".join(
    f"('{word}' = ANY(CAST(:words AS text[])) AND {condition})" for word, condition in _SPECIAL.items()
)
_MATCHING = f"""
    FROM batches
    WHERE (CAST(:words AS text[]) = '{{}}' OR status = ANY(CAST(:words AS text[])) OR {_IS_SPECIAL})
      AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
      AND (CAST(:recurring AS int) IS NULL
           OR id IN (SELECT batch_id FROM occurrences WHERE recurring_id = :recurring))
      AND (CAST(:ids AS text) IS NULL
           OR (archived_at IS NULL AND id IN (SELECT unnest(CAST(:ids AS int[])))))
"""
_NEWEST = text(f"""
    SELECT id, count(*) OVER () AS batches {_MATCHING} ORDER BY created_at DESC, id DESC LIMIT :limit
""")
_NAMED = text(f"SELECT id, batch_name {_MATCHING} ORDER BY created_at DESC, id DESC")


@dataclass(frozen=True)
class BatchFilter:
    """Which batches are listed; each filter that is not given admits all.

    Parameters
    ----------
    states
        Words of `STATE_WORDS`; a batch matches if one of them does.
    name
        A name, or a shell pattern of names and partition keys.
    since, until
        When the batch was created; `until` is excluded.
    recurring_id
        The recurring evaluation that made it.
    ids
        Only these batches, and none that is archived.
    """

    states: Sequence[str] = ()
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    recurring_id: int | None = None
    ids: Sequence[int] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it admits every batch."""
        return self == BatchFilter()


def newest_batches(connection: Connection, wanted: BatchFilter, limit: int) -> tuple[list[BatchRecord], int]:
    """The newest batches that match, archived ones included, and the number of all that match."""
    parameters = _parameters(wanted)
    if wanted.name is None:
        rows = connection.execute(_NEWEST, {**parameters, "limit": limit}).all()
        ids, matching = [row.id for row in rows], rows[0].batches if rows else 0
    else:
        # The same patterns as everywhere, which PostgreSQL does not know.
        rows = connection.execute(_NAMED, parameters).all()
        ids = [row.id for row in rows if _is_named(row.id, row.batch_name, wanted.name)]
        ids, matching = ids[:limit], len(ids)
    by_id = {batch.id: batch for batch in read_batches(connection, ids)}
    return [by_id[batch_id] for batch_id in ids if batch_id in by_id], matching


def _is_named(batch_id: int, name: str, wanted: str) -> bool:
    """Whether a batch has exactly this name, which may look like a pattern, or matches the pattern."""
    return normal(name) == normal(wanted) or matches_pattern(batch_id, name, wanted)


def _parameters(wanted: BatchFilter) -> dict[str, Any]:
    return {
        "words": arrays.of_texts(wanted.states),
        "since": wanted.since,
        "until": wanted.until,
        "recurring": wanted.recurring_id,
        "ids": None if wanted.ids is None else arrays.of_numbers(wanted.ids),
    }
