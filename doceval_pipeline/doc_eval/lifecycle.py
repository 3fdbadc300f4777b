"""The lifecycle of a batch: its states, their transitions, and the one statement that changes a state.

Other modules pass an `Action`; only this module writes `batches.status`.
"""

from enum import StrEnum

from sqlalchemy import Connection, text

from doceval_pipeline.errors import BatchStateError


class Status(StrEnum):
    """The states of a batch, with the names of the predecessor of this project."""

    SAVED = "SAVED"
    STAGING = "STAGING"
    STAGED = "STAGED"
    ANALYZING = "ANALYZING"
    COMPLETED = "COMPLETED"
    FAILED_STAGING = "FAILED_STAGING"
    FAILED = "FAILED"
    PAUSED = "PAUSED"


# Batches that wait for results, and batches that have all of them.
OPEN = (Status.STAGED, Status.ANALYZING, Status.PAUSED)
CLOSED = (Status.COMPLETED, Status.FAILED)


class Action(StrEnum):
    """Actions on a batch, by people, by runs or by the sensor `response_status`."""

    BEGIN_STAGING = "begin staging"
    FAIL_STAGING = "fail staging"
    INTERRUPT_STAGING = "interrupt staging"
    FINISH_STAGING = "finish staging"
    REST = "rest"
    START_ANALYZING = "start analyzing"
    COMPLETE = "complete"
    FAIL = "fail"
    REOPEN = "reopen"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


# (from, action, to). Staging a staged batch again does not change its state; a closed batch whose results
# changed is completed again.
TRANSITIONS: tuple[tuple[Status, Action, Status], ...] = (
    (Status.SAVED, Action.BEGIN_STAGING, Status.STAGING),
    (Status.FAILED_STAGING, Action.BEGIN_STAGING, Status.STAGING),
    (Status.STAGING, Action.FAIL_STAGING, Status.FAILED_STAGING),
    (Status.SAVED, Action.FAIL_STAGING, Status.FAILED_STAGING),
    (Status.STAGING, Action.INTERRUPT_STAGING, Status.FAILED_STAGING),
    (Status.SAVED, Action.INTERRUPT_STAGING, Status.FAILED_STAGING),
    (Status.STAGING, Action.FINISH_STAGING, Status.STAGED),
    # It counted as abandoned, or another run failed, while this run continued and counted all rows.
    (Status.FAILED_STAGING, Action.FINISH_STAGING, Status.STAGED),
    # A run executed only some of the steps, and they are done.
    (Status.STAGING, Action.REST, Status.SAVED),
    # Set to SAVED after one run, while another run continued.
    (Status.SAVED, Action.FINISH_STAGING, Status.STAGED),
    (Status.STAGED, Action.START_ANALYZING, Status.ANALYZING),
    (Status.STAGED, Action.COMPLETE, Status.COMPLETED),
    (Status.ANALYZING, Action.COMPLETE, Status.COMPLETED),
    (Status.FAILED, Action.COMPLETE, Status.COMPLETED),
    (Status.COMPLETED, Action.COMPLETE, Status.COMPLETED),
    (Status.STAGED, Action.FAIL, Status.FAILED),
    (Status.ANALYZING, Action.FAIL, Status.FAILED),
    (Status.COMPLETED, Action.FAIL, Status.FAILED),
    (Status.FAILED, Action.FAIL, Status.FAILED),
    (Status.PAUSED, Action.COMPLETE, Status.COMPLETED),
    (Status.PAUSED, Action.FAIL, Status.FAILED),
    (Status.COMPLETED, Action.REOPEN, Status.STAGED),
    (Status.FAILED, Action.REOPEN, Status.STAGED),
    # It was cancelled, and got new attempts before its last running row was done.
    (Status.STAGED, Action.REOPEN, Status.STAGED),
    (Status.ANALYZING, Action.REOPEN, Status.ANALYZING),
    (Status.STAGED, Action.PAUSE, Status.PAUSED),
    (Status.ANALYZING, Action.PAUSE, Status.PAUSED),
    # Repeated, because a pause that was killed may have held only some of the rows.
    (Status.PAUSED, Action.PAUSE, Status.PAUSED),
    (Status.PAUSED, Action.RESUME, Status.STAGED),
    (Status.STAGED, Action.CANCEL, Status.ANALYZING),
    (Status.ANALYZING, Action.CANCEL, Status.ANALYZING),
    (Status.PAUSED, Action.CANCEL, Status.ANALYZING),
)
# Actions that people request and that the state may forbid.
BY_PEOPLE = (Action.PAUSE, Action.RESUME, Action.CANCEL)

