"""Invariants of the contract with processors: leases, deliveries, places, and what the pipeline ended."""

from sqlalchemy import text

from doceval_pipeline.batches.invariants.invariant import Invariant, Side
from doceval_pipeline.batches.staging.reprocessing import CANCELLED
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.knowledge.outcomes import words_in_sql
from doceval_pipeline.knowledge.queue import STEP

_TORN_LEASE = text("""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('its status is %s, its token %s, and it was delivered %s times', left(r.status, 40),
                  CASE WHEN r.lease_token IS NULL THEN 'missing' ELSE 'there' END, r.deliveries) AS wrong
    FROM llm_responses r
    WHERE r.lease_expires_at IS NOT NULL
      AND (r.status <> 'P' OR r.lease_token IS NULL OR r.deliveries < 1 OR r.started_processing_at IS NULL)
    ORDER BY r.batch_id, r.id
""")
_TOO_OFTEN = text("""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('it was delivered %s times, %s of which do not count', r.deliveries, r.uncounted) AS wrong
    FROM llm_responses r WHERE r.deliveries - r.uncounted NOT BETWEEN 0 AND 5
    ORDER BY r.batch_id, r.id
""")
# A batch's rows are placed at most a step apart, from the present on, and the present does not go back.
# Rows that were left behind the present are brought to it by tidy_queue().
_BEYOND_THE_END = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('it waits at %s, and the queue is at %s', r.queue_position, clock.last_value) AS wrong
    FROM current_llm_responses r
    JOIN (SELECT batch_id, count(*) AS rows FROM llm_responses GROUP BY batch_id) AS sizes USING (batch_id)
    CROSS JOIN llm_responses_queue_clock AS clock
    WHERE r.status IN ({words_in_sql(Outcome.WAITING)})
      AND r.queue_position > clock.last_value + (sizes.rows + 1) * {STEP}
    ORDER BY r.batch_id, r.id
""")
_WITHOUT_TIME = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing, 'completed_processing_at is not set' AS wrong
    FROM current_llm_responses r
    WHERE r.status = 'F' AND r.completed_processing_at IS NULL
      AND (r.error_message = '{CANCELLED}' OR starts_with(r.error_message, 'given up after ')
           OR starts_with(r.error_message, 'the batch was cancelled, and the delivery '))
    ORDER BY r.batch_id, r.id
""")
_AS_THE_OWNER = "as doceval_owner, in KnowledgeDocuments: UPDATE llm_responses SET "

LEASES_ARE_WHOLE = Invariant(
    name="leases-are-whole",
    must_hold="a lease is of a running row, with its token and its delivery; a row that is done has none",
    runs_in=(Side.KNOWLEDGE,),
    query=_TORN_LEASE,
    mend=f"{_AS_THE_OWNER}lease_expires_at = NULL for this row; if it is still P, another UPDATE to QUEUED",
)
DELIVERIES_END = Invariant(
    name="deliveries-end",
    must_hold="no row is delivered more than five times, but for deliveries that do not count",
    runs_in=(Side.KNOWLEDGE,),
    query=_TOO_OFTEN,
    mend=f"{_AS_THE_OWNER}deliveries = uncounted + 5 for this row; members of doceval_worker cannot write it",
)
PLACES_ARE_IN_THE_QUEUE = Invariant(
    name="places-are-in-the-queue",
    must_hold="what waits has a place within the length of its batch",
    runs_in=(Side.KNOWLEDGE,),
    query=_BEYOND_THE_END,
    mend="doceval pause {batch_id}, then doceval resume {batch_id}: its rows are placed anew",
)
ENDED_ROWS_SAY_WHEN = Invariant(
    name="ended-rows-say-when",
    must_hold="a row that was cancelled or given up says when",
    runs_in=(Side.KNOWLEDGE,),
    query=_WITHOUT_TIME,
    mend="find out which program wrote around the guard; doceval reprocess {batch_id} --failed tries again",
)
INVARIANTS = (LEASES_ARE_WHOLE, DELIVERIES_END, PLACES_ARE_IN_THE_QUEUE, ENDED_ROWS_SAY_WHEN)
