"""Invariants of the life of a batch: what doc_eval says of it is what its rows say.

Rows that a processor has changed since the last look of the pipeline offend against nothing: the next
look acts on them.
"""

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.invariant import (
    HAS_CELLS,
    IS_DONE,
    WAS_LOOKED_AT,
    Invariant,
    Scope,
    Side,
    states_in_sql,
)
from doceval_pipeline.batches.locks import IS_ABANDONED
from doceval_pipeline.batches.results.report_files import report_path
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN
from doceval_pipeline.doc_eval.runs.requests import MISSING_REPORTS, MISSING_STAGINGS
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.knowledge.digests import RESULT_DIGEST
from doceval_pipeline.knowledge.outcomes import words_in_sql

_ABANDONED = text(f"""
    SELECT b.id AS batch_id, 'status STAGING' AS thing, 'no process works on it' AS wrong
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
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('its status is %s', left(r.status, 40)) AS wrong
    FROM unnest(CAST(:batch_id AS int[])) AS h(batch_id)
    JOIN current_llm_responses r ON r.batch_id = h.batch_id
    WHERE NOT {IS_DONE} AND {WAS_LOOKED_AT}
    ORDER BY r.batch_id, r.id
""")
_OTHER_VERDICT = text(f"""
    SELECT r.batch_id, 'status ' || h.status AS thing,
           format('%s of its %s cells succeeded%s', r.succeeded, r.cells,
                  CASE WHEN h.cancelled THEN ', and it was cancelled' END) AS wrong
    FROM unnest(CAST(:batch_id AS int[]), CAST(:status AS text[]), CAST(:cancelled AS boolean[]))
        AS h(batch_id, status, cancelled)
    JOIN (SELECT r.batch_id, count(*) AS cells, bool_and({IS_DONE}) AS done,
                 count(*) FILTER (WHERE response_outcome(r.status) = 'succeeded') AS succeeded
          FROM current_llm_responses r GROUP BY r.batch_id) AS r ON r.batch_id = h.batch_id
    WHERE r.done AND {WAS_LOOKED_AT}
      AND h.status <> CASE WHEN r.succeeded = 0 OR h.cancelled THEN 'FAILED' ELSE 'COMPLETED' END
    ORDER BY r.batch_id
""")
_STILL_OPEN = text(f"""
    SELECT r.batch_id, 'status ' || h.status AS thing,
           format('all of its %s cells are done', r.cells) AS wrong
    FROM unnest(CAST(:batch_id AS int[]), CAST(:status AS text[]), CAST(:expected_cells AS bigint[]))
        AS h(batch_id, status, expected_cells)
    JOIN (SELECT r.batch_id, count(*) AS cells FROM current_llm_responses r
          GROUP BY r.batch_id HAVING bool_and({IS_DONE})) AS r ON r.batch_id = h.batch_id
    WHERE r.cells >= h.expected_cells AND {WAS_LOOKED_AT}
    ORDER BY r.batch_id
""")
_OTHER_RESULTS = text(f"""
    SELECT r.batch_id, 'result_digest' AS thing,
           format('it is %s, and that of the rows %s', coalesce(h.result_digest, 'none'), r.digest) AS wrong
    FROM unnest(CAST(:batch_id AS int[]), CAST(:result_digest AS text[])) AS h(batch_id, result_digest)
    JOIN (SELECT r.batch_id, {RESULT_DIGEST} AS digest, bool_and({IS_DONE}) AS done
          FROM current_llm_responses r GROUP BY r.batch_id) AS r ON r.batch_id = h.batch_id
    WHERE r.done AND r.digest IS DISTINCT FROM h.result_digest AND {WAS_LOOKED_AT}
    ORDER BY r.batch_id
""")
_NOT_HELD = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing, 'it waits to be taken' AS wrong
    FROM unnest(CAST(:batch_id AS int[])) AS h(batch_id)
    JOIN current_llm_responses r ON r.batch_id = h.batch_id
    WHERE r.status IN ({words_in_sql(Outcome.WAITING)})
    UNION ALL
    SELECT c.batch_id, 'batch_configs.requeue_as', format('it is %s', c.requeue_as)
    FROM unnest(CAST(:batch_id AS int[])) AS h(batch_id)
    JOIN batch_configs c ON c.batch_id = h.batch_id
    WHERE c.requeue_as NOT IN ('PAUSED', 'F')
    ORDER BY 1, 2
""")
_REPORTED = text(f"""
    SELECT b.id AS batch_id, 'reported_digest ' || b.reported_digest AS thing, NULL AS wrong,
           b.report_file
    FROM batches b WHERE {HAS_CELLS} AND b.report_file IS NOT NULL ORDER BY b.id
