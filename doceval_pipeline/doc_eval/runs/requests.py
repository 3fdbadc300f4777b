"""Requests for runs that stage or report a batch, and the newest attempt of each that Dagster received.

The requests are derived from `batches`: a batch waits to be staged, or its newest report does not show its
newest result. The table `run_requests` only stores attempts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.batches import IS_UNREPORTED, partition_key


class RunKind(StrEnum):
    """The task of a requested run."""

    STAGE = "stage"
    REPORT = "report"


# A failed staging has fulfilled its request; an interrupted one has not.
_WANTED = {
    RunKind.STAGE: """
        SELECT b.id AS batch_id,
               to_char(coalesce(b.stage_requested_at, b.stage_after) AT TIME ZONE 'UTC',
                       'YYYYMMDD"T"HH24MISSUS') AS word
        FROM batches b
        WHERE b.status = 'SAVED' AND (b.stage_requested_at IS NOT NULL OR b.stage_after <= now())
           OR b.status = 'FAILED_STAGING' AND b.stage_requested_at IS NOT NULL
    """,
    # With the time of completion: Dagster never forgets a run key, and a batch may return to an earlier
    # result.
    RunKind.REPORT: f"""
        SELECT b.id AS batch_id,
               b.result_digest || to_char(b.completed_at AT TIME ZONE 'UTC', '-YYYYMMDD"T"HH24MISS.US')
                   AS word
        FROM batches b
        WHERE {IS_UNREPORTED}
    """,
}
_DUE = {
    kind: text(f"""
        SELECT w.batch_id, w.word,
               CASE WHEN r.word = w.word THEN r.attempt ELSE 0 END AS attempt,
               r.word AS seen_word, r.due_at AS seen_due_at
        FROM ({wanted}) AS w
        LEFT JOIN run_requests r ON r.batch_id = w.batch_id AND r.kind = '{kind}'
        WHERE (r.word IS DISTINCT FROM w.word OR r.due_at <= now())
          AND (CAST(:ids AS text) IS NULL OR w.batch_id = ANY(CAST(:ids AS int[])))
        ORDER BY w.batch_id
    """)
    for kind, wanted in _WANTED.items()
}
# Only the caller that finds the row unchanged since it was read may continue: one of two requests the run.
_STORE_DECISIONS = text("""
    INSERT INTO run_requests AS r (batch_id, kind, word, attempt, due_at, last_end, last_ended_at)
    SELECT batch_id, :kind, word, attempt, now() + make_interval(secs => pause), ended_as,
           now() - make_interval(secs => ended_ago)
    FROM unnest(CAST(:batch_ids AS int[]), CAST(:words AS text[]), CAST(:attempts AS int[]),
                CAST(:pauses AS double precision[]), CAST(:ends AS text[]),
                CAST(:ago AS double precision[]))
         AS answer(batch_id, word, attempt, pause, ended_as, ended_ago)
    ON CONFLICT (batch_id, kind) DO UPDATE SET
        word = excluded.word, attempt = excluded.attempt, due_at = excluded.due_at,
        last_end = CASE WHEN excluded.last_end IS NOT NULL OR r.word <> excluded.word
                        THEN excluded.last_end ELSE r.last_end END,
        last_ended_at = CASE WHEN excluded.last_end IS NOT NULL OR r.word <> excluded.word
                             THEN excluded.last_ended_at ELSE r.last_ended_at END
    WHERE (r.word, r.due_at) IN (
        SELECT seen_word, seen_due_at
        FROM unnest(CAST(:batch_ids AS int[]), CAST(:seen_words AS text[]),
                    CAST(:seen_due_ats AS timestamptz[])) AS seen(id, seen_word, seen_due_at)
        WHERE seen.id = r.batch_id)
    RETURNING r.batch_id
""")
_REQUEST_SAVED = text("""
    UPDATE batches SET stage_requested_at = now()
    WHERE status = 'SAVED' AND stage_requested_at IS NULL AND stage_after IS NULL
