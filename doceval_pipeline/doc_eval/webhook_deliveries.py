"""Outbox of the completion webhook: one row per batch and result, and one per batch that was held.

`batches.webhook` creates the messages and sends them.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.domain.webhook import AttemptResult, Delivery, UndeliveredMessage

# Batches with a current report, oldest first, with at most :most_cells evaluations in total; always at least
# one.
_PENDING = text("""
    SELECT id FROM (
        SELECT id, row_number() OVER in_order AS place, sum(expected_cells) OVER in_order AS cells
        FROM batches b
        WHERE status IN ('COMPLETED', 'FAILED') AND archived_at IS NULL
          AND reported_digest = result_digest
          AND completed_at > now() - make_interval(secs => :seconds)
          AND NOT EXISTS (SELECT 1 FROM webhook_deliveries w
                          WHERE w.batch_id = b.id AND w.result_digest = b.result_digest
                            AND w.created_at > b.completed_at)
        WINDOW in_order AS (ORDER BY completed_at, id)) AS pending
    WHERE place = 1 OR cells <= :most_cells
    ORDER BY place
""")
# A batch is held once. It is locked, so that it cannot be released before its message is in the outbox. The
# next tick finds a batch that another process has locked now.
_PENDING_HELD = text("""
    SELECT id FROM batches b
    WHERE status = 'PAUSED' AND held_reason IS NOT NULL AND archived_at IS NULL
      AND status_changed_at > now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT 1 FROM webhook_deliveries w WHERE w.batch_id = b.id AND w.result_digest = :held)
    ORDER BY id LIMIT :most
    FOR NO KEY UPDATE SKIP LOCKED
""")
# A result that a batch had before and has again is sent again.
_ADD = text("""
    INSERT INTO webhook_deliveries (batch_id, result_digest, payload)
    SELECT * FROM unnest(CAST(:batch_ids AS int[]), CAST(:digests AS text[]), CAST(:payloads AS text[]))
    ON CONFLICT (batch_id, result_digest) DO UPDATE
    SET payload = excluded.payload, created_at = excluded.created_at, attempts = 0,
        next_attempt_at = excluded.next_attempt_at, delivered_at = NULL, given_up_at = NULL,
        last_failure = NULL
    WHERE webhook_deliveries.created_at <= (
        SELECT completed_at FROM batches WHERE id = webhook_deliveries.batch_id)
""")
# Attempts without a recorded end, for example because the sender is killed every time.
_GIVE_UP_UNFINISHED = text("""
    UPDATE webhook_deliveries SET given_up_at = now(), next_attempt_at = NULL,
        last_failure = coalesce(last_failure, :unfinished)
    WHERE next_attempt_at <= now() AND attempts >= :most_attempts
""")
# given_up_at stores the time of the next attempt, which is restored once a receiver is configured: an earlier
# response may have asked for that pause.
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
# The next attempt is scheduled before this one begins, so a killed sender repeats it.
_CLAIM = text("""
    WITH due AS (
        SELECT batch_id, result_digest FROM webhook_deliveries WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at, batch_id LIMIT :most FOR UPDATE SKIP LOCKED)
    UPDATE webhook_deliveries w
    SET attempts = attempts + 1,
        last_failure = coalesce(last_failure, :unfinished),
        next_attempt_at = now() + make_interval(secs => least(
            :longest, :shortest * 2.0 ^ least(attempts, 30),
            -- The last attempt is made at the end of the period, and attempts never overlap.
            greatest(extract(epoch FROM created_at - now()) + :seconds, 60)))
    FROM due WHERE w.batch_id = due.batch_id AND w.result_digest = due.result_digest
    RETURNING w.batch_id, w.result_digest, w.created_at, w.payload
""")
# A pause requested by the receiver never exceeds the time after which the message is given up.
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
# Messages that were ended because the webhook was switched off do not count as undelivered.
_UNDELIVERED = """
    SELECT DISTINCT ON (batch_id) batch_id, attempts, last_failure AS failure, next_attempt_at, given_up_at,
           coalesce(next_attempt_at < now() - interval '10 minutes', false) AS is_overdue
    FROM webhook_deliveries
    WHERE delivered_at IS NULL AND last_failure <> :switched_off {which}
    ORDER BY batch_id {order}, created_at DESC
"""
_UNDELIVERED_OF = text(_UNDELIVERED.format(which="AND batch_id = ANY(:batch_ids)", order=""))
_RECENTLY_UNDELIVERED = text(
    _UNDELIVERED.format(
        which="AND (given_up_at IS NULL OR given_up_at > now() - make_interval(secs => :seconds))",
        order="DESC",
    )
)
# The sensor ticks every few seconds.
_OVERDUE = text("""
    SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at < now() - interval '60 seconds'
