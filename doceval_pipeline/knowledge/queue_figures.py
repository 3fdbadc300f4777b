"""Figures of the queue for monitoring. Reads only."""

from collections import Counter

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.metrics import OpenFigures, QueueFigures
from doceval_pipeline.knowledge.outcomes import has_outcome_sql, outcome_sql

_TOTALS = ", ".join(f"sum({outcome}) AS {outcome}" for outcome in Outcome)
# The counts that triggers keep, by batch; one row per batch instead of one per evaluation.
_BY_BATCH = f"""
    SELECT batch_id, {_TOTALS}
    FROM (SELECT batch_id, {", ".join(Outcome)} FROM response_counts
          UNION ALL SELECT batch_id, {", ".join(Outcome)} FROM response_deltas) AS counted
    GROUP BY batch_id
"""
_EVALUATIONS = text(f"SELECT {_TOTALS} FROM ({_BY_BATCH}) AS batches")
# One look into the index of waiting rows per batch: rows of a batch are queued in the order of their ids.
_OLDEST_WAITING = text(f"""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(oldest.created_at)), 0)::float8
    FROM ({_BY_BATCH}) AS batches
    CROSS JOIN LATERAL (
        SELECT r.created_at FROM llm_responses r
        WHERE r.batch_id = batches.batch_id AND {has_outcome_sql(Outcome.WAITING, status="r.status")}
        ORDER BY r.id LIMIT 1) AS oldest
    WHERE batches.waiting > 0
""")
_LEASES = text("""
    SELECT count(*) FILTER (WHERE lease_expires_at > statement_timestamp()) AS active, count(*) AS leases
    FROM llm_responses WHERE lease_expires_at IS NOT NULL
""")
# A processor may write any time of completion. The names are those of the newest row of each connection.
_OPEN = text(f"""
    WITH cells AS (
        SELECT connection_id, {outcome_sql()} AS outcome, count(*) AS evaluations, max(id) AS newest,
               max(completed_processing_at) FILTER (WHERE completed_processing_at <= now()) AS last_result
        FROM llm_responses
        WHERE withdrawn_at IS NULL AND superseded_at IS NULL AND batch_id = ANY (ARRAY(
            SELECT batch_id FROM ({_BY_BATCH}) AS batches WHERE waiting + running + paused + unknown > 0))
        GROUP BY 1, 2)
    SELECT c.outcome, c.evaluations, r.connection_details ->> 'name' AS connection,
           extract(epoch FROM CASE WHEN isfinite(c.last_result) THEN c.last_result END)::float8 AS last_result
    FROM (SELECT *, max(newest) OVER (PARTITION BY connection_id) AS named_by FROM cells) AS c
    JOIN llm_responses r ON r.id = c.named_by
""")


def queue_figures(connection: Connection) -> QueueFigures:
    """The figures that need no scan of the evaluations."""
    evaluations = connection.execute(_EVALUATIONS).one()._mapping
    leases = connection.execute(_LEASES).one()
    return QueueFigures(
        evaluations={str(outcome): int(evaluations[outcome] or 0) for outcome in Outcome},
        oldest_waiting_seconds=max(0.0, connection.execute(_OLDEST_WAITING).scalar_one()),
        active_leases=leases.active,
        expired_leases=leases.leases - leases.active,
    )


def open_figures(connection: Connection) -> OpenFigures:
    """The figures of batches with unfinished evaluations; reads all rows of these batches."""
    rows = connection.execute(_OPEN).all()
    evaluations: Counter[tuple[str, str]] = Counter()
    for row in rows:
        evaluations[row.outcome, row.connection or ""] += row.evaluations
    results = [row.last_result for row in rows if row.last_result is not None]
    return OpenFigures(evaluations, max(results, default=None))
