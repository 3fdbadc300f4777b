"""The life of a batch: which state follows which, and the one statement that changes a state.

Other modules say what happened (an `Action`); nobody else writes `batches.status`.
"""

from enum import StrEnum

from sqlalchemy import Connection, text


class Status(StrEnum):
    """The states of a batch, in the words of the predecessor."""

    SAVED = "SAVED"
    STAGING = "STAGING"
    STAGED = "STAGED"
    ANALYZING = "ANALYZING"
    COMPLETED = "COMPLETED"
    FAILED_STAGING = "FAILED_STAGING"
    FAILED = "FAILED"
    PAUSED = "PAUSED"


class Action(StrEnum):
    """What can happen to a batch."""

    BEGIN_STAGING = "begin staging"
    FAIL_STAGING = "fail staging"
    FINISH_STAGING = "finish staging"
    START_ANALYZING = "start analyzing"
    COMPLETE = "complete"
    FAIL = "fail"
    REOPEN = "reopen"


# (from, action, to). A repair of a batch that is already staged changes no state; a closed batch
# whose results changed is completed again.
TRANSITIONS: tuple[tuple[Status, Action, Status], ...] = (
    (Status.SAVED, Action.BEGIN_STAGING, Status.STAGING),
    (Status.FAILED_STAGING, Action.BEGIN_STAGING, Status.STAGING),
    (Status.STAGING, Action.FAIL_STAGING, Status.FAILED_STAGING),
    (Status.SAVED, Action.FAIL_STAGING, Status.FAILED_STAGING),
    (Status.STAGING, Action.FINISH_STAGING, Status.STAGED),
    (Status.STAGED, Action.START_ANALYZING, Status.ANALYZING),
    (Status.STAGED, Action.COMPLETE, Status.COMPLETED),
    (Status.ANALYZING, Action.COMPLETE, Status.COMPLETED),
    (Status.FAILED, Action.COMPLETE, Status.COMPLETED),
    (Status.COMPLETED, Action.COMPLETE, Status.COMPLETED),
    (Status.STAGED, Action.FAIL, Status.FAILED),
    (Status.ANALYZING, Action.FAIL, Status.FAILED),
    (Status.COMPLETED, Action.FAIL, Status.FAILED),
    (Status.FAILED, Action.FAIL, Status.FAILED),
    (Status.COMPLETED, Action.REOPEN, Status.ANALYZING),
    (Status.FAILED, Action.REOPEN, Status.ANALYZING),
)

_TRANSITION = text("""
    UPDATE batches
    SET status = t.new_status,
        status_changed_at = now(),
        started_at = CASE WHEN t.new_status = 'STAGING' THEN coalesce(started_at, now()) ELSE started_at END,
        completed_at = CASE WHEN t.new_status IN ('COMPLETED', 'FAILED') THEN now() END,
        failure_reason = CAST(:reason AS text)
    FROM unnest(CAST(:old AS text[]), CAST(:new AS text[])) AS t(old_status, new_status)
    WHERE batches.id = :batch_id AND batches.status = t.old_status
    RETURNING batches.status
""")


def transition(
    connection: Connection, batch_id: int, action: Action, reason: str | None = None
) -> Status | None:
    """Do what `action` does to a batch's state, if its state allows it.

    Parameters
    ----------
    reason
        Why it failed, one line; cleared by every action that gives none.

    Returns
    -------
    Status | None
        The new state, or None where the batch was in no state that this action leaves.
    """
    steps = [(old, new) for old, via, new in TRANSITIONS if via is action]
    new_status = connection.scalar(
        _TRANSITION,
        {
            "batch_id": batch_id,
            "reason": reason,
            "old": [old.value for old, _ in steps],
            "new": [new.value for _, new in steps],
        },
    )
    return None if new_status is None else Status(new_status)
