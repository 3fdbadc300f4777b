"""Invariants of the life of a batch: its state in doc_eval agrees with its queue rows.

Rows that a processor changed since the last poll violate nothing: the next poll handles them.
"""

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.invariant import (
    HAS_CELLS,
    IS_DONE,
    IS_POLLED,
    Database,
    Invariant,
    Scope,
    states_in_sql,
)
from doceval_pipeline.batches.locks import IS_ABANDONED
from doceval_pipeline.batches.results.report_files import report_path
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN
from doceval_pipeline.doc_eval.runs.requests import MISSING_REPORTS, MISSING_STAGINGS
from doceval_pipeline.domain.evaluations import WRITTEN_WORD, Outcome
from doceval_pipeline.knowledge.digests import RESULT_DIGEST
from doceval_pipeline.knowledge.outcomes import has_outcome_sql

_ABANDONED = text(f"""
    SELECT b.id AS batch_id, 'status STAGING' AS subject, 'no process is staging it' AS problem
    FROM batches b WHERE {IS_ABANDONED} ORDER BY b.id
""")
_CLOSED = text(f"""
    SELECT b.id AS batch_id, b.status, b.cancelled_at IS NOT NULL AS cancelled, b.result_digest
    FROM batches b WHERE b.archived_at IS NULL AND b.status IN ({states_in_sql(CLOSED)}) ORDER BY b.id
""")
_OPEN = text(f"""
    SELECT b.id AS batch_id, b.status, b.expected_cells
    FROM batches b WHERE b.archived_at IS NULL AND b.status IN ({states_in_sql(OPEN)}) ORDER BY b.id
""")
_PAUSED = text("""
    SELECT b.id AS batch_id FROM batches b WHERE b.archived_at IS NULL AND b.status = 'PAUSED' ORDER BY b.id
""")
_UNDONE = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('its status is %s', left(r.status, 40)) AS problem
    FROM unnest(CAST(:batch_id AS int[])) AS h(batch_id)
    JOIN current_llm_responses r ON r.batch_id = h.batch_id
    WHERE NOT {IS_DONE} AND {IS_POLLED}
    ORDER BY r.batch_id, r.id
""")
_OTHER_VERDICT = text(f"""
    SELECT r.batch_id, 'status ' || h.status AS subject,
           format('%s of its %s evaluations succeeded%s', r.succeeded, r.cells,
                  CASE WHEN h.cancelled THEN ', and it was cancelled' END) AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:status AS text[]), CAST(:cancelled AS boolean[]))
        AS h(batch_id, status, cancelled)
    JOIN (SELECT r.batch_id, count(*) AS cells, bool_and({IS_DONE}) AS done,
                 count(*) FILTER (WHERE response_outcome(r.status) = 'succeeded') AS succeeded
          FROM current_llm_responses r GROUP BY r.batch_id) AS r ON r.batch_id = h.batch_id
    WHERE r.done AND {IS_POLLED}
      AND h.status <> CASE WHEN r.succeeded = 0 OR h.cancelled THEN 'FAILED' ELSE 'COMPLETED' END
    ORDER BY r.batch_id
""")
_STILL_OPEN = text(f"""
    SELECT r.batch_id, 'status ' || h.status AS subject,
           format('all of its %s evaluations are done', r.cells) AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:status AS text[]), CAST(:expected_cells AS bigint[]))
        AS h(batch_id, status, expected_cells)
    JOIN (SELECT r.batch_id, count(*) AS cells FROM current_llm_responses r
          GROUP BY r.batch_id HAVING bool_and({IS_DONE})) AS r ON r.batch_id = h.batch_id
    WHERE r.cells >= h.expected_cells AND {IS_POLLED}
    ORDER BY r.batch_id
""")
_OTHER_RESULTS = text(f"""
    SELECT r.batch_id, 'result_digest' AS subject,
           format('it is %s, and the digest of the rows is %s', coalesce(h.result_digest, 'none'),
                  r.digest) AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:result_digest AS text[])) AS h(batch_id, result_digest)
    JOIN (SELECT r.batch_id, {RESULT_DIGEST} AS digest, bool_and({IS_DONE}) AS done
          FROM current_llm_responses r GROUP BY r.batch_id) AS r ON r.batch_id = h.batch_id
    WHERE r.done AND r.digest IS DISTINCT FROM h.result_digest AND {IS_POLLED}
    ORDER BY r.batch_id