""")
# Used in place of a result digest for the message that a batch was held.
HELD = "held"
# Both are stored in the outbox and compared with its rows: do not change them.
SWITCHED_OFF = "the webhook was switched off"
UNFINISHED = "an attempt was begun, and its end was not recorded"


def pending(connection: Connection, seconds: float, most_cells: int) -> list[int]:
    """Ids of batches that completed in the last `seconds`, with a current report and without a message."""
    return list(connection.scalars(_PENDING, {"seconds": seconds, "most_cells": most_cells}))


def pending_held(connection: Connection, seconds: float, most: int) -> list[int]:
    """Ids of batches that were held in the last `seconds`, still are, and have no message in the outbox.

    They stay locked until the transaction ends.
    """
    return list(connection.scalars(_PENDING_HELD, {"seconds": seconds, "most": most, "held": HELD}))


def add_messages(connection: Connection, payloads: Mapping[tuple[int, str], str]) -> None:
    """Adds messages by batch id and result digest; those added since the batch completed stay unchanged."""
    batch_ids, digests = [batch_id for batch_id, _ in payloads], [digest for _, digest in payloads]
    parameters = {"batch_ids": batch_ids, "digests": digests, "payloads": list(payloads.values())}
    connection.execute(_ADD, parameters)


def claim(
    connection: Connection, most: int, shortest: float, longest: float, seconds: float
) -> list[Delivery]:
    """Claims at most `most` due messages and schedules their next attempt in case no result is recorded.

    Parameters
    ----------
    shortest, longest
        Seconds until the second attempt, doubled with each further one; and their upper limit.
    seconds
        Time in the outbox after which the last attempt is made.
    """
    parameters = {"most": most, "shortest": shortest, "longest": longest, "seconds": seconds}
    rows = connection.execute(_CLAIM, {**parameters, "unfinished": UNFINISHED})
    return [Delivery(**row._mapping) for row in rows]


def give_up_unfinished(connection: Connection, most_attempts: int) -> None:
    """Gives up messages after `most_attempts` attempts if the last one has no recorded end."""
    connection.execute(_GIVE_UP_UNFINISHED, {"most_attempts": most_attempts, "unfinished": UNFINISHED})


def switch_off(connection: Connection) -> None:
    """Ends all pending messages, because no receiver is configured."""
    connection.execute(_SWITCH_OFF, {"switched_off": SWITCHED_OFF})


def switch_on(connection: Connection, seconds: float) -> None:
    """Resumes messages that `switch_off` ended, up to `seconds` old, with their original ids and times."""
    connection.execute(_SWITCH_ON, {"switched_off": SWITCHED_OFF, "seconds": seconds})


def record(
    connection: Connection, attempts: Sequence[tuple[Delivery, AttemptResult]], seconds: float
) -> None:
    """Records the results of attempts; failed messages older than `seconds` are given up."""
    connection.execute(
        _RECORD,
        {
            "batch_ids": [delivery.batch_id for delivery, _ in attempts],
            "digests": [delivery.result_digest for delivery, _ in attempts],
            "failures": [result.failure for _, result in attempts],
            "finals": [result.is_final for _, result in attempts],
            "pauses": [result.pause for _, result in attempts],
            "seconds": seconds,
            "unfinished": UNFINISHED,
        },
    )


def undelivered(connection: Connection, batch_ids: Sequence[int]) -> dict[int, UndeliveredMessage]:
    """The newest undelivered message of each of the given batches, by batch id."""
    parameters = {"batch_ids": list(batch_ids), "switched_off": SWITCHED_OFF}
    rows = connection.execute(_UNDELIVERED_OF, parameters)
    return {row.batch_id: UndeliveredMessage(**row._mapping) for row in rows}


def recently_undelivered(connection: Connection, seconds: float) -> list[UndeliveredMessage]:
    """As `undelivered`, of all batches, newest first; messages given up over `seconds` ago are left out."""
    parameters = {"seconds": seconds, "switched_off": SWITCHED_OFF}
    rows = connection.execute(_RECENTLY_UNDELIVERED, parameters)
    return [UndeliveredMessage(**row._mapping) for row in rows]


def count_overdue(connection: Connection) -> int:
    """Number of messages that should have been sent by now."""
    return int(connection.scalar(_OVERDUE) or 0)
