"""How the cells of each batch progressed: samples that are kept whenever the numbers change.

A processor need not write any time, so that rates come from what was seen here and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

COUNTS = ("waiting", "running", "paused", "succeeded", "failed", "unknown", "reused")

_ADD = text("""
    INSERT INTO batch_progress (batch_id, waiting, running, paused, succeeded, failed, unknown, reused)
    SELECT seen.* FROM unnest(
        CAST(:batch_ids AS int[]), CAST(:waiting AS bigint[]), CAST(:running AS bigint[]),
        CAST(:paused AS bigint[]), CAST(:succeeded AS bigint[]), CAST(:failed AS bigint[]),
        CAST(:unknown AS bigint[]), CAST(:reused AS bigint[]))
        AS seen(batch_id, waiting, running, paused, succeeded, failed, unknown, reused)
    LEFT JOIN LATERAL (
        SELECT * FROM batch_progress p WHERE p.batch_id = seen.batch_id ORDER BY observed_at DESC LIMIT 1
    ) AS last ON true
    WHERE (last.waiting, last.running, last.paused, last.succeeded, last.failed, last.unknown,
           last.reused)
          IS DISTINCT FROM
          (seen.waiting, seen.running, seen.paused, seen.succeeded, seen.failed, seen.unknown,
           seen.reused)
""")
_READ = text("""
    SELECT p.batch_id, p.observed_at, extract(epoch FROM now() - p.observed_at), p.waiting, p.running,
           p.paused, p.succeeded, p.failed, p.unknown, p.reused
    FROM unnest(CAST(:batch_ids AS int[])) AS wanted(batch_id)
    CROSS JOIN LATERAL (
        SELECT * FROM batch_progress p WHERE p.batch_id = wanted.batch_id AND isfinite(observed_at)
        ORDER BY observed_at DESC LIMIT :most
    ) AS p
    ORDER BY p.batch_id, p.observed_at
""")
# How long nothing moved while rows waited and none was held, and then something did.
_USUAL_GAP = text("""
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM gap)), count(*)
    FROM (
        SELECT lead(observed_at) OVER in_order - observed_at AS gap, waiting, running, paused
        FROM batch_progress
        WHERE observed_at > now() - make_interval(days => :days) AND isfinite(observed_at)
        WINDOW in_order AS (PARTITION BY batch_id ORDER BY observed_at)) AS stretch
    WHERE gap IS NOT NULL AND waiting > 0 AND running = 0 AND paused = 0
""")
_THIN_OUT = text("""
    DELETE FROM batch_progress p
    USING (
        SELECT batch_id, observed_at,
               row_number() OVER (PARTITION BY batch_id, date_trunc('hour', observed_at)
                                  ORDER BY observed_at DESC) AS place
        FROM batch_progress WHERE observed_at < now() - make_interval(days => :days)) AS old
    WHERE p.batch_id = old.batch_id AND p.observed_at = old.observed_at AND old.place > 1
""")
# Of each batch so many samples are read at most, the newest.
MOST_SAMPLES = 500


@dataclass(frozen=True, slots=True)
class Sample:
    """The cells of a batch by outcome, as a look at the queue found them `seconds_ago`.

    `reused` of them have the result of another batch, and are in their outcome too.
    """

    observed_at: datetime
    seconds_ago: float
    waiting: int
    running: int
    paused: int
    succeeded: int
    failed: int
    unknown: int
    reused: int = 0

    @property
    def done(self) -> int:
        """Cells that succeeded or failed in this batch, without reused ones."""
        return self.succeeded + self.failed - self.reused

    @property
    def cells(self) -> dict[str, int]:
        """How many cells have each of `COUNTS`."""
        return {name: getattr(self, name) for name in COUNTS}


def keep_samples(connection: Connection, cells: Mapping[int, Mapping[str, int]]) -> int:
    """Keep the numbers of batches that are not those of their newest sample; returns of how many.

    Parameters
    ----------
    cells
        By batch, how many cells have each of `COUNTS`.
    """
    columns = {name: [counts[name] for counts in cells.values()] for name in COUNTS}
    return connection.execute(_ADD, {"batch_ids": list(cells), **columns}).rowcount


def newest_samples(connection: Connection, batch_ids: Sequence[int]) -> dict[int, Sample]:
    """The newest sample of each of some batches that have one."""
    samples = read_samples(connection, batch_ids, most=1)
    return {batch_id: found[0] for batch_id, found in samples.items() if found}


def read_samples(
    connection: Connection, batch_ids: Sequence[int], most: int = MOST_SAMPLES
) -> dict[int, list[Sample]]:
    """The newest samples of each of some batches, oldest first."""
    samples: dict[int, list[Sample]] = {batch_id: [] for batch_id in batch_ids}
    rows = connection.execute(_READ, {"batch_ids": list(batch_ids), "most": most})
    for batch_id, observed_at, seconds_ago, *counts in rows:
        samples[batch_id].append(Sample(observed_at, float(seconds_ago), *counts))
    return samples


def usual_gap(connection: Connection, days: int) -> float | None:
    """The longest time, in seconds, that usually passes until somebody takes a waiting row.

    The 99th percentile of what was seen in the last `days`; None where that is too little to tell.
    """
    gap, times = connection.execute(_USUAL_GAP, {"days": days}).one()
    return None if times < 20 else float(gap)


def thin_out(connection: Connection, days: int) -> int:
    """Of samples older than some days keep one an hour; returns how many went."""
    return connection.execute(_THIN_OUT, {"days": days}).rowcount
