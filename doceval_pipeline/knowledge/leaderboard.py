"""Adds up the current results of many batches, by connection and prompt. Changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, words_in_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

_SUCCEEDED = f"status IN ({words_in_sql(Outcome.SUCCEEDED)})"
_FAILED = f"status IN ({words_in_sql(Outcome.FAILED)})"
# Scores of the same document are not independent, so that each document's are added up first; how far its
# sum is from what the mean would give is what the interval is made of. Added up as numeric, whose sum does
# not depend on the order of the rows. PostgreSQL keeps what is too much for its memory on the disk.
_COLUMN = "connection_id, prompt_id"
# A reused result is the result of its origin, and counts once for a connection and a prompt: as the origin,
# where that is one of the results, and else as the first that was reused from it. The numbers of another
# installation's rows name other rows here.
_ADD_UP = text(f"""
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
    of_documents AS MATERIALIZED (
        SELECT connection_id, prompt_id, document_id, count(*) AS cells,
               count(*) FILTER (WHERE succeeded) AS succeeded, count(*) FILTER (WHERE failed) AS failed,
               count(*) FILTER (WHERE simulated) AS simulated,
               count(score) AS scored, sum(score::numeric) AS scores,
               count(input_tokens) AS input_cells, sum(input_tokens) AS input_tokens,
               count(output_tokens) AS output_cells, sum(output_tokens) AS output_tokens
        FROM results GROUP BY 1, 2, 3),
    of_columns AS (
        SELECT connection_id, prompt_id, count(*) AS documents, sum(cells) AS cells,
               sum(succeeded) AS succeeded, sum(failed) AS failed, sum(simulated) AS simulated,
               sum(scored) AS scored, sum(scores) / nullif(sum(scored), 0) AS mean,
               count(*) FILTER (WHERE scored > 0) AS scored_documents,
               sum(input_cells) AS input_cells, sum(input_tokens) AS input_tokens,
               sum(output_cells) AS output_cells, sum(output_tokens) AS output_tokens
        FROM of_documents GROUP BY 1, 2),
    spreads AS (
        SELECT connection_id, prompt_id, sum(distance * distance) AS spread
        FROM of_documents d JOIN of_columns c USING (connection_id, prompt_id)
        CROSS JOIN LATERAL round(d.scores - c.mean * d.scored, 9) AS distance
        GROUP BY 1, 2),
    paces AS (
        SELECT connection_id, prompt_id, count(DISTINCT batch_id) AS batches, count(seconds) AS timed,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds
        FROM results GROUP BY 1, 2)
    SELECT connection_id, prompt_id, batches, documents, cells::bigint, succeeded::bigint, failed::bigint,
           simulated::bigint, scored::bigint, scored_documents, mean::float8, spread::float8,
           input_cells::bigint, input_tokens::bigint, output_cells::bigint, output_tokens::bigint,
           timed, seconds, coalesce(repeated, 0)
    FROM of_columns JOIN paces USING (connection_id, prompt_id)
    LEFT JOIN repeated USING (connection_id, prompt_id)
    LEFT JOIN spreads USING (connection_id, prompt_id)
    ORDER BY connection_id, prompt_id
""")


@dataclass(frozen=True, slots=True)
class ColumnResults:
    """What the current results of a connection and a prompt add up to, over all batches that were asked for.

    Scores, from 0 to 100, are those of succeeded cells, of `scored_documents`. `spread` is what
    `statistics.estimate_of_sums` makes an interval of. Tokens stand after the number of cells that report
    them; seconds are the processor's, over `timed` cells. `repeated` more cells are reused results that count
    once, elsewhere; `batches` are those whose results count.
    """

    connection_id: int
    prompt_id: int
    batches: int
    documents: int
    cells: int
    succeeded: int
    failed: int
    simulated: int
    scored: int
    scored_documents: int
    mean: float | None
    spread: float | None
    input_cells: int
    input_tokens: int | None
    output_cells: int
    output_tokens: int | None
    timed: int
    median_seconds: float | None
    repeated: int


def add_up_columns(connection: Connection, batch_ids: Sequence[int]) -> list[ColumnResults]:
    """Add up the results of some batches, each connection and prompt in a row."""
    return [ColumnResults(*row) for row in connection.execute(_ADD_UP, {"batch_ids": list(batch_ids)})]
