"""Reads all current results of a batch once: as a table of documents and columns, and as sums.

A million results arrive as a few long arrays that numpy reads directly: no row becomes an object.
"""

from collections.abc import Sequence
from operator import attrgetter

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.current_results import CurrentResults, ResultPart, score_table
from doceval_pipeline.domain.scores import Scores
from doceval_pipeline.knowledge.binary_copy import Fields, array, copy_rows, number, word
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, outcome_sql, valid_score_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

# A row id of another installation belongs to a different row here: negative, it matches none.
_ORIGIN = "CASE WHEN reused_batch_id = 0 THEN -reused_from ELSE coalesce(reused_from, id) END"
# A pass over a million rows takes 0.7 s of the server. Sums of scores and seconds in SQL, as numeric so that
# they do not depend on the order, and their percentiles took 2.7 s in passes of their own.
_PARTS = f"""
    COPY (
        SELECT connection_id, prompt_id, {outcome_sql()} AS outcome, reused_from IS NOT NULL AS reused,
               input_tokens IS NOT NULL AS has_input, output_tokens IS NOT NULL AS has_output,
               count(*) FILTER (WHERE {SIMULATED_SQL}), count(*) FILTER (WHERE attempt > 1),
               sum(input_tokens), sum(output_tokens),
               array_agg(document_id), array_agg(coalesce(overall_score, 'NaN')), array_agg({_ORIGIN}),
               array_agg(coalesce({SECONDS_SQL}, 'NaN'))
        FROM current_llm_responses WHERE batch_id = %s GROUP BY 1, 2, 3, 4, 5, 6
    ) TO STDOUT (FORMAT binary)
"""
_ATTEMPTS = text(f"""
    SELECT r.document_id, r.connection_id, r.prompt_id, {valid_score_sql("r.")} AS score
    FROM llm_responses r
    JOIN unnest(CAST(:documents AS bigint[]), CAST(:connections AS int[]), CAST(:prompts AS int[]))
        AS e(document_id, connection_id, prompt_id) USING (document_id, connection_id, prompt_id)
    WHERE r.batch_id = :batch_id AND r.reused_from IS NULL AND {valid_score_sql("r.")} IS NOT NULL
    ORDER BY 1, 2, 3, r.attempt
""")


def read_current_results(connection: Connection, batch_id: int) -> CurrentResults:
    """The current results of a batch and their sums, read in one statement."""
    return CurrentResults.of(_read_parts(connection, batch_id))


def read_scores(connection: Connection, batch_id: int) -> Scores:
    """The table of the current results of a batch, read in one statement."""
    return score_table(_read_parts(connection, batch_id))


def read_attempt_scores(
    connection: Connection, batch_id: int, evaluations: Sequence[tuple[int, int, int]]
) -> dict[tuple[int, int, int], list[float]]:
    """The scores of all successful attempts of evaluations, by document, connection and prompt.

    Earlier attempts count too; all of them asked the same question, which is sealed.
    """
    documents, connections, prompts = zip(*evaluations, strict=True) if evaluations else ((), (), ())
    parameters = {
        "batch_id": batch_id,
        "documents": arrays.of_numbers(documents),
        "connections": arrays.of_numbers(connections),
        "prompts": arrays.of_numbers(prompts),
    }
    scores: dict[tuple[int, int, int], list[float]] = {}
    for row in connection.execute(_ATTEMPTS, parameters):
        key = row.document_id, row.connection_id, row.prompt_id
        scores.setdefault(key, []).append(row.score)
    return scores


def _read_parts(connection: Connection, batch_id: int) -> list[ResultPart]:
    # PostgreSQL would sort the arrays on disk.
    return sorted(copy_rows(connection, _PARTS, (batch_id,), _part), key=attrgetter("column"))


def _part(fields: Fields) -> ResultPart:
    connection_id, prompt_id, outcome, *flags = fields[:6]
    is_reused, has_input, has_output = (number(flag) == 1 for flag in flags)
    simulated, reprocessed, input_tokens, output_tokens = map(number, fields[6:10])
    documents, scores, origins, seconds = fields[10:]
    return ResultPart(
        column=(number(connection_id), number(prompt_id)),
        outcome=word(outcome),
        is_reused=is_reused,
        has_input=has_input,
        has_output=has_output,
        simulated=simulated,
        reprocessed=reprocessed,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        documents=array(documents, "i8"),
        scores=array(scores, "f8"),
        origins=array(origins, "i8"),
        seconds=array(seconds, "f8"),
    )
