"""Sums the current results of many batches by connection and prompt. Changes nothing."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.leaderboard import LeaderboardRow
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

_SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
_FAILED = has_outcome_sql(Outcome.FAILED)
# Scores of the same document are not independent, so they are summed by document first; the interval follows
# from the distance of each sum to what the mean would give. Sums are numeric, so that they do not depend on
# the order of the rows. PostgreSQL writes to disk what does not fit into its memory.
_COLUMN = "connection_id, prompt_id"
# A reused result is the result of its origin and counts once for a connection and a prompt: as the origin if
# that is one of the results, otherwise as the first result reused from it. Row ids of another installation
# (`reused_batch_id` 0) name other rows here.
_SUM = text(f"""
    WITH once AS MATERIALIZED (
        SELECT DISTINCT ON ({_COLUMN}, reused_from, reused_batch_id = 0) {_COLUMN}, r.id
        FROM current_llm_responses r
        WHERE r.batch_id = ANY(:batch_ids) AND r.reused_from IS NOT NULL
          AND (r.reused_batch_id = 0 OR NOT EXISTS (
              SELECT 1 FROM current_llm_responses origin
              WHERE origin.id = r.reused_from AND origin.batch_id = ANY(:batch_ids)
                AND origin.connection_id = r.connection_id AND origin.prompt_id = r.prompt_id))
        ORDER BY {_COLUMN}, reused_from, reused_batch_id = 0, r.id),
    repeated AS MATERIALIZED (
        SELECT {_COLUMN}, sum(cells)::bigint AS repeated
        FROM (SELECT {_COLUMN}, count(*) AS cells FROM current_llm_responses
              WHERE batch_id = ANY(:batch_ids) AND reused_from IS NOT NULL GROUP BY 1, 2
              UNION ALL
              SELECT {_COLUMN}, -count(*) FROM once GROUP BY 1, 2) AS counted
        GROUP BY 1, 2),
    results AS NOT MATERIALIZED (
        SELECT r.connection_id, r.prompt_id, batch_id, document_id, {_SUCCEEDED} AS succeeded,
               {_FAILED} AS failed, {SIMULATED_SQL} AS simulated,
               CASE WHEN {_SUCCEEDED} THEN overall_score END AS score, input_tokens, output_tokens,
               {SECONDS_SQL} AS seconds
        FROM current_llm_responses r LEFT JOIN once ON once.id = r.id
        WHERE batch_id = ANY(:batch_ids) AND (reused_from IS NULL OR once.id IS NOT NULL)),
    by_document AS MATERIALIZED (
        SELECT connection_id, prompt_id, document_id, count(*) AS cells,
               count(*) FILTER (WHERE succeeded) AS succeeded, count(*) FILTER (WHERE failed) AS failed,
               count(*) FILTER (WHERE simulated) AS simulated,
               count(score) AS scored, sum(score::numeric) AS scores,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
        FROM results GROUP BY 1, 2, 3),
    by_column AS (
        SELECT connection_id, prompt_id, count(*) AS documents, sum(cells) AS cells,
               sum(succeeded) AS succeeded, sum(failed) AS failed, sum(simulated) AS simulated,
               sum(scored) AS scored, sum(scores) / nullif(sum(scored), 0) AS mean,
               count(*) FILTER (WHERE scored > 0) AS scored_documents,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
        FROM by_document GROUP BY 1, 2),
    spreads AS (
        SELECT connection_id, prompt_id, sum(distance * distance) AS spread
        FROM by_document d JOIN by_column c USING (connection_id, prompt_id)
        CROSS JOIN LATERAL round(d.scores - c.mean * d.scored, 9) AS distance
        GROUP BY 1, 2),
    times AS (
        SELECT connection_id, prompt_id, count(DISTINCT batch_id) AS batches,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median_seconds
        FROM results GROUP BY 1, 2)
    SELECT connection_id, prompt_id, batches, documents, cells::bigint, succeeded::bigint, failed::bigint,
           simulated::bigint, scored::bigint, scored_documents, mean::float8, spread::float8,
           input_tokens::bigint, output_tokens::bigint, median_seconds, coalesce(repeated, 0) AS repeated
    FROM by_column JOIN times USING (connection_id, prompt_id)
    LEFT JOIN repeated USING (connection_id, prompt_id)
    LEFT JOIN spreads USING (connection_id, prompt_id)
    ORDER BY connection_id, prompt_id
""")


def sum_columns(connection: Connection, batch_ids: Sequence[int]) -> list[LeaderboardRow]:
    """Sum the results of the given batches: one row per connection and prompt, without their names."""
    rows = connection.execute(_SUM, {"batch_ids": list(batch_ids)})
    return [LeaderboardRow(**row._mapping) for row in rows]