_PARTICIPLES = {Action.PAUSE: "paused", Action.RESUME: "resumed", Action.CANCEL: "cancelled"}
_STATUS = text("SELECT status FROM batches WHERE id = :batch_id")
_TRANSITION = text("""
    UPDATE batches
    SET status = t.new_status,
        status_changed_at = now(),
        started_at = CASE WHEN t.new_status = 'STAGING' THEN coalesce(started_at, now()) ELSE started_at END,
        completed_at = CASE WHEN t.new_status IN ('COMPLETED', 'FAILED') THEN now() END,
        -- Late results do not change the prices of a batch that was not reopened.
        prices_at_completion = CASE WHEN t.new_status IN ('COMPLETED', 'FAILED') THEN coalesce(
            prices_at_completion,
            (SELECT jsonb_object_agg(c.id, c.prices) FROM batch_connections l
             JOIN connections c ON c.id = l.connection_id
             WHERE l.batch_id = batches.id AND c.prices IS NOT NULL),
            '{}') END,
        cancelled_at = CASE WHEN :action = 'cancel' THEN now() WHEN :action <> 'reopen' THEN cancelled_at END,
        stage_requested_at = CASE
            -- Queue rows or a failure reason fulfil a request. An interruption does not.
            WHEN :action IN ('fail staging', 'finish staging') THEN NULL
            WHEN :action = 'begin staging' AND stage_after <= now()
                THEN coalesce(stage_requested_at, stage_after)
            ELSE stage_requested_at END,
        failure_reason = CAST(:reason AS text),
        -- A batch that a person has resumed or cancelled is no longer held.
        held_reason = CASE WHEN t.new_status = 'PAUSED' THEN held_reason END
    FROM unnest(CAST(:old AS text[]), CAST(:new AS text[])) AS t(old_status, new_status)
    WHERE batches.id = :batch_id AND batches.status = t.old_status AND batches.archived_at IS NULL
    RETURNING batches.status
""")


def transition(
    connection: Connection, batch_id: int, action: Action, reason: str | None = None
) -> Status | None:
    """Change a batch's state by `action`, if its current state allows it.

    Parameters
    ----------
    reason
        Why it failed, in one line; every action without a reason clears it.

    Returns
    -------
    Status | None
        The new state; None if the batch is archived or its state does not allow the action.
    """
    steps = [(old, new) for old, via, new in TRANSITIONS if via is action]
    new_status = connection.scalar(
        _TRANSITION,
        {
            "batch_id": batch_id,
            "reason": reason,
            "action": action.value,
            "old": [old.value for old, _ in steps],
            "new": [new.value for _, new in steps],
        },
    )
    return None if new_status is None else Status(new_status)


def transition_or_raise(connection: Connection, batch_id: int, action: Action) -> Status:
    """Change a batch's state by an action that a person requested.

    Raises
    ------
    BatchStateError
        The batch's state does not allow it; the message names the possible actions.
    """
    new_status = transition(connection, batch_id, action)
    if new_status is None:
        status = Status(connection.execute(_STATUS, {"batch_id": batch_id}).scalar_one())
        raise BatchStateError(
            f"batch {batch_id} is {status} and cannot be {_PARTICIPLES[action]}: {possible_actions(status)}"
        )
    return new_status


def possible_actions(status: Status) -> str:
    """A sentence with the actions that are possible in a state."""
    actions = [action.value for old, action, _ in TRANSITIONS if old is status and action in BY_PEOPLE]
    if status in (Status.COMPLETED, Status.FAILED):
        actions.append("reprocess")
    if status in (Status.SAVED, Status.FAILED_STAGING):
        actions.append("stage")
    return f"possible now: {', '.join(actions)}" if actions else "wait until its staging has ended"