""")
_UNREPORTED = text(f"""
    SELECT m.batch_id, 'result_digest ' || m.result_digest AS thing,
           format('it has no report: attempt %s%s', m.attempt,
                  ', the last run ended as ' || m.last_end) AS wrong
    FROM ({MISSING_REPORTS}) AS m WHERE m.is_late ORDER BY m.batch_id
""")
_UNSTAGED = text(f"""
    SELECT m.batch_id, 'status ' || m.status AS thing,
           format('its staging is requested: attempt %s%s', m.attempt,
                  ', the last run ended as ' || m.last_end) AS wrong
    FROM ({MISSING_STAGINGS}) AS m WHERE m.is_late ORDER BY m.batch_id
""")
_LOST = text("""
    SELECT l.batch_id, format('run %s of %s', left(l.run_id, 8), l.job) AS thing,
           format('it ended as FAILURE before it began%s',
                  ', and was to create batch ' || quote_literal(l.batch_name)) AS wrong
    FROM lost_runs l ORDER BY l.ended_at, l.run_id
""")


def _report_missing(databases: Databases, row: Mapping[str, Any], _: Scope) -> str | None:
    path = report_path(databases, row["report_file"])
    # A folder that may not be entered holds nothing that one could show, and is no reason to stop.
    return None if os.path.isfile(path) else f"there is no {path.name} in the folder of reports"


STAGING_GOES_ON = Invariant(
    name="staging-goes-on",
    must_hold="a batch in STAGING is being staged",
    runs_in=(Side.DOC_EVAL,),
    query=_ABANDONED,
    mend="doceval stage {batch_id}",
)
CLOSED_IS_DONE = Invariant(
    name="closed-is-done",
    must_hold="a completed batch has no open cell",
    runs_in=(Side.KNOWLEDGE,),
    handed=_CLOSED,
    query=_UNDONE,
    mend="SELECT recount_responses({batch_id}) in KnowledgeDocuments; the next tick of doceval up opens the "
    "batch again",
)
VERDICT_IS_TRUE = Invariant(
    name="verdict-is-true",
    must_hold="a closed batch is COMPLETED if a cell succeeded and nobody cancelled it, and FAILED otherwise",
    runs_in=(Side.KNOWLEDGE,),
    handed=_CLOSED,
    query=_OTHER_VERDICT,
    mend="SELECT recount_responses({batch_id}) in KnowledgeDocuments; the next tick of doceval up completes "
    "the batch again",
)
DONE_IS_CLOSED = Invariant(
    name="done-is-closed",
    must_hold="a batch whose cells are all done is closed",
    runs_in=(Side.KNOWLEDGE,),
    handed=_OPEN,
    query=_STILL_OPEN,
    mend="run doceval up: the sensor response_status completes it within seconds",
)
RESULTS_ARE_AS_COMPLETED = Invariant(
    name="results-are-as-completed",
    must_hold="a completed batch was completed with the results it has",
    runs_in=(Side.KNOWLEDGE,),
    handed=_CLOSED,
    query=_OTHER_RESULTS,
    mend="SELECT recount_responses({batch_id}) in KnowledgeDocuments; the next tick of doceval up completes "
    "the batch again, with a new report",
)
PAUSED_IS_HELD = Invariant(
    name="paused-is-held",
    must_hold="a paused batch holds what waits and what goes back",
    runs_in=(Side.KNOWLEDGE,),
    handed=_PAUSED,
    query=_NOT_HELD,
    mend="doceval pause {batch_id} again, or doceval resume {batch_id}",
)
REPORT_IS_THERE = Invariant(
    name="report-is-there",
    must_hold="the newest report of a batch is in the folder of reports",
    runs_in=(Side.DOC_EVAL,),
    query=_REPORTED,
    judge=_report_missing,
    mend="doceval report {batch_id}",
)
CLOSED_IS_REPORTED = Invariant(
    name="closed-is-reported",
    must_hold="a completed batch has the report of its newest result",
    runs_in=(Side.DOC_EVAL,),
    query=_UNREPORTED,
    mend="doceval report {batch_id}",
)
REQUESTED_IS_STAGED = Invariant(
    name="requested-is-staged",
    must_hold="a batch whose staging is requested is staged",
    runs_in=(Side.DOC_EVAL,),
    query=_UNSTAGED,
    mend="doceval stage {batch_id}",
)
RUNS_BEGIN = Invariant(
    name="runs-begin",
    must_hold="a run that was launched has begun",
    runs_in=(Side.DOC_EVAL,),
    query=_LOST,
    mend="re-execute the run in Dagster's UI, or delete it there",
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
