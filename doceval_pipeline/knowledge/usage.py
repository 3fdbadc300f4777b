"""Reads what finished evaluations used: seconds, throughput, attempts and storage.

The database adds everything up; no single row is read. Reused results used nothing and are left out.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.throughput import Stall, Throughput
from doceval_pipeline.domain.usage import Experience, Measure
from doceval_pipeline.knowledge.outcomes import has_outcome_sql

# A throughput has at most this many bins, and at most this many stalls, the longest.
BINS = 60
STALLS = 20
# A stall is a gap longer than this many seconds, and this many times longer than nine of ten gaps.
_STALL_SECONDS = 60
_STALL_TIMES = 10

# Seconds that a processor reports, in either column or in none. The largest number of milliseconds stands for
# an impossible duration, which is dropped.
REPORTED_SECONDS_SQL = "coalesce(time_taken_seconds, nullif(response_time_ms, 2147483647) / 1000.0)"
# Negative durations (the clock moved backwards), NaN and infinity count as missing.
SECONDS_SQL = f"CASE WHEN {REPORTED_SECONDS_SQL} BETWEEN 0 AND 1e10 THEN {REPORTED_SECONDS_SQL} END"
# A reused result used nothing in its batch, whatever its row says.
_FINISHED = f"{has_outcome_sql(Outcome.SUCCEEDED, Outcome.FAILED)} AND reused_from IS NULL"
_ATTEMPTS = text("""
    SELECT attempt, count(*) AS cells FROM current_llm_responses
    WHERE batch_id = :batch_id GROUP BY 1 ORDER BY 1
""")
# A batch is published when its staging begins.
_STORAGE = text("""
    SELECT count(*) FILTER (WHERE d.created_at < c.created_at) AS reused,
           coalesce(sum(d.file_size), 0) AS bytes
    FROM docs AS d
    LEFT JOIN batch_configs AS c ON c.batch_id = :batch_id
    WHERE d.id = ANY(CAST(:documents AS bigint[]))
""")
# Processors write the times, and their clocks may be wrong or in another zone: a time that is more than a day
# off counts as missing. A gap between two seconds counts only while a row was queued.
_THROUGHPUT = text(f"""
    WITH finished AS (
        SELECT coalesce(completed_processing_at, "timestamp") AS at, created_at
        FROM current_llm_responses WHERE batch_id = :batch_id AND {_FINISHED}),
    moments AS (
        SELECT CASE WHEN at BETWEEN created_at - interval '1 day' AND now() + interval '1 day'
                    THEN date_trunc('second', at) END AS moment, count(*) AS cells,
               min(created_at) FILTER (WHERE isfinite(created_at)) AS queued
        FROM finished GROUP BY 1),
    seconds AS (
        SELECT extract(epoch FROM moment)::bigint AS second, cells,
               floor(extract(epoch FROM queued))::bigint AS queued
        FROM moments WHERE moment IS NOT NULL),
    gaps AS (
        SELECT second, cells, second - lag(second) OVER (ORDER BY second) AS gap,
               second - min(queued) OVER (ORDER BY second DESC) AS waited
        FROM seconds),
    usual AS (
        SELECT min(second) AS first, max(second) - min(second) + 1 AS length, sum(cells)::bigint AS timed,
               greatest({_STALL_SECONDS},
                        {_STALL_TIMES} * percentile_disc(0.9) WITHIN GROUP (ORDER BY gap)) AS longest
        FROM gaps),
    bins AS (
        SELECT (second - first) * least({BINS}, length) / length AS bin, sum(cells)::bigint AS cells
        FROM gaps, usual GROUP BY 1),
    stalls AS (
        SELECT second - least(gap, waited) AS start, least(gap, waited) AS seconds
        FROM gaps, usual WHERE least(gap, waited) > longest AND gap IS NOT NULL)
    SELECT first, length, least({BINS}, length) AS bin_count,
           (SELECT coalesce(sum(cells), 0)::bigint FROM moments WHERE moment IS NULL) AS without_time,
           ARRAY(SELECT ARRAY[bin, cells] FROM bins ORDER BY bin) AS bins,
           ARRAY(SELECT ARRAY[start, seconds] FROM stalls ORDER BY seconds DESC, start LIMIT {STALLS})
               AS stalls,
           (SELECT count(*) FROM stalls) AS all_stalls
    FROM usual WHERE timed > 0
""")
# A processor may leave any of these unset, or write impossible values; squares of numbers beyond these bounds
# would overflow.
_EXPERIENCE = text(f"""
    SELECT r.connection_id, m.measure, count(*) AS cells, sum(d.file_size::float8) AS sum_x,
           sum(d.file_size::float8 ^ 2) AS sum_xx, sum(m.y) AS sum_y, sum(m.y ^ 2) AS sum_yy,
           sum(d.file_size * m.y) AS sum_xy, max(m.y) AS max_y
    FROM llm_responses r
    JOIN docs d ON d.id = r.document_id
    CROSS JOIN LATERAL (VALUES
        ('{Measure.INPUT_TOKENS}', r.input_tokens::float8),
        ('{Measure.OUTPUT_TOKENS}', r.output_tokens::float8),
        ('{Measure.SECONDS}', coalesce(
            {SECONDS_SQL},
            CASE WHEN isfinite(r.completed_processing_at) AND isfinite(r.started_processing_at)
                 THEN extract(epoch FROM r.completed_processing_at - r.started_processing_at) END))
        ) AS m(measure, y)
    WHERE r.batch_id = :batch_id AND r.reused_from IS NULL
      AND {has_outcome_sql(Outcome.SUCCEEDED, Outcome.FAILED, status="r.status")}
      AND (m.y BETWEEN 1e-9 AND 1e10 OR m.y = 0)
    GROUP BY 1, 2
""")


def count_attempts(connection: Connection, batch_id: int) -> list[tuple[int, int]]:
    """Attempt numbers, and how many evaluations have each as their current attempt."""
    return [(row.attempt, row.cells) for row in connection.execute(_ATTEMPTS, {"batch_id": batch_id})]


def read_storage(connection: Connection, batch_id: int, documents: Sequence[int]) -> tuple[int, int]:
    """How many of a batch's documents were stored before it was staged, and the bytes of all of them."""
    parameters = {"batch_id": batch_id, "documents": arrays.of_numbers(documents)}
    row = connection.execute(_STORAGE, parameters).one()
    return row.reused, int(row.bytes)


def read_throughput(connection: Connection, batch_id: int) -> Throughput | None:
    """When the evaluations of a batch finished, to the second; None if no time is known.

    A stall is a gap between two seconds in which evaluations finished, while evaluations that finished later
    were already queued; longer than a minute, and ten times longer than nine of ten gaps.
    """
    row = connection.execute(_THROUGHPUT, {"batch_id": batch_id}).first()
    if row is None:
        return None
    cells = dict(row.bins)
    return Throughput(
        start=_time(row.first),
        bin_seconds=row.length / row.bin_count,
        bins=tuple(cells.get(position, 0) for position in range(row.bin_count)),
        stalls=tuple(Stall(_time(start), float(seconds)) for start, seconds in sorted(row.stalls)),
        all_stalls=row.all_stalls,
        without_time=row.without_time,
    )


def read_experience(connection: Connection, batch_id: int) -> dict[tuple[int, Measure], Experience]:
    """What all finished attempts of a batch used, by connection and measure."""
    rows = connection.execute(_EXPERIENCE, {"batch_id": batch_id})
    return {(row.connection_id, Measure(row.measure)): Experience.of(row) for row in rows}


def _time(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
