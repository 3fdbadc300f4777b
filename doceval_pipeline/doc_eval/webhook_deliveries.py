"""The outbox of the completion webhook: each result of a batch that is told stands in it once, with the
newest time that the batch had it.

What is told, and how it is sent, is the business of `batches.webhook`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

# The report stands, and nothing was written since. The oldest come first, as many as have about so many cells
# together, and always one.
_UNTOLD = text("""
    SELECT id FROM (
        SELECT id, row_number() OVER in_order AS place, sum(expected_cells) OVER in_order AS cells
        FROM batches b
        WHERE status IN ('COMPLETED', 'FAILED') AND archived_at IS NULL
          AND reported_digest = result_digest
          AND completed_at > now() - make_interval(secs => :seconds)
          AND NOT EXISTS (SELECT 1 FROM webhook_deliveries w
                          WHERE w.batch_id = b.id AND w.result_digest = b.result_digest
                            AND w.created_at > b.completed_at)
        WINDOW in_order AS (ORDER BY completed_at, id)) AS untold
    WHERE place = 1 OR cells <= :most_cells
    ORDER BY place
""")
# A result that a batch had before and has again is told again.
_KEEP = text("""
    INSERT INTO webhook_deliveries (batch_id, result_digest, payload)
    SELECT * FROM unnest(CAST(:batch_ids AS int[]), CAST(:digests AS text[]), CAST(:payloads AS text[]))
    ON CONFLICT (batch_id, result_digest) DO UPDATE
    SET payload = excluded.payload, created_at = excluded.created_at, attempts = 0,
        next_attempt_at = excluded.next_attempt_at, delivered_at = NULL, given_up_at = NULL,
        last_failure = NULL
    WHERE webhook_deliveries.created_at <= (
        SELECT completed_at FROM batches WHERE id = webhook_deliveries.batch_id)
""")
# The next attempt is set before this one begins: whoever is killed meanwhile has it made again.
_CLAIM = text("""
    WITH due AS (
        SELECT batch_id, result_digest FROM webhook_deliveries WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at, batch_id LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE webhook_deliveries w
    SET attempts = attempts + 1,
        next_attempt_at = now() + make_interval(
            secs => least(:longest, :shortest * 2.0 ^ least(attempts, 30)))
    FROM due WHERE w.batch_id = due.batch_id AND w.result_digest = due.result_digest
    RETURNING w.batch_id, w.result_digest, w.created_at, w.payload
""")
_RECORD = text("""
    UPDATE webhook_deliveries w
    SET delivered_at = CASE WHEN failure IS NULL THEN now() END,
        given_up_at = CASE WHEN failure IS NOT NULL AND too_old THEN now() END,
        next_attempt_at = CASE WHEN failure IS NOT NULL AND NOT too_old THEN next_attempt_at END,
        last_failure = coalesce(failure, last_failure)
    FROM (
        SELECT answer.*, d.created_at <= now() - make_interval(secs => :seconds) AS too_old
        FROM unnest(CAST(:batch_ids AS int[]), CAST(:digests AS text[]), CAST(:failures AS text[]))
             AS answer(batch_id, result_digest, failure)
        JOIN webhook_deliveries d USING (batch_id, result_digest)) AS answered
    WHERE w.batch_id = answered.batch_id AND w.result_digest = answered.result_digest
      AND w.next_attempt_at IS NOT NULL
""")
_TROUBLES = text("""
    SELECT DISTINCT ON (batch_id) batch_id, attempts, last_failure, next_attempt_at, given_up_at
    FROM webhook_deliveries
    WHERE batch_id = ANY(:batch_ids) AND delivered_at IS NULL AND last_failure IS NOT NULL
    ORDER BY batch_id, created_at DESC
""")
# The sensor looks every few seconds.
_OVERDUE = text("""
    SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at < now() - interval '60 seconds'
""")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be sent now: of which result, since when it stands in the outbox, and the body."""

    batch_id: int
    result_digest: str
    created_at: datetime
    payload: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A result of which the receiver has not said that it has it, after `attempts` that failed.

    Either `next_attempt_at` or `given_up_at` is None; `failure` is of the last attempt.
    """

    batch_id: int
    attempts: int
    failure: str
    next_attempt_at: datetime | None
    given_up_at: datetime | None

    @property
    def sentence(self) -> str:
        """What people are told of it, in a line."""
        times = "attempt" if self.attempts == 1 else "attempts"
        what = (
            "the webhook was given up" if self.next_attempt_at is None else "the webhook is still to be sent"
        )
        return f"{what} after {self.attempts} {times}: {self.failure}"

    def as_json(self) -> dict[str, Any]:
        """Its shape in `doceval status --json`."""
        return {
            "attempts": self.attempts,
            "failure": self.failure,
            "next_attempt_at": None if self.next_attempt_at is None else self.next_attempt_at.isoformat(),
            "given_up_at": None if self.given_up_at is None else self.given_up_at.isoformat(),
        }


def untold(connection: Connection, seconds: float, most_cells: int) -> list[int]:
    """Batches that completed in the last `seconds`, whose report stands, and of which nobody was told."""
    return list(connection.scalars(_UNTOLD, {"seconds": seconds, "most_cells": most_cells}))


def keep(connection: Connection, payloads: Mapping[tuple[int, str], str]) -> None:
    """Keep what is to be told of results, by batch and digest; what is kept since the batch
    completed stays as it is."""
    numbers, digests = [number for number, _ in payloads], [digest for _, digest in payloads]
    parameters = {"batch_ids": numbers, "digests": digests, "payloads": list(payloads.values())}
    connection.execute(_KEEP, parameters)


def claim(connection: Connection, most: int, shortest: float, longest: float) -> list[Delivery]:
    """Take what is due, `most` at a time, and set when it is sent again unless something is recorded.

    Parameters
    ----------
    shortest, longest
        Seconds until the second attempt, doubled with each further one; and what they do not exceed.
    """
    rows = connection.execute(_CLAIM, {"most": most, "shortest": shortest, "longest": longest})
    return [Delivery(*row) for row in rows]


def record(connection: Connection, answers: Sequence[tuple[Delivery, str | None]], seconds: float) -> None:
    """Record what became of attempts: why they failed, or None where the receiver has it.

    What failed, and stands in the outbox for more than `seconds`, is given up.
    """
    connection.execute(
        _RECORD,
        {
            "batch_ids": [delivery.batch_id for delivery, _ in answers],
            "digests": [delivery.result_digest for delivery, _ in answers],
            "failures": [failure for _, failure in answers],
            "seconds": seconds,
        },
    )


def troubles(connection: Connection, batch_ids: Sequence[int]) -> dict[int, Trouble]:
    """The newest result of each of some batches that could not be delivered yet, or not at all."""
    rows = connection.execute(_TROUBLES, {"batch_ids": list(batch_ids)})
    return {row[0]: Trouble(*row) for row in rows}


def overdue(connection: Connection) -> int:
    """How many messages should have been sent by now."""
    return int(connection.scalar(_OVERDUE) or 0)
