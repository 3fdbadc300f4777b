"""Queues new attempts at evaluations, and stores which requests for them are fulfilled."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.files import DocumentRange
from doceval_pipeline.knowledge.outcomes import outcome_sql
from doceval_pipeline.knowledge.queue import HAS_LEFT, queue_places, set_requeue_status

# An evaluation with an unfinished attempt is skipped, so that two requests queue one attempt.
_REQUEUED = """
    WITH again AS (
        UPDATE llm_responses SET superseded_at = now()
        WHERE batch_id = :batch_id AND superseded_at IS NULL AND {condition}
        RETURNING batch_id, document_id, prompt_id, connection_id, attempt, connection_details, file_name)
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, attempt, connection_details,
                               file_name, queue_position)
    SELECT batch_id, document_id, prompt_id, connection_id, attempt + 1, connection_details, file_name,
           clock.last_value - :shift
           + row_number() OVER (ORDER BY document_id, prompt_id, connection_id) * :step
    FROM again, llm_responses_queue_clock AS clock
    ORDER BY document_id, prompt_id, connection_id
"""
_REQUEUE = text(_REQUEUED.format(condition=f"withdrawn_at IS NULL AND {outcome_sql()} = ANY(:outcomes)"))
_REQUEUE_RETURNING = text(
    _REQUEUED.format(
        condition=f"""withdrawn_at IS NOT NULL AND {HAS_LEFT}
          AND document_id IN (SELECT unnest(CAST(:documents AS bigint[])))"""
    )
)
_FULFILLED = text("""
    SELECT new_attempts FROM reprocess_requests WHERE batch_id = :batch_id AND request = :request
""")
_FULFIL = text("""
    INSERT INTO reprocess_requests (batch_id, request, new_attempts)
    VALUES (:batch_id, :request, :new_attempts)
""")
_FORGET_REQUESTS = text("""
    DELETE FROM reprocess_requests WHERE created_at < now() - make_interval(days => :days)
""")


def requeue(connection: Connection, batch_id: int, outcomes: Sequence[Outcome], priority: int) -> int:
    """Queue a new attempt for each evaluation whose result has one of the outcomes; returns how many.

    Earlier attempts are kept.
    """
    parameters = {"batch_id": batch_id, "outcomes": list(outcomes), **queue_places(batch_id, priority)}
    added = connection.execute(_REQUEUE, parameters).rowcount
    if added:
        set_requeue_status(connection, batch_id, Outcome.WAITING)
    return added


def requeue_returning(
    connection: Connection, batch_id: int, documents: DocumentRange, priority: int, before: int = 0
) -> int:
    """Queue a new attempt for each evaluation of a returned document that was closed when the document left.

    Call `withdraw_others` for the same documents afterwards, in the same transaction. `before` is the number
    of attempts that were queued for other documents. Returns how many attempts were queued.
    """
    parameters = {"batch_id": batch_id, "documents": arrays.of_numbers(documents.ids)}
    added = connection.execute(
        _REQUEUE_RETURNING, {**parameters, **queue_places(batch_id, priority, before)}
    ).rowcount
    if added:
        set_requeue_status(connection, batch_id, Outcome.WAITING)
    return added


def attempts_of_request(connection: Connection, batch_id: int, request: str) -> int | None:
    """How many new attempts a request for a batch has queued; None before it is fulfilled."""
    attempts: int | None = connection.scalar(_FULFILLED, {"batch_id": batch_id, "request": request})
    return attempts


def record_request(connection: Connection, batch_id: int, request: str, new_attempts: int) -> None:
    """Record, in the transaction that queues the attempts, that a request is fulfilled.

    The primary key prevents a second transaction from fulfilling it too.
    """
    connection.execute(_FULFIL, {"batch_id": batch_id, "request": request, "new_attempts": new_attempts})


def forget_requests(connection: Connection, days: int) -> int:
    """Delete requests older than `days`, whose runs are no longer retried; returns how many."""
    return connection.execute(_FORGET_REQUESTS, {"days": days}).rowcount