""")
# A batch whose `stage_after` has passed stays due without a request.
_WITHDRAW_STAGING = text("""
    UPDATE batches SET stage_requested_at = NULL
    WHERE id = :batch_id
      AND (status = 'SAVED' AND stage_requested_at IS NOT NULL AND coalesce(stage_after > now(), true)
           OR status = 'FAILED_STAGING' AND stage_requested_at IS NOT NULL)
    RETURNING id
""")
# A report takes seconds. It is late this long after completion, or once a run has ended without it.
SECONDS_TO_REPORT = 120
# A staging that has not begun is late this long after the request, or once a run has ended without it.
SECONDS_TO_STAGE = 120
# Batches whose staging is requested, and neither running nor done.
MISSING_STAGINGS = f"""
    SELECT w.batch_id, coalesce(r.attempt, 0) AS attempt, r.last_end, r.last_ended_at, b.status,
           r.last_end IS NOT NULL OR b.status = 'FAILED_STAGING'
               OR coalesce(b.stage_requested_at, b.stage_after)
                  < now() - interval '{SECONDS_TO_STAGE} seconds' AS is_late
    FROM ({_WANTED[RunKind.STAGE]}) AS w
    JOIN batches b ON b.id = w.batch_id
    LEFT JOIN run_requests r ON r.batch_id = w.batch_id AND r.kind = 'stage' AND r.word = w.word
"""
# Closed batches without the report of their newest result.
MISSING_REPORTS = f"""
    SELECT w.batch_id, coalesce(r.attempt, 0) AS attempt, r.last_end, r.last_ended_at, b.result_digest,
           r.last_end IS NOT NULL OR b.completed_at < now() - interval '{SECONDS_TO_REPORT} seconds'
               AS is_late
    FROM ({_WANTED[RunKind.REPORT]}) AS w
    JOIN batches b ON b.id = w.batch_id
    LEFT JOIN run_requests r ON r.batch_id = w.batch_id AND r.kind = 'report' AND r.word = w.word
"""
_IS_SELECTED = "(CAST(:ids AS text) IS NULL OR m.batch_id = ANY(CAST(:ids AS int[])))"
_UNREPORTED = text(f"""
    SELECT m.batch_id, m.attempt, m.last_end, m.last_ended_at, m.is_late
    FROM ({MISSING_REPORTS}) AS m WHERE {_IS_SELECTED} ORDER BY m.batch_id
""")
_UNSTAGED = text(f"""
    SELECT m.batch_id, m.attempt, m.last_end, m.last_ended_at, m.is_late
    FROM ({MISSING_STAGINGS}) AS m WHERE m.batch_id = ANY(CAST(:ids AS int[])) ORDER BY m.batch_id
""")

_WAITING_STAGINGS = text(f"SELECT count(*) FROM ({_WANTED[RunKind.STAGE]}) AS w")


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose run must be requested from Dagster, or checked, now.

    `attempt` is the newest one that Dagster received, 0 if there is none. `seen_word` and `seen_due_at`
    come from the row in `run_requests`, None without a row.
    """

    batch_id: int
    kind: RunKind
    word: str
    attempt: int
    seen_word: str | None
    seen_due_at: datetime | None

    def run_key(self, attempt: int) -> str:
        """The run key of an attempt; Dagster starts one run per key."""
        return f"{self.kind}-{partition_key(self.batch_id)}-{self.word}-{attempt}"


@dataclass(frozen=True, slots=True)
class RunDecision:
    """What to store and do about a request, after its runs were checked.

    Parameters
    ----------
    attempt
        The attempt to store.
    pause
        Seconds until the next check.
    is_requested
        Whether to request a run of this attempt from Dagster now.
    ended_as, ended_ago
        Status of the newest run that ended, and how many seconds ago; None if no run has ended.
    """

    attempt: int
    pause: float
    is_requested: bool = False
    ended_as: str | None = None
    ended_ago: float | None = None


