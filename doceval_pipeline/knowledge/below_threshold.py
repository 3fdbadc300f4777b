"""Counts documents with a score below the threshold of a prompt. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, valid_score_sql

# Aggregated by document and by connection apart, so that PostgreSQL sorts nothing.
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
    found: dict[int, list[LowScores]] = {batch_id: [] for batch_id in batch_ids}
    if not batch_ids or not thresholds:
        return dict.fromkeys(batch_ids, ())
    parameters = {
        "batch_ids": arrays.of_numbers(batch_ids),
        "prompt_ids": arrays.of_numbers(thresholds),
        "thresholds": arrays.of_texts(map(repr, thresholds.values())),
    }
    by_connection: list[tuple[int, int]] = []
    for row in reversed(connection.execute(_BELOW, parameters).all()):
        # Reversed, so that the connections of a prompt come before its documents.
        if row.connection_id is not None:
            by_connection.append((row.connection_id, row.below))
            continue
        found[row.batch_id].append(
            LowScores(
                row.prompt_id,
                thresholds[row.prompt_id],
                row.below,
                row.scored,
                row.simulated,
                tuple(reversed(by_connection)),
            )
        )
        by_connection = []
    return {batch_id: tuple(reversed(counts)) for batch_id, counts in found.items()}
