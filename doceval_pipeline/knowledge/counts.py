"""Reads what came back: counts and digests of batches. Writes nothing.

Everything here reads `current_llm_responses`, where each cell stands once, with its highest attempt.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.knowledge.outcomes import OUTCOME_SQL, Outcome, words_in_sql
from doceval_pipeline.knowledge.row_digest import digest_sql

_COUNTS = text(f"""
    SELECT batch_id, {OUTCOME_SQL} AS outcome, count(*), count(reused_from)
    FROM current_llm_responses WHERE batch_id = ANY(:batch_ids) GROUP BY 1, 2
""")
# Added up in two steps, so that nothing is sorted.
_ORIGINS = text("""
    SELECT batch_id, count(*) FILTER (WHERE reused_batch_id <> 0), bool_or(reused_batch_id = 0)
    FROM (SELECT batch_id, reused_batch_id FROM current_llm_responses
          WHERE batch_id = ANY(:batch_ids) AND reused_from IS NOT NULL GROUP BY 1, 2) AS origins
    GROUP BY 1
""")
_NEWEST_ORIGINS = text("""
    SELECT reused_batch_id, count(*) FROM current_llm_responses
    WHERE batch_id = :batch_id AND reused_from IS NOT NULL
    GROUP BY 1 ORDER BY 1 DESC LIMIT :most
""")
_SHOWN = f"""
    ROW(document_id, prompt_id, connection_id, attempt, {OUTCOME_SQL}, overall_score, error_message,
        response_text, input_tokens, output_tokens, time_taken_seconds)::text
"""
# An SQL aggregate over current_llm_responses: a short digest of everything that a report shows of results.
RESULT_DIGEST = f"""
    left(encode(sha256(convert_to(count(*) || ':' || {digest_sql(_SHOWN)}, 'UTF8')), 'hex'), 16)
"""
_DIGEST_OF_NONE = hashlib.sha256(b"0:0").hexdigest()[:16]
_DIGEST = text(f"""
    SELECT batch_id, {RESULT_DIGEST} FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id
""")
_DOCUMENTS = text("""
    SELECT batch_id, count(DISTINCT document_id) FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id
""")
_RUNNING = text(f"""
    SELECT batch_id, connection_id, min(connection_details ->> 'name'), count(*),
           extract(epoch FROM clock_timestamp() - min(started_processing_at)),
           max(lease_expires_at) FILTER (WHERE lease_expires_at > statement_timestamp())
    FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) AND status IN ({words_in_sql(Outcome.RUNNING)})
    GROUP BY 1, 2, coalesce(lease_expires_at > statement_timestamp(), false) ORDER BY 1, 5 DESC NULLS LAST
""")
_DEFERRED = text(f"""
    SELECT batch_id, count(*) FILTER (WHERE not_before > clock_timestamp()),
           min(not_before) FILTER (WHERE not_before > clock_timestamp()),
           max(not_before) FILTER (WHERE not_before > clock_timestamp()), max(uncounted),
           extract(epoch FROM clock_timestamp()
                              - max(not_before) FILTER (WHERE not_before <= clock_timestamp()))
    FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) AND not_before IS NOT NULL
      AND status IN ({words_in_sql(Outcome.WAITING)})
    GROUP BY 1 ORDER BY 1
""")


# So many give-backs of a row need not count, says revision 0010.
MOST_UNCOUNTED = 1_000


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Cells of a batch by outcome, counted from rows.

    `reused` of them have a result that was taken from another batch; they are in their outcome too.
    """

    waiting: int = 0
    running: int = 0
    paused: int = 0
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    reused: int = 0

    @property
    def rows(self) -> int:
        """All cells that have a row."""
        return self.done + self.waiting + self.running + self.paused + self.unknown

    @property
    def done(self) -> int:
        """Cells that succeeded or failed."""
        return self.succeeded + self.failed

    @property
    def outcomes(self) -> dict[str, int]:
        """How many cells have each outcome."""
        return {str(outcome): getattr(self, outcome) for outcome in Outcome}


