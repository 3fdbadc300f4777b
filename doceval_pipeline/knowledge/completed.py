"""What the results of completed batches add up to, each batch in a row: for those who are told of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.knowledge.counts import RESULT_DIGEST
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, Outcome, words_in_sql

_SUCCEEDED = f"status IN ({words_in_sql(Outcome.SUCCEEDED)})"
# One statement, so that the numbers are those of exactly the rows that the digest is of.
_ADD_UP = text(f"""
    SELECT batch_id, {RESULT_DIGEST}, count(*) FILTER (WHERE {_SUCCEEDED}),
           count(*) FILTER (WHERE status IN ({words_in_sql(Outcome.FAILED)})),
           count(*) FILTER (WHERE {SIMULATED_SQL}), count(reused_from),
           count(overall_score) FILTER (WHERE {_SUCCEEDED}),
           (avg(overall_score::numeric) FILTER (WHERE {_SUCCEEDED}))::float8
    FROM current_llm_responses WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id
""")


@dataclass(frozen=True, slots=True)
class CompletedResults:
    """The current results of a batch: their digest, cells by outcome, and the mean of the scored ones.

    `reused` results come from other batches, and are counted in their outcome too.
    """

    batch_id: int
    digest: str
    succeeded: int
    failed: int
    simulated: int
    reused: int
    scored: int
    mean_score: float | None


def add_up_completed(connection: Connection, batch_ids: Sequence[int]) -> list[CompletedResults]:
    """Add up the current results of some batches; those that have none are left out."""
    rows = connection.execute(_ADD_UP, {"batch_ids": list(batch_ids)})
    return [CompletedResults(*row) for row in rows]