@dataclass(frozen=True, slots=True)
class PendingRun:
    """A batch that needs a run which has not succeeded yet; `attempt` is 0 before the first request.

    `is_late` says that its staging or its report should be done by now.
    """

    batch_id: int
    attempt: int
    last_end: str | None
    last_ended_at: datetime | None
    is_late: bool = False

    @property
    def why(self) -> str:
        """How the runs went, as a part of a sentence."""
        if self.attempt == 0:
            return "no run was requested yet: the sensors of doceval up request it"
        if self.last_end is None or self.last_ended_at is None:
            return f"attempt {self.attempt} has not ended"
        ended = f"{self.last_ended_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"attempt {self.attempt}, the last run ended as {self.last_end} at {ended}"

    @property
    def missing_report(self) -> str:
        """A line about a closed batch without its report."""
        command = f"doceval report {self.batch_id}"
        return f"the report of its newest result is missing ({self.why}): run {command}"

    @property
    def missing_staging(self) -> str:
        """A line about a batch that waits to be staged."""
        return f"staging is requested but not done ({self.why}): run doceval stage {self.batch_id}"

    def as_json(self) -> dict[str, Any]:
        """Its shape in `doceval status --json`."""
        return {
            "attempt": self.attempt,
            "last_end": self.last_end,
            "last_ended_at": None if self.last_ended_at is None else self.last_ended_at.isoformat(),
        }


def due_requests(
    connection: Connection, kind: RunKind, batch_ids: Iterable[int] | None = None
) -> list[Request]:
    """Requests of a kind that are new, or whose run must be checked again; None checks all batches."""
    ids = None if batch_ids is None else arrays.of_numbers(batch_ids)
    rows = connection.execute(_DUE[kind], {"ids": ids})
    return [Request(kind=kind, **row._mapping) for row in rows]


def store_decisions(connection: Connection, decided: Sequence[tuple[Request, RunDecision]]) -> set[int]:
    """Store decisions; returns the batches for which no other caller stored one first."""
    if not decided:
        return set()
    requests = [request for request, _ in decided]
    decisions = [decision for _, decision in decided]
    parameters = {
        "kind": requests[0].kind.value,
        "batch_ids": [request.batch_id for request in requests],
        "words": [request.word for request in requests],
        "seen_words": [request.seen_word for request in requests],
        "seen_due_ats": [request.seen_due_at for request in requests],
        "attempts": [decision.attempt for decision in decisions],
        "pauses": [decision.pause for decision in decisions],
        "ends": [decision.ended_as for decision in decisions],
        "ago": [decision.ended_ago for decision in decisions],
    }
    return set(connection.scalars(_STORE_DECISIONS, parameters))


def request_saved(connection: Connection) -> None:
    """Request the staging of every SAVED batch without `stage_after` and without a request."""
    connection.execute(_REQUEST_SAVED)


def withdraw_staging(connection: Connection, batch_id: int) -> bool:
    """Withdraw the request to stage a batch; False without a request."""
    return connection.scalar(_WITHDRAW_STAGING, {"batch_id": batch_id}) is not None


def unreported(connection: Connection, batch_ids: Iterable[int] | None = None) -> dict[int, PendingRun]:
    """Closed batches without a report of their newest result, by number; None checks all batches."""
    ids = None if batch_ids is None else arrays.of_numbers(batch_ids)
    return {row.batch_id: PendingRun(**row._mapping) for row in connection.execute(_UNREPORTED, {"ids": ids})}


def unstaged(connection: Connection, batch_ids: Iterable[int]) -> dict[int, PendingRun]:
    """The given batches whose staging is requested, and neither running nor done, by number."""
    rows = connection.execute(_UNSTAGED, {"ids": arrays.of_numbers(batch_ids)})
    return {row.batch_id: PendingRun(**row._mapping) for row in rows}


def waiting_stagings(connection: Connection) -> int:
    """How many requested stagings have not begun."""
    return int(connection.scalar(_WAITING_STAGINGS) or 0)
