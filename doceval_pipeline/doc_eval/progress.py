"""Samples of the progress of each batch, stored whenever a count changes.

Processors need not write any time, so rates are computed from these samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import CellCounts

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
    RETURNING batch_id
""")
_READ = text("""
    SELECT p.batch_id,
           CAST(extract(epoch FROM now() - p.observed_at) AS double precision) AS seconds_ago,
           p.waiting, p.running, p.paused, p.succeeded, p.failed, p.unknown, p.reused
    FROM unnest(CAST(:batch_ids AS int[])) AS wanted(batch_id)
    CROSS JOIN LATERAL (
        SELECT * FROM batch_progress p WHERE p.batch_id = wanted.batch_id AND isfinite(observed_at)
        ORDER BY observed_at DESC LIMIT :most
    ) AS p
    ORDER BY p.batch_id, p.observed_at
""")
# How long no count changed while rows waited and none ran or was held, until one was taken. Of the newest
# batches, because the samples of 100,000 batches take a quarter of a second.
_USUAL_GAP = text("""
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM gap)) AS usual, count(*) AS gaps
    FROM (
        SELECT lead(observed_at) OVER in_order - observed_at AS gap, waiting, running, paused
        FROM batch_progress
        WHERE batch_id IN (SELECT id FROM batches ORDER BY id DESC LIMIT :newest)
          AND observed_at > now() - make_interval(days => :days) AND isfinite(observed_at)
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
# At most this many samples of a batch are read, the newest.
MOST_SAMPLES = 500
# The usual gap is computed from this many batches, the newest.
BATCHES_WITH_GAPS = 1_000
# With fewer gaps, no usual gap is computed.
FEWEST_GAPS = 20


@dataclass(frozen=True, slots=True)
class ProgressSample:
    """The evaluations of a batch by outcome, as a poll counted them `seconds_ago`."""

    seconds_ago: float
    cells: CellCounts

    @property
    def processed(self) -> int:
        """Evaluations that succeeded or failed in this batch, without reused ones."""
        return self.cells.done - self.cells.reused


def keep_samples(connection: Connection, cells: Mapping[int, CellCounts]) -> set[int]:
    """Store a sample of each batch whose counts differ from its newest sample; returns these batches."""
    if not cells:
        return set()
    columns = {name: arrays.of_numbers(getattr(counts, name) for counts in cells.values()) for name in COUNTS}
    return set(connection.scalars(_ADD, {"batch_ids": arrays.of_numbers(cells), **columns}))


def newest_samples(connection: Connection, batch_ids: Sequence[int]) -> dict[int, ProgressSample]:
    """The newest sample of each given batch that has one."""
    samples = read_samples(connection, batch_ids, most=1)
    return {batch_id: newest[0] for batch_id, newest in samples.items() if newest}


def read_samples(
    connection: Connection, batch_ids: Sequence[int], most: int = MOST_SAMPLES
) -> dict[int, list[ProgressSample]]:
    """The newest samples of each given batch, oldest first."""
    samples: dict[int, list[ProgressSample]] = {batch_id: [] for batch_id in batch_ids}
    rows = connection.execute(_READ, {"batch_ids": list(batch_ids), "most": most})
    for row in rows:
        counts = CellCounts(**{name: getattr(row, name) for name in COUNTS})
        samples[row.batch_id].append(ProgressSample(row.seconds_ago, counts))
    return samples


def usual_gap(connection: Connection, days: int) -> float | None:
    """The longest usual time in seconds until a processor takes a waiting row.

    The 99th percentile of the last `days` of the newest batches; None if too few gaps were recorded.
    """
    row = connection.execute(_USUAL_GAP, {"days": days, "newest": BATCHES_WITH_GAPS}).one()
    return None if row.gaps < FEWEST_GAPS else float(row.usual)


def thin_out(connection: Connection, days: int) -> int:
    """Keep one sample per hour of samples older than `days`; returns how many were deleted."""
    return connection.execute(_THIN_OUT, {"days": days}).rowcount
