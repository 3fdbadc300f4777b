"""Requests for runs that stage or report a batch, and which attempt of each Dagster was asked for.

What has to be run is derived from `batches`: a batch waits to be staged, or its newest report does not show
its newest result. The table `run_requests` only remembers attempts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.batches import IS_UNREPORTED, partition_key


class Kind(StrEnum):
    """What a run is asked for to do."""

    STAGE = "stage"
    REPORT = "report"


# A staging that failed for a reason of its own has answered its request; one that was interrupted has not.
_WANTED = {
    Kind.STAGE: """
        SELECT b.id AS batch_id,
               to_char(coalesce(b.stage_requested_at, b.stage_after) AT TIME ZONE 'UTC',
                       'YYYYMMDD"T"HH24MISSUS') AS word
        FROM batches b
        WHERE b.status = 'SAVED' AND (b.stage_requested_at IS NOT NULL OR b.stage_after <= now())
           OR b.status = 'FAILED_STAGING' AND b.stage_requested_at IS NOT NULL
    """,
    # With the moment of completion, because Dagster never forgets a run key, and a batch may come back to a
    # result that it had before.
    Kind.REPORT: f"""
        SELECT b.id AS batch_id,
               b.result_digest || to_char(b.completed_at AT TIME ZONE 'UTC', '-YYYYMMDD"T"HH24MISS.US')
                   AS word
        FROM batches b
        WHERE {IS_UNREPORTED}
    """,
}
_DUE = {
    kind: text(f"""
        SELECT w.batch_id, '{kind}', w.word,
               CASE WHEN r.word = w.word THEN r.attempt ELSE 0 END, r.word, r.due_at
        FROM ({wanted}) AS w
        LEFT JOIN run_requests r ON r.batch_id = w.batch_id AND r.kind = '{kind}'
        WHERE r.word IS DISTINCT FROM w.word OR r.due_at <= now()
        ORDER BY w.batch_id
    """)
    for kind, wanted in _WANTED.items()
}
# Only the caller that finds the row as it was read may go on: two that look at once ask once.
_ANSWER = text("""
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
# A batch whose own time has come stays due without a request.
_WITHDRAW_STAGING = text("""
    UPDATE batches SET stage_requested_at = NULL
    WHERE id = :batch_id
      AND (status = 'SAVED' AND stage_requested_at IS NOT NULL AND coalesce(stage_after > now(), true)
           OR status = 'FAILED_STAGING' AND stage_requested_at IS NOT NULL)
    RETURNING id
""")
# A report takes seconds. It counts as late this long after completion, or once a run has ended without it.
SECONDS_TO_REPORT = 120
# A staging that has not begun counts as late this long after the request, or once a run has ended without it.
SECONDS_TO_STAGE = 120
# Batches whose staging is requested and neither works nor is done.
MISSING_STAGINGS = f"""
    SELECT w.batch_id, coalesce(r.attempt, 0) AS attempt, r.last_end, r.last_ended_at, b.status,
           r.last_end IS NOT NULL OR b.status = 'FAILED_STAGING'
               OR coalesce(b.stage_requested_at, b.stage_after)
                  < now() - interval '{SECONDS_TO_STAGE} seconds' AS is_late
    FROM ({_WANTED[Kind.STAGE]}) AS w
    JOIN batches b ON b.id = w.batch_id
    LEFT JOIN run_requests r ON r.batch_id = w.batch_id AND r.kind = 'stage' AND r.word = w.word
"""
# Closed batches without the report of their newest result.
MISSING_REPORTS = f"""
    SELECT w.batch_id, coalesce(r.attempt, 0) AS attempt, r.last_end, r.last_ended_at, b.result_digest,
           r.last_end IS NOT NULL OR b.completed_at < now() - interval '{SECONDS_TO_REPORT} seconds'
               AS is_late
    FROM ({_WANTED[Kind.REPORT]}) AS w
    JOIN batches b ON b.id = w.batch_id
    LEFT JOIN run_requests r ON r.batch_id = w.batch_id AND r.kind = 'report' AND r.word = w.word
"""
_IS_ASKED_FOR = "(CAST(:ids AS text) IS NULL OR m.batch_id = ANY(CAST(:ids AS int[])))"
_UNREPORTED = text(f"""
    SELECT m.batch_id, m.attempt, m.last_end, m.last_ended_at, m.is_late
    FROM ({MISSING_REPORTS}) AS m WHERE {_IS_ASKED_FOR} ORDER BY m.batch_id
""")
_UNSTAGED = text(f"""
    SELECT m.batch_id, m.attempt, m.last_end, m.last_ended_at, m.is_late
    FROM ({MISSING_STAGINGS}) AS m WHERE m.batch_id = ANY(CAST(:ids AS int[])) ORDER BY m.batch_id
""")

_WAITING_STAGINGS = text(f"SELECT count(*) FROM ({_WANTED[Kind.STAGE]}) AS w")


