"""Adds up what the finished attempts of batches took, for each connection. Changes nothing."""

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.knowledge.outcomes import words_in_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL
from doceval_pipeline.statistics.estimation import Experience, Measure

# A processor may leave any of these unset, or write what nothing ever took; squares of numbers beyond
# these bounds would be errors.
_FINISHED_CELLS = text(f"""
    SELECT r.connection_id, m.measure, count(*), sum(d.file_size::float8), sum(d.file_size::float8 ^ 2),
           sum(m.y), sum(m.y ^ 2), sum(d.file_size * m.y), max(m.y)
    FROM llm_responses r
    JOIN docs d ON d.id = r.document_id
    CROSS JOIN LATERAL (VALUES
        ('{Measure.INPUT_TOKENS}', r.input_tokens::float8),
        ('{Measure.OUTPUT_TOKENS}', r.output_tokens::float8),
        ('{Measure.SECONDS}', coalesce(
            {SECONDS_SQL},
            CASE WHEN isfinite(r.completed_processing_at) AND isfinite(r.started_processing_at)
                 THEN extract(epoch FROM r.completed_processing_at - r.started_processing_at) END))
        ) AS m(measure, y)
    WHERE r.batch_id = :batch_id AND r.reused_from IS NULL
      AND r.status IN ({words_in_sql(Outcome.SUCCEEDED)}, {words_in_sql(Outcome.FAILED)})
      AND (m.y BETWEEN 1e-9 AND 1e10 OR m.y = 0)
    GROUP BY 1, 2
""")


def experience_of(connection: Connection, batch_id: int) -> dict[tuple[int, Measure], Experience]:
    """What all finished attempts of a batch took, by connection and measure; reused results took nothing."""
    rows = connection.execute(_FINISHED_CELLS, {"batch_id": batch_id})
    return {(row[0], Measure(row[1])): Experience(row[2], *map(float, row[3:])) for row in rows}
