"""Figures of batches for monitoring. Reads only."""

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.domain.metrics import BatchFigures

_BATCHES = text("""
    SELECT status, count(*) FILTER (WHERE archived_at IS NULL) AS batches,
           extract(epoch FROM max(completed_at))::float8 AS completed_at
    FROM batches GROUP BY status
""")


def batch_figures(connection: Connection) -> BatchFigures:
    """The numbers of batches by status, and the time of the last completion."""
    rows = connection.execute(_BATCHES).all()
    completed = [row.completed_at for row in rows if row.completed_at is not None]
    return BatchFigures(
        dict.fromkeys(map(str, Status), 0) | {row.status: row.batches for row in rows},
        max(completed, default=None),
    )
