"""Sums the current results of many batches by connection and prompt, real and simulated ones apart.

Changes nothing. The memory needed in Python depends on the number of rows, batches and related documents,
not on the number of results.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.leaderboard import LeaderboardRow, PairSums
from doceval_pipeline.domain.usage import TokenUsage
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql, valid_score_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

_SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
_FAILED = has_outcome_sql(Outcome.FAILED)
_COLUMN = "simulated, connection_id, prompt_id"
# The sizes of intermediate results are guesses to the planner. After a wrong guess it would compare all pairs
# of documents in a nested loop, or sort them for a merge; a hash join is fast for any size.
_PLAN = text("""
    SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true),
           set_config('work_mem', '64MB', true)
""")
# A reused result is the result of its origin and counts once for a connection and a prompt: as the origin if
# that is one of the results, otherwise as the first result reused from it. Row ids of another installation
# (`reused_batch_id` 0) name other rows here.
# Scores of one document, and of its versions and copies (a cluster), are not independent, so they are summed
# first; an interval follows from the distance of each sum s of n scores to what the mean m would give:
# Σ (s - m n)² = Σ s² - 2 m Σ s n + m² Σ n². Sums are numeric: they do not depend on the order of the rows,
# and nothing is lost in the subtraction. PostgreSQL writes to disk what does not fit into its memory.
_SPREAD = "round(sum(s * s) - 2 * (sum(s) / sum(n)) * sum(s * n) + (sum(s) / sum(n)) ^ 2 * sum(n * n), 12)"
_SUM = text(f"""
    WITH once AS MATERIALIZED (
        SELECT DISTINCT ON (connection_id, prompt_id, reused_from, reused_batch_id = 0)
               {SIMULATED_SQL} AS simulated, connection_id, prompt_id, r.id
        FROM current_llm_responses r
        WHERE r.batch_id = ANY(CAST(:batch_ids AS int[])) AND r.reused_from IS NOT NULL
          AND (r.reused_batch_id = 0 OR NOT EXISTS (
              SELECT 1 FROM current_llm_responses origin
              WHERE origin.id = r.reused_from AND origin.batch_id = ANY(CAST(:batch_ids AS int[]))
                AND origin.connection_id = r.connection_id AND origin.prompt_id = r.prompt_id))
        ORDER BY connection_id, prompt_id, reused_from, reused_batch_id = 0, r.id),
    repeated AS MATERIALIZED (
        SELECT {_COLUMN}, sum(cells)::bigint AS repeated
        FROM (SELECT {SIMULATED_SQL} AS simulated, connection_id, prompt_id, count(*) AS cells
              FROM current_llm_responses
              WHERE batch_id = ANY(CAST(:batch_ids AS int[])) AND reused_from IS NOT NULL GROUP BY 1, 2, 3
              UNION ALL
              SELECT {_COLUMN}, -count(*) FROM once GROUP BY 1, 2, 3) AS counted
        GROUP BY 1, 2, 3),
    results AS MATERIALIZED (
        SELECT {SIMULATED_SQL} AS simulated, r.connection_id, r.prompt_id, batch_id, document_id,
               {_SUCCEEDED} AS succeeded, {_FAILED} AS failed, reused_from IS NOT NULL AS reused,
               {valid_score_sql()} AS score, input_tokens, output_tokens, {SECONDS_SQL} AS seconds
        FROM current_llm_responses r LEFT JOIN once ON once.id = r.id
        WHERE batch_id = ANY(CAST(:batch_ids AS int[])) AND (reused_from IS NULL OR once.id IS NOT NULL)),
    by_document AS MATERIALIZED (
        SELECT {_COLUMN}, document_id, count(*) AS cells,
               count(*) FILTER (WHERE succeeded) AS succeeded, count(*) FILTER (WHERE failed) AS failed,
               count(score) AS n, sum(score::numeric) AS s
        FROM results GROUP BY 1, 2, 3, 4),
    related AS MATERIALIZED (
        SELECT document_id, cluster
        FROM unnest(CAST(:documents AS bigint[]), CAST(:clusters AS bigint[])) AS c(document_id, cluster)),
    counted AS (
        SELECT {_COLUMN}, count(*) AS documents, sum(cells)::bigint AS cells,
               sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
               count(*) FILTER (WHERE failed > 0) AS failed_documents,
               sum(n)::bigint AS scored, count(*) FILTER (WHERE n > 0) AS scored_documents
        FROM by_document GROUP BY 1, 2, 3),
    means AS MATERIALIZED (
        SELECT {_COLUMN}, count(*) AS scored_clusters, sum(s) / sum(n) AS mean, {_SPREAD} AS spread
        FROM (SELECT {_COLUMN}, n, s FROM by_document d
              WHERE n > 0 AND NOT EXISTS (SELECT 1 FROM related WHERE related.document_id = d.document_id)
              UNION ALL
              SELECT {_COLUMN}, sum(n), sum(s) FROM by_document JOIN related USING (document_id)
              WHERE n > 0 GROUP BY {_COLUMN}, cluster) AS clusters
        GROUP BY 1, 2, 3),
    leaders AS MATERIALIZED (
        SELECT DISTINCT ON (simulated, prompt_id) simulated, prompt_id, connection_id
        FROM means ORDER BY simulated, prompt_id, mean DESC, connection_id),
    ahead AS MATERIALIZED (
        SELECT simulated, prompt_id, document_id, s / n AS mean
        FROM by_document JOIN leaders USING (simulated, prompt_id, connection_id) WHERE n > 0),
    shared AS MATERIALIZED (
        SELECT d.simulated, d.connection_id, d.prompt_id, d.document_id, 1 AS n,
               round(d.s / d.n - ahead.mean, 9) AS s
        FROM by_document d JOIN ahead USING (simulated, prompt_id, document_id)
        LEFT JOIN leaders USING (simulated, prompt_id, connection_id)
        WHERE d.n > 0 AND leaders.connection_id IS NULL),
    pairs AS (
        SELECT {_COLUMN}, sum(n)::bigint AS shared, count(*) AS shared_clusters,
               sum(s) / sum(n) AS shared_mean, {_SPREAD} AS shared_spread
        FROM (SELECT {_COLUMN}, n, s FROM shared
              WHERE NOT EXISTS (SELECT 1 FROM related WHERE related.document_id = shared.document_id)
              UNION ALL
              SELECT {_COLUMN}, sum(n), sum(s) FROM shared JOIN related USING (document_id)
              GROUP BY {_COLUMN}, cluster) AS clusters
        GROUP BY 1, 2, 3),
    by_batch AS MATERIALIZED (
        SELECT {_COLUMN}, batch_id, input_tokens IS NOT NULL AS has_input,
               output_tokens IS NOT NULL AS has_output,
               sum(input_tokens)::bigint AS all_input, sum(output_tokens)::bigint AS all_output,
               count(*) FILTER (WHERE is_new) AS cells,
               coalesce(sum(input_tokens) FILTER (WHERE is_new), 0)::bigint AS input_tokens,
               coalesce(sum(output_tokens) FILTER (WHERE is_new), 0)::bigint AS output_tokens
        FROM results CROSS JOIN LATERAL (SELECT NOT reused AND (succeeded OR failed) AS is_new) AS kind
        GROUP BY 1, 2, 3, 4, 5, 6),
    used AS (
        SELECT {_COLUMN}, count(DISTINCT batch_id) AS batches, sum(all_input)::bigint AS input_tokens,
               sum(all_output)::bigint AS output_tokens,
               json_agg(json_build_array(batch_id, has_input, has_output, cells, input_tokens, output_tokens)
                        ORDER BY batch_id, has_input, has_output) FILTER (WHERE cells > 0) AS usage
        FROM by_batch GROUP BY 1, 2, 3),
    times AS (
        SELECT {_COLUMN}, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS median_seconds
        FROM results GROUP BY 1, 2, 3)
    SELECT {_COLUMN}, batches, documents, cells, succeeded, failed, failed_documents,
           scored, scored_documents, coalesce(scored_clusters, 0) AS scored_clusters, mean::float8,
           spread::float8, leaders.connection_id IS NOT NULL AS is_leader, shared, shared_clusters,
           shared_mean::float8, shared_spread::float8, input_tokens, output_tokens, usage, median_seconds,
           coalesce(repeated, 0) AS repeated
    FROM counted JOIN used USING ({_COLUMN}) JOIN times USING ({_COLUMN})
    LEFT JOIN means USING ({_COLUMN}) LEFT JOIN leaders USING ({_COLUMN})
    LEFT JOIN pairs USING ({_COLUMN}) LEFT JOIN repeated USING ({_COLUMN})
    ORDER BY simulated, prompt_id, connection_id
""")


def sum_columns(
    connection: Connection, batch_ids: Sequence[int], clusters: Mapping[int, int]
) -> list[LeaderboardRow]:
    """Sum the results of the given batches: a row per kind, connection and prompt, without their names.

    Parameters
    ----------
    clusters
        The cluster of each document that is a version or a copy of another one, by document id.
    """
    connection.execute(_PLAN)
    parameters = {
        "batch_ids": arrays.of_numbers(batch_ids),
        "documents": arrays.of_numbers(clusters.keys()),
        "clusters": arrays.of_numbers(clusters.values()),
    }
    return [_row_of(row) for row in connection.execute(_SUM, parameters)]


def _row_of(row: Row[Any]) -> LeaderboardRow:
    values = dict(row._mapping)
    pairs = [values.pop(name) for name in ("shared", "shared_clusters", "shared_mean", "shared_spread")]
    values["is_simulated"] = values.pop("simulated")
    values["pairs"] = None if row.shared is None else PairSums(*pairs)
    values["usage"] = tuple(
        (batch_id, TokenUsage(row.connection_id, row.prompt_id, *own)) for batch_id, *own in row.usage or ()
    )
    return LeaderboardRow(**values)