@dataclass(frozen=True, slots=True)
class Request:
    """A run that has to be asked for, or asked about, now.

    `attempt` is the newest one that Dagster was asked for, 0 where there was none. `seen_word` and
    `seen_due_at` are those of the row in `run_requests`, None where there is none.
    """

    batch_id: int
    kind: Kind
    word: str
    attempt: int
    seen_word: str | None
    seen_due_at: datetime | None

    def run_key(self, attempt: int) -> str:
        """The run key of an attempt, which Dagster gives to one run only."""
        return f"{self.kind}-{partition_key(self.batch_id)}-{self.word}-{attempt}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows from a look at the runs of a request.

    Parameters
    ----------
    attempt
        The attempt to remember.
    pause
        Seconds until the next look.
    is_asked
        Whether Dagster is asked for a run of this attempt now.
    ended_as, ended_ago
        Status of the newest run that ended, and how many seconds ago; None where none has.
    """

    attempt: int
    pause: float
    is_asked: bool = False
    ended_as: str | None = None
    ended_ago: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch whose run was asked for and has not succeeded yet; `attempt` is 0 where none was asked for.

    `is_late` where its staging or its report should be there by now.
    """

    batch_id: int
    attempt: int
    last_end: str | None
    last_ended_at: datetime | None
    is_late: bool = False

    @property
    def why(self) -> str:
        """How the runs went, in a few words."""
        if self.attempt == 0:
            return "no run was asked for yet: the sensors of doceval up do so"
        if self.last_end is None or self.last_ended_at is None:
            return f"attempt {self.attempt} has not ended"
        ended = f"{self.last_ended_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"attempt {self.attempt}, the last run ended as {self.last_end} at {ended}"

    @property
    def missing_report(self) -> str:
        """What people are told of a closed batch without its report, in a line."""
        command = f"doceval report {self.batch_id}"
        return f"the report of its newest result is missing ({self.why}): {command} writes it"

    @property
    def missing_staging(self) -> str:
        """What people are told of a batch that waits to be staged, in a line."""
        return f"staging is requested and is not done ({self.why}): doceval stage {self.batch_id} does it now"

    def as_json(self) -> dict[str, Any]:
        """Its shape in `doceval status --json`."""
        return {
            "attempt": self.attempt,
            "last_end": self.last_end,
            "last_ended_at": None if self.last_ended_at is None else self.last_ended_at.isoformat(),
        }


def due_requests(connection: Connection, kind: Kind) -> list[Request]:
    """Requests of a kind that are new, or whose run has to be looked at again."""
    rows = connection.execute(_DUE[kind])
    return [Request(row[0], Kind(row[1]), *row[2:]) for row in rows]


def keep_answers(connection: Connection, answers: Sequence[tuple[Request, Answer]]) -> set[int]:
    """Stores answers; returns the batches whose answer no other caller stored first."""
    if not answers:
        return set()
    requests = [request for request, _ in answers]
    given = [answer for _, answer in answers]
    parameters = {
        "kind": requests[0].kind.value,
        "batch_ids": [request.batch_id for request in requests],
        "words": [request.word for request in requests],
        "seen_words": [request.seen_word for request in requests],
        "seen_due_ats": [request.seen_due_at for request in requests],
        "attempts": [answer.attempt for answer in given],
        "pauses": [answer.pause for answer in given],
        "ends": [answer.ended_as for answer in given],
        "ago": [answer.ended_ago for answer in given],
    }
    return set(connection.scalars(_ANSWER, parameters))


def request_saved(connection: Connection) -> None:
    """Ask for the staging of every SAVED batch that has no time of its own and was not asked for yet."""
    connection.execute(_REQUEST_SAVED)


def withdraw_staging(connection: Connection, batch_id: int) -> bool:
    """Take back the request to stage a batch; False where there is none."""
    return connection.scalar(_WITHDRAW_STAGING, {"batch_id": batch_id}) is not None


def unreported(connection: Connection, batch_ids: Iterable[int] | None = None) -> dict[int, Waiting]:
    """Closed batches without a report of their newest result, by number: of the given ones, or of all."""
    ids = None if batch_ids is None else arrays.of_numbers(batch_ids)
    return {row[0]: Waiting(*row) for row in connection.execute(_UNREPORTED, {"ids": ids})}


def unstaged(connection: Connection, batch_ids: Iterable[int]) -> dict[int, Waiting]:
    """Those of the given batches whose staging is requested and neither works nor is done, by number."""
    return {
        row[0]: Waiting(*row) for row in connection.execute(_UNSTAGED, {"ids": arrays.of_numbers(batch_ids)})
    }


def waiting_stagings(connection: Connection) -> int:
    """How many batches are requested to be staged and have not begun."""
    return int(connection.scalar(_WAITING_STAGINGS) or 0)
