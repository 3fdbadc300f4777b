"""Messages of the completion webhook: their deliveries, attempts and failures."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """A due row of the outbox: the result it is about, the time it was created, and the message body."""

    batch_id: int
    result_digest: str
    created_at: datetime
    payload: str


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of one attempt to deliver a message.

    Parameters
    ----------
    failure
        Why the receiver does not have the message, in one line; None if it was delivered.
    is_final
        Whether the receiver rejected all further attempts.
    pause
        Seconds that the receiver asked to wait before the next attempt.
    """

    failure: str | None = None
    is_final: bool = False
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class UndeliveredMessage:
    """A message that the receiver has not confirmed after `attempts` failed attempts.

    Exactly one of `next_attempt_at` and `given_up_at` is set; `failure` is that of the last attempt.
    `is_overdue` is set if the next attempt should have started minutes ago.
    """

    batch_id: int
    attempts: int
    failure: str
    next_attempt_at: datetime | None
    given_up_at: datetime | None
    is_overdue: bool = False

    @property
    def sentence(self) -> str:
        """One line for people: attempts, last failure and next attempt."""
        tried = f"after {self.attempts} {'attempt' if self.attempts == 1 else 'attempts'}: {self.failure}"
        if self.next_attempt_at is None:
            return f"the webhook message was given up {tried}"
        due = f"{self.next_attempt_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        following = (
            f"the next attempt was due at {due}: check that doceval up runs, with its sensor "
            "completion_webhook"
            if self.is_overdue
            else f"the next attempt is at {due}"
        )
        return f"the webhook message is still pending {tried}; {following}"

    def as_json(self) -> dict[str, Any]:
        """Its shape in `doceval status --json`."""
        return {
            "attempts": self.attempts,
            "failure": self.failure,
            "next_attempt_at": None if self.next_attempt_at is None else self.next_attempt_at.isoformat(),
            "given_up_at": None if self.given_up_at is None else self.given_up_at.isoformat(),
        }