""")
_NOT_HELD = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject, 'processors can claim it' AS problem
    FROM unnest(CAST(:batch_id AS int[])) AS h(batch_id)
    JOIN current_llm_responses r ON r.batch_id = h.batch_id
    WHERE {has_outcome_sql(Outcome.WAITING, status="r.status")}
    UNION ALL
    SELECT c.batch_id, 'batch_configs.requeue_as', format('it is %s', c.requeue_as)
    FROM unnest(CAST(:batch_id AS int[])) AS h(batch_id)
    JOIN batch_configs c ON c.batch_id = h.batch_id
    WHERE c.requeue_as NOT IN ('{WRITTEN_WORD[Outcome.PAUSED]}', '{WRITTEN_WORD[Outcome.FAILED]}')
    ORDER BY 1, 2
""")
_REPORTED = text(f"""
    SELECT b.id AS batch_id, 'reported_digest ' || b.reported_digest AS subject, NULL AS problem,
           b.report_file
    FROM batches b WHERE {HAS_CELLS} AND b.report_file IS NOT NULL ORDER BY b.id
""")
_UNREPORTED = text(f"""
    SELECT m.batch_id, 'result_digest ' || m.result_digest AS subject,
           format('no report exists: attempt %s%s', m.attempt,
                  ', the last run ended as ' || m.last_end) AS problem
    FROM ({MISSING_REPORTS}) AS m WHERE m.is_late ORDER BY m.batch_id
""")
_UNSTAGED = text(f"""
    SELECT m.batch_id, 'status ' || m.status AS subject,
           format('its staging is requested: attempt %s%s', m.attempt,
                  ', the last run ended as ' || m.last_end) AS problem
    FROM ({MISSING_STAGINGS}) AS m WHERE m.is_late ORDER BY m.batch_id
""")
_LOST = text("""
    SELECT l.batch_id, format('run %s of %s', left(l.run_id, 8), l.job) AS subject,
           format('it ended as FAILURE before it started%s',
                  '; it would have created batch ' || quote_literal(l.batch_name)) AS problem
    FROM lost_runs l ORDER BY l.ended_at, l.run_id
""")


def _report_missing(databases: Databases, row: Mapping[str, Any], _: Scope) -> str | None:
    path = report_path(databases, row["report_file"])
    # An unreadable folder counts as a missing report instead of ending the audit.
    return None if os.path.isfile(path) else f"{path.name} is missing in the reports folder"


STAGING_GOES_ON = Invariant(
    name="staging-goes-on",
    statement="every batch in STAGING is being staged",
    runs_in=(Database.DOC_EVAL,),
    query=_ABANDONED,
    fix="run doceval stage {batch_id}",
)
CLOSED_IS_DONE = Invariant(
    name="closed-is-done",
    statement="every evaluation of a completed batch is done",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_CLOSED,
    query=_UNDONE,
    fix="SELECT recount_responses({batch_id}) in KnowledgeDocuments; the next tick of doceval up reopens "
    "the batch",
)
VERDICT_IS_TRUE = Invariant(
    name="verdict-is-true",
    statement="a closed batch is COMPLETED if it was not cancelled and an evaluation succeeded, else FAILED",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_CLOSED,
    query=_OTHER_VERDICT,
    fix="SELECT recount_responses({batch_id}) in KnowledgeDocuments; the next tick of doceval up completes "
    "the batch again",
)
DONE_IS_CLOSED = Invariant(
    name="done-is-closed",
    statement="every batch whose evaluations are all done is closed",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_OPEN,
    query=_STILL_OPEN,
    fix="run doceval up: the sensor response_status completes it within seconds",
)
RESULTS_ARE_AS_COMPLETED = Invariant(
    name="results-are-as-completed",
    statement="the recorded digest of every completed batch matches its results",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_CLOSED,
    query=_OTHER_RESULTS,
    fix="SELECT recount_responses({batch_id}) in KnowledgeDocuments; the next tick of doceval up completes "
    "the batch again, with a new report",
)
PAUSED_IS_HELD = Invariant(
    name="paused-is-held",
    statement="a paused batch holds its waiting rows and the rows that return to the queue",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_PAUSED,
    query=_NOT_HELD,
    fix="run doceval pause {batch_id} again, or doceval resume {batch_id}",
)
REPORT_IS_THERE = Invariant(
    name="report-is-there",
    statement="the newest report of every batch is in the reports folder",
    runs_in=(Database.DOC_EVAL,),
    query=_REPORTED,
    inspect=_report_missing,
    fix="run doceval report {batch_id}",
)
CLOSED_IS_REPORTED = Invariant(
    name="closed-is-reported",
    statement="every completed batch has a report of its newest results",
    runs_in=(Database.DOC_EVAL,),
    query=_UNREPORTED,
    fix="run doceval report {batch_id}",
)
REQUESTED_IS_STAGED = Invariant(
    name="requested-is-staged",
    statement="every requested staging is carried out",
    runs_in=(Database.DOC_EVAL,),
    query=_UNSTAGED,
    fix="run doceval stage {batch_id}",
)
RUNS_BEGIN = Invariant(
    name="runs-begin",
    statement="every launched run has started",
    runs_in=(Database.DOC_EVAL,),
    query=_LOST,
    fix="re-execute the run in Dagster's UI, or delete it there",
)
INVARIANTS = (
    STAGING_GOES_ON,
    REQUESTED_IS_STAGED,
    CLOSED_IS_DONE,
    VERDICT_IS_TRUE,
    DONE_IS_CLOSED,
    RESULTS_ARE_AS_COMPLETED,
    PAUSED_IS_HELD,
    CLOSED_IS_REPORTED,
    REPORT_IS_THERE,
    RUNS_BEGIN,
)
