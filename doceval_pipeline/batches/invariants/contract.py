"""Invariants of the contract with processors: leases, deliveries, positions, and rows the pipeline ended."""

from sqlalchemy import text

from doceval_pipeline.batches.invariants.invariant import Database, Invariant
from doceval_pipeline.batches.staging.reprocessing import CANCELLED
from doceval_pipeline.domain.evaluations import WRITTEN_WORD, Outcome
from doceval_pipeline.knowledge.outcomes import has_outcome_sql
from doceval_pipeline.knowledge.queue import STEP

_TORN_LEASE = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('its status is %s, its token is %s, and it was delivered %s times', left(r.status, 40),
                  CASE WHEN r.lease_token IS NULL THEN 'missing' ELSE 'set' END, r.deliveries) AS problem
    FROM llm_responses r
    WHERE r.lease_expires_at IS NOT NULL
      AND (r.status <> '{WRITTEN_WORD[Outcome.RUNNING]}' OR r.lease_token IS NULL OR r.deliveries < 1
           OR r.started_processing_at IS NULL)
    ORDER BY r.batch_id, r.id
""")
_TOO_OFTEN = text("""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('it was delivered %s times, of which %s do not count', r.deliveries, r.uncounted) AS problem
    FROM llm_responses r WHERE r.deliveries - r.uncounted NOT BETWEEN 0 AND 5
    ORDER BY r.batch_id, r.id
""")
# The rows of a batch are at most one step apart and start at the queue clock, which never goes back.
# tidy_queue() moves rows that fell behind the clock up to it.
_BEYOND_THE_END = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('its position is %s, and the queue clock is at %s', r.queue_position, clock.last_value)
               AS problem
    FROM current_llm_responses r
    JOIN (SELECT batch_id, count(*) AS rows FROM llm_responses GROUP BY batch_id) AS sizes USING (batch_id)
    CROSS JOIN llm_responses_queue_clock AS clock
    WHERE {has_outcome_sql(Outcome.WAITING, status="r.status")}
      AND r.queue_position > clock.last_value + (sizes.rows + 1) * {STEP}
    ORDER BY r.batch_id, r.id
""")
_WITHOUT_TIME = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject, 'completed_processing_at is not set' AS problem
    FROM current_llm_responses r
    WHERE r.status = '{WRITTEN_WORD[Outcome.FAILED]}' AND r.completed_processing_at IS NULL
      AND (r.error_message = '{CANCELLED}' OR starts_with(r.error_message, 'given up after ')
           OR starts_with(r.error_message, 'the batch was cancelled, and the delivery '))
    ORDER BY r.batch_id, r.id
""")
_AS_THE_OWNER = "as doceval_owner, in KnowledgeDocuments: UPDATE llm_responses SET "

LEASES_ARE_WHOLE = Invariant(
    name="leases-are-whole",
    statement="every lease belongs to a running row with a token and a delivery; finished rows have no lease",
    runs_in=(Database.KNOWLEDGE,),
    query=_TORN_LEASE,
    fix=f"{_AS_THE_OWNER}lease_expires_at = NULL for this row; if it is still P, another UPDATE to QUEUED",
)
DELIVERIES_END = Invariant(
    name="deliveries-end",
    statement="every row has at most five counted deliveries",
    runs_in=(Database.KNOWLEDGE,),
    query=_TOO_OFTEN,
    fix=f"{_AS_THE_OWNER}deliveries = uncounted + 5 for this row; members of doceval_worker cannot write it",
)
PLACES_ARE_IN_THE_QUEUE = Invariant(
    name="places-are-in-the-queue",
    statement="every waiting row has a queue position within the length of its batch",
    runs_in=(Database.KNOWLEDGE,),
    query=_BEYOND_THE_END,
    fix="run doceval pause {batch_id}, then doceval resume {batch_id}: its rows get new positions",
)
ENDED_ROWS_SAY_WHEN = Invariant(
    name="ended-rows-say-when",
    statement="every cancelled or given-up row has a completion time",
    runs_in=(Database.KNOWLEDGE,),
    query=_WITHOUT_TIME,
    fix="find the program that bypassed the guard; run doceval reprocess {batch_id} --failed to try again",
)
INVARIANTS = (LEASES_ARE_WHOLE, DELIVERIES_END, PLACES_ARE_IN_THE_QUEUE, ENDED_ROWS_SAY_WHEN)
