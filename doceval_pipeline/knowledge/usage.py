"""Reads what the results of a batch took: seconds, tokens, attempts and storage, and when they came.

Everything is counted by the database, over `current_llm_responses`; no single row is read. Reused results
took nothing, and are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from doceval_pipeline.domain.usage import TokenUsage
from doceval_pipeline.knowledge.outcomes import Outcome, words_in_sql

# In throughput: the most spans, and the most stalls, the longest of all.
SPANS = 60
STALLS = 20
# A stall is a gap longer than this, in seconds, and longer than so many times what nine of ten gaps are.
_STALL_SECONDS = 60
_STALL_TIMES = 10

# What a processor says that a result took; it may say it in either column, or in none.
SAID_SECONDS_SQL = "coalesce(time_taken_seconds, response_time_ms / 1000.0)"
# Negative durations (the clock moved backwards), NaN and infinity count as missing.
SECONDS_SQL = f"CASE WHEN {SAID_SECONDS_SQL} BETWEEN 0 AND 1e10 THEN {SAID_SECONDS_SQL} END"
# A reused result took nothing in its batch, whatever its row says.
_FINISHED = (
    f"status IN ({words_in_sql(Outcome.SUCCEEDED)}, {words_in_sql(Outcome.FAILED)}) AND reused_from IS NULL"
)
_SECONDS_TAKEN = text(f"""
    SELECT count(*), percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds)
    FROM (SELECT {SECONDS_SQL} AS seconds
          FROM current_llm_responses WHERE batch_id = :batch_id AND {_FINISHED}) AS finished
    WHERE seconds IS NOT NULL
""")
_TOKENS = text(f"""
    SELECT connection_id, input_tokens IS NOT NULL, output_tokens IS NOT NULL,
           count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0)
    FROM current_llm_responses WHERE batch_id = :batch_id AND {_FINISHED}
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
_ATTEMPTS = text("""
    SELECT attempt, count(*) FROM current_llm_responses WHERE batch_id = :batch_id GROUP BY 1 ORDER BY 1
""")
# A batch is published when its staging begins.
_CONTENTS = text("""
    SELECT count(*) FILTER (WHERE d.created_at < c.created_at), coalesce(sum(d.file_size), 0)
    FROM docs AS d
    LEFT JOIN batch_configs AS c ON c.batch_id = :batch_id
    WHERE d.id = ANY(:documents)
""")
# Times are of processors, whose clocks may be wrong or in another zone; what is more than a day off is
# none. Of gaps between seconds in which something finished, those count in which a row was there already.
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
    spans AS (
        SELECT (second - first) * least({SPANS}, length) / length AS span, sum(cells)::bigint AS cells
        FROM gaps, usual GROUP BY 1),
    stalls AS (
        SELECT second - least(gap, waited) AS start, least(gap, waited) AS seconds
        FROM gaps, usual WHERE least(gap, waited) > longest AND gap IS NOT NULL)
    SELECT first, length, least({SPANS}, length),
           (SELECT coalesce(sum(cells), 0)::bigint FROM moments WHERE moment IS NULL),
           ARRAY(SELECT ARRAY[span, cells] FROM spans ORDER BY span),
           ARRAY(SELECT ARRAY[start, seconds] FROM stalls ORDER BY seconds DESC, start LIMIT {STALLS}),
           (SELECT count(*) FROM stalls)
    FROM usual WHERE timed > 0
""")


@dataclass(frozen=True, slots=True)
class SecondsTaken:
    """How long the processor took for `n` finished cells that say so: median and 95th percentile."""

    n: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Pace:
    """When cells were finished: counts for equal spans of `span_seconds` from `start`, at most `SPANS`.

    `stalls` are the starts and the seconds of the `STALLS` longest of `all_stalls`, in the order of time;
    `without_time` finished cells do not say when.
    """

    start: datetime
    span_seconds: float
    spans: tuple[int, ...]
    stalls: tuple[tuple[datetime, float], ...]
    all_stalls: int
    without_time: int


def read_seconds(connection: Connection, batch_id: int) -> SecondsTaken | None:
    """How long finished cells took, by the processor; None where none says so."""
    n, shares = connection.execute(_SECONDS_TAKEN, {"batch_id": batch_id}).one()
    return SecondsTaken(n, *shares) if n else None


def read_tokens(connection: Connection, batch_id: int) -> list[TokenUsage]:
    """The tokens of finished cells, by connection."""
    return [TokenUsage(*row) for row in connection.execute(_TOKENS, {"batch_id": batch_id})]


def count_attempts(connection: Connection, batch_id: int) -> list[tuple[int, int]]:
    """How many cells have which current attempt."""
    return [(row[0], row[1]) for row in connection.execute(_ATTEMPTS, {"batch_id": batch_id})]


def read_storage(connection: Connection, batch_id: int, documents: Sequence[int]) -> tuple[int, int]:
    """How many of a batch's documents were stored before its staging began, and the bytes of all."""
    parameters = {"batch_id": batch_id, "documents": list(documents)}
    reused, size = connection.execute(_CONTENTS, parameters).one()
    return reused, int(size)


def read_pace(connection: Connection, batch_id: int) -> Pace | None:
    """When cells were finished, to the second; None where none says so.

    A stall is a gap between two seconds in which cells were finished, while cells that were finished
    later were in the queue already; longer than a minute, and ten times as long as nine of ten gaps.
    """
    row = connection.execute(_THROUGHPUT, {"batch_id": batch_id}).first()
    if row is None:
        return None
    first, length, number, without, spans, stalls, all_stalls = row
    cells = dict(spans)
    return Pace(
        start=_time(first),
        span_seconds=length / number,
        spans=tuple(cells.get(span, 0) for span in range(number)),
        stalls=tuple((_time(start), float(seconds)) for start, seconds in sorted(stalls)),
        all_stalls=all_stalls,
        without_time=without,
    )


def _time(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
