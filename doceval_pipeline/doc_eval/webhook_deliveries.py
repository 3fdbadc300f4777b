"""Outbox of the webhook: one row per batch and result, with the newest time that the batch had it, and one
per batch that was held.

What is sent, and how, is the business of `batches.webhook`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
# A batch is held once. Locked, so that no person releases it before its message is in the outbox; one that
# somebody works on now is found by the next look.
_UNTOLD_HELD = text("""
    SELECT id FROM batches b
    WHERE status = 'PAUSED' AND held_reason IS NOT NULL AND archived_at IS NULL
      AND status_changed_at > now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT 1 FROM webhook_deliveries w WHERE w.batch_id = b.id AND w.result_digest = :held)
    ORDER BY id LIMIT :most
    FOR NO KEY UPDATE SKIP LOCKED
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
# Attempts whose end nobody recorded, as of a sender that is killed each time.
_GIVE_UP_UNFINISHED = text("""
    UPDATE webhook_deliveries SET given_up_at = now(), next_attempt_at = NULL,
        last_failure = coalesce(last_failure, :unfinished)
    WHERE next_attempt_at <= now() AND attempts >= :most_attempts
""")
# Given up at the time that its next attempt had, which it has again once there is a receiver: an answer to an
# earlier attempt may have asked for it.
_SWITCH_OFF = text("""
    UPDATE webhook_deliveries
    SET given_up_at = next_attempt_at, next_attempt_at = NULL, last_failure = :switched_off
    WHERE next_attempt_at IS NOT NULL
""")
_SWITCH_ON = text("""
    UPDATE webhook_deliveries SET given_up_at = NULL, next_attempt_at = given_up_at
    WHERE given_up_at IS NOT NULL AND last_failure = :switched_off
      AND created_at > now() - make_interval(secs => :seconds)
""")
# The next attempt is set before this one begins: whoever is killed meanwhile has it made again.
_CLAIM = text("""
    WITH due AS (
        SELECT batch_id, result_digest FROM webhook_deliveries WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at, batch_id LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE webhook_deliveries w
    SET attempts = attempts + 1,
        last_failure = coalesce(last_failure, :unfinished),
        next_attempt_at = now() + make_interval(secs => least(
            :longest, :shortest * 2.0 ^ least(attempts, 30),
            -- The last attempt is made when the time is over, and no two at once.
            greatest(extract(epoch FROM created_at - now()) + :seconds, 60)))
    FROM due WHERE w.batch_id = due.batch_id AND w.result_digest = due.result_digest
    RETURNING w.batch_id, w.result_digest, w.created_at, w.payload
""")
# A pause that the receiver asked for never goes beyond the time after which the message is given up.
_RECORD = text("""
    UPDATE webhook_deliveries w
    SET delivered_at = CASE WHEN failure IS NULL THEN now() END,
        given_up_at = CASE WHEN failure IS NOT NULL AND is_over THEN now() END,
        next_attempt_at = CASE WHEN failure IS NOT NULL AND NOT is_over THEN
            greatest(next_attempt_at, least(now() + make_interval(secs => pause), last_attempt_at)) END,
        last_failure = coalesce(failure, nullif(last_failure, :unfinished))
    FROM (
        SELECT answer.*, d.created_at + make_interval(secs => :seconds) AS last_attempt_at,
               is_final OR d.created_at <= now() - make_interval(secs => :seconds) AS is_over
        FROM unnest(CAST(:batch_ids AS int[]), CAST(:digests AS text[]), CAST(:failures AS text[]),
                    CAST(:finals AS boolean[]), CAST(:pauses AS float8[]))
             AS answer(batch_id, result_digest, failure, is_final, pause)
        JOIN webhook_deliveries d USING (batch_id, result_digest)) AS answered
    WHERE w.batch_id = answered.batch_id AND w.result_digest = answered.result_digest
      AND w.next_attempt_at IS NOT NULL
""")
# Of a webhook that was switched off nothing is missing.
_TROUBLES = """
    SELECT DISTINCT ON (batch_id) batch_id, attempts, last_failure, next_attempt_at, given_up_at,
           coalesce(next_attempt_at < now() - interval '10 minutes', false)
    FROM webhook_deliveries
    WHERE delivered_at IS NULL AND last_failure <> :switched_off {which}
    ORDER BY batch_id {order}, created_at DESC
"""
_TROUBLES_OF = text(_TROUBLES.format(which="AND batch_id = ANY(:batch_ids)", order=""))
_RECENT_TROUBLES = text(
    _TROUBLES.format(
        which="AND (given_up_at IS NULL OR given_up_at > now() - make_interval(secs => :seconds))",
        order="DESC",
    )
)
# The sensor looks every few seconds.
_OVERDUE = text("""
    SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at < now() - interval '60 seconds'
""")
# Stands for the digest of a result in the message that a batch was held.
HELD = "held"
SWITCHED_OFF = "the webhook was switched off"
UNFINISHED = "an attempt was begun, and its end was not recorded"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be sent now: of which result, since when it stands in the outbox, and the body."""

    batch_id: int
    result_digest: str
    created_at: datetime
    payload: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: why it failed, or None; whether it was the last; seconds to wait."""

    delivery: Delivery
    failure: str | None
    is_final: bool
    pause: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """A result of which the receiver has not said that it has it, after `attempts` that failed.

    Either `next_attempt_at` or `given_up_at` is None; `failure` is of the last attempt. `is_overdue` where
    the next attempt should have been made minutes ago.
    """

    batch_id: int
    attempts: int
    failure: str
    next_attempt_at: datetime | None
    given_up_at: datetime | None
    is_overdue: bool = False

    @property
    def sentence(self) -> str:
        """What people are told of it, in a line."""
        tried = f"after {self.attempts} {'attempt' if self.attempts == 1 else 'attempts'}: {self.failure}"
        if self.next_attempt_at is None:
            return f"the webhook was given up {tried}"
        due = f"{self.next_attempt_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        following = (
            f"the next attempt was due at {due}: see that doceval up runs, with its sensor completion_webhook"
            if self.is_overdue
            else f"the next attempt is at {due}"
        )
        return f"the webhook is still to be sent {tried}; {following}"

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


