"""Counts documents with a score below the threshold of a prompt. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, valid_score_sql

# Aggregated by document and by connection apart, so that PostgreSQL sorts nothing. Of each prompt, the row of
# all connections together comes first.
_BELOW = text(f"""
    WITH scored AS MATERIALIZED (
        SELECT batch_id, prompt_id, connection_id, document_id, score < threshold AS is_below, simulated
        FROM (SELECT r.batch_id, r.prompt_id, r.connection_id, r.document_id, threshold,
                     {valid_score_sql("r.")} AS score, {SIMULATED_SQL} AS simulated
              FROM current_llm_responses AS r
              JOIN unnest(CAST(:prompt_ids AS int[]), CAST(:thresholds AS float8[]))
                  AS criteria(prompt_id, threshold) USING (prompt_id)
              WHERE r.batch_id = ANY(CAST(:batch_ids AS int[]))) AS results
        WHERE score IS NOT NULL),
    documents AS (
        SELECT batch_id, prompt_id, bool_or(is_below) AS is_below, bool_or(simulated) AS simulated
        FROM scored GROUP BY batch_id, prompt_id, document_id)
    SELECT batch_id, prompt_id, NULL AS connection_id, count(*) FILTER (WHERE is_below) AS below,
           count(*) AS scored, count(*) FILTER (WHERE simulated) AS simulated
    FROM documents GROUP BY 1, 2
    UNION ALL
    SELECT batch_id, prompt_id, connection_id, count(*) FILTER (WHERE is_below), count(*),
           count(*) FILTER (WHERE simulated)
    FROM scored GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3 NULLS FIRST
""")


@dataclass(frozen=True, slots=True)
class LowScores:
    """How many documents of a batch score below the threshold of a prompt."""

    prompt_id: int
    threshold: float
    documents: int
    """Documents that at least one connection scores below the threshold."""
    scored: int
    """Documents with at least one score."""
    simulated: int
    """Documents with at least one simulated score."""
    by_connection: tuple[tuple[int, int], ...]
    """Connection, and how many documents it scores below the threshold."""


def count_below(
    connection: Connection, batch_ids: Sequence[int], thresholds: Mapping[int, float]
) -> dict[int, tuple[LowScores, ...]]:
    """The counts of each given batch and each prompt with a threshold and a score, in one statement.

    Parameters
    ----------
    thresholds
        By prompt, from 0 to 100.
    """
    found: dict[int, tuple[LowScores, ...]] = dict.fromkeys(batch_ids, ())
    if not batch_ids or not thresholds:
        return found
    parameters = {
        "batch_ids": arrays.of_numbers(batch_ids),
        "prompt_ids": arrays.of_numbers(thresholds),
        "thresholds": arrays.of_numbers(thresholds.values()),
    }
    rows = connection.execute(_BELOW, parameters)
    for (batch_id, prompt_id), own in groupby(rows, key=lambda row: (row.batch_id, row.prompt_id)):
        total, *columns = own
        counts = LowScores(
            prompt_id,
            thresholds[prompt_id],
            total.below,
            total.scored,
            total.simulated,
            tuple((row.connection_id, row.below) for row in columns),
        )
        found[batch_id] = (*found[batch_id], counts)
    return found