@dataclass(frozen=True, slots=True)
class RunningRows:
    """Rows of a batch that a processor works on, of one connection: those under a lease, or the others.

    `oldest_seconds` is the age of the oldest, None where no processor wrote when it began. `lease_ends` is
    when the last of their leases ends, None for rows without a lease and for those whose lease is over.
    """

    batch_id: int
    connection_id: int
    connection: str
    rows: int
    oldest_seconds: float | None
    lease_ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeferredRows:
    """Waiting rows of a batch that their processors gave back until some time.

    `rows` wait for a time that lies between `first` and `last`; both are None where there is none of them.
    `uncounted` is how often one row was given back at most without counting. `due_seconds` is for how many
    seconds the newest time has been over, None where none is.
    """

    batch_id: int
    rows: int
    first: datetime | None
    last: datetime | None
    uncounted: int
    due_seconds: float | None

    @property
    def sentence(self) -> str:
        """Until when they wait, and how often they were given back."""
        many = "1 row waits" if self.rows == 1 else f"{self.rows:,} rows wait"
        first, last = (in_utc(moment) if moment else "" for moment in (self.first, self.last))
        until = last if first == last else f"{first} to {last}"
        often = ""
        if self.uncounted > 1:
            often = f"; given back up to {self.uncounted:,} of {MOST_UNCOUNTED:,} times without counting"
        if self.uncounted >= MOST_UNCOUNTED:
            often += ": further ones count towards the five"
        return f"{many} until {until} UTC, as the processor asked{often}"

    def as_json(self) -> dict[str, Any]:
        """The shape of `deferred` in `doceval status --json`; its names are a public interface."""
        return {
            "rows": self.rows,
            "first": None if self.first is None else self.first.astimezone(UTC).isoformat(),
            "last": None if self.last is None else self.last.astimezone(UTC).isoformat(),
            "uncounted": self.uncounted,
        }


def count_cells(connection: Connection, batch_ids: Sequence[int]) -> dict[int, CellCounts]:
    """Count the cells of several batches by outcome, in one statement."""
    counts: dict[int, dict[str, int]] = {batch_id: {"reused": 0} for batch_id in batch_ids}
    for batch_id, outcome, cells, reused in connection.execute(_COUNTS, {"batch_ids": list(batch_ids)}):
        counts[batch_id][outcome] = cells
        counts[batch_id]["reused"] += reused
    return {batch_id: CellCounts(**values) for batch_id, values in counts.items()}


def count_origins(connection: Connection, batch_ids: Sequence[int]) -> dict[int, tuple[int, bool]]:
    """How many batches reused results come from, and whether some are of another installation, by batch.

    Batches without reused results are left out.
    """
    return {row[0]: (row[1], row[2]) for row in connection.execute(_ORIGINS, {"batch_ids": list(batch_ids)})}


def newest_origins(connection: Connection, batch_id: int, most: int) -> list[tuple[int, int]]:
    """The newest batches that the reused results of a batch come from, each with how many it gave.

    Batch 0 is another installation; it comes last.
    """
    rows = connection.execute(_NEWEST_ORIGINS, {"batch_id": batch_id, "most": most})
    return [(row[0], row[1]) for row in rows]


def running_rows(connection: Connection, batch_ids: Sequence[int]) -> list[RunningRows]:
    """The rows of some batches that processors work on, by batch, connection and lease, the oldest first."""
    rows = connection.execute(_RUNNING, {"batch_ids": list(batch_ids)})
    return [
        RunningRows(row[0], row[1], row[2], row[3], None if row[4] is None else float(row[4]), row[5])
        for row in rows
    ]


def deferred_rows(connection: Connection, batch_ids: Sequence[int]) -> dict[int, DeferredRows]:
    """The rows that wait for a time or have waited for one, of those of some batches that have any."""
    rows = connection.execute(_DEFERRED, {"batch_ids": list(batch_ids)})
    return {
        row[0]: DeferredRows(
            row[0], row[1], row[2], row[3], row[4], None if row[5] is None else float(row[5])
        )
        for row in rows
    }


def digest(connection: Connection, batch_id: int) -> str:
    """A short digest of everything a report shows of a batch's results: same results, same digest."""
    return digests(connection, [batch_id])[batch_id]


def digests(connection: Connection, batch_ids: Sequence[int]) -> dict[int, str]:
    """The digests of several batches, in one statement."""
    found = dict.fromkeys(batch_ids, _DIGEST_OF_NONE)
    return found | {row[0]: row[1] for row in connection.execute(_DIGEST, {"batch_ids": list(batch_ids)})}


def count_documents(connection: Connection, batch_ids: Sequence[int]) -> dict[int, int]:
    """How many distinct documents the rows of several batches have, in one statement."""
    counts = dict.fromkeys(batch_ids, 0)
    return counts | {row[0]: row[1] for row in connection.execute(_DOCUMENTS, {"batch_ids": list(batch_ids)})}


def in_utc(moment: datetime) -> str:
    """A moment in UTC, to the second, for people."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