def untold_held(connection: Connection, seconds: float, most: int) -> list[int]:
    """Batches that were held in the last `seconds` and are so still, without a message in the outbox.

    They stay locked until the transaction ends.
    """
    return list(connection.scalars(_UNTOLD_HELD, {"seconds": seconds, "most": most, "held": HELD}))


def keep(connection: Connection, payloads: Mapping[tuple[int, str], str]) -> None:
    """Keep what is to be told of results, by batch and digest; what is kept since the batch
    completed stays as it is."""
    numbers, digests = [number for number, _ in payloads], [digest for _, digest in payloads]
    parameters = {"batch_ids": numbers, "digests": digests, "payloads": list(payloads.values())}
    connection.execute(_KEEP, parameters)


def claim(
    connection: Connection, most: int, shortest: float, longest: float, seconds: float
) -> list[Delivery]:
    """Take what is due, `most` at a time, and set when it is sent again unless something is recorded.

    Parameters
    ----------
    shortest, longest
        Seconds until the second attempt, doubled with each further one; and what they do not exceed.
    seconds
        After so many in the outbox the last attempt is made.
    """
    parameters = {"most": most, "shortest": shortest, "longest": longest, "seconds": seconds}
    return [Delivery(*row) for row in connection.execute(_CLAIM, {**parameters, "unfinished": UNFINISHED})]


def give_up_unfinished(connection: Connection, most_attempts: int) -> None:
    """Give up what was tried `most_attempts` times, where no end of the last one was recorded."""
    connection.execute(_GIVE_UP_UNFINISHED, {"most_attempts": most_attempts, "unfinished": UNFINISHED})


def switch_off(connection: Connection) -> None:
    """End everything that is still to be sent, because there is no receiver any more."""
    connection.execute(_SWITCH_OFF, {"switched_off": SWITCHED_OFF})


def switch_on(connection: Connection, seconds: float) -> None:
    """Take up what `switch_off` ended and is not older than `seconds`, with the ids and times that it had."""
    connection.execute(_SWITCH_ON, {"switched_off": SWITCHED_OFF, "seconds": seconds})


def record(connection: Connection, outcomes: Sequence[Outcome], seconds: float) -> None:
    """Record what became of attempts.

    What failed, and stands in the outbox for more than `seconds`, is given up.
    """
    connection.execute(
        _RECORD,
        {
            "batch_ids": [outcome.delivery.batch_id for outcome in outcomes],
            "digests": [outcome.delivery.result_digest for outcome in outcomes],
            "failures": [outcome.failure for outcome in outcomes],
            "finals": [outcome.is_final for outcome in outcomes],
            "pauses": [outcome.pause for outcome in outcomes],
            "seconds": seconds,
            "unfinished": UNFINISHED,
        },
    )


def troubles(connection: Connection, batch_ids: Sequence[int]) -> dict[int, Trouble]:
    """The newest result of each of some batches that could not be delivered yet, or not at all."""
    parameters = {"batch_ids": list(batch_ids), "switched_off": SWITCHED_OFF}
    return {row[0]: Trouble(*row) for row in connection.execute(_TROUBLES_OF, parameters)}


def recent_troubles(connection: Connection, seconds: float) -> list[Trouble]:
    """As `troubles`, of all batches, newest first; what was given up is left out after `seconds`."""
    parameters = {"seconds": seconds, "switched_off": SWITCHED_OFF}
    return [Trouble(*row) for row in connection.execute(_RECENT_TROUBLES, parameters)]


def overdue(connection: Connection) -> int:
    """How many messages should have been sent by now."""
    return int(connection.scalar(_OVERDUE) or 0)
