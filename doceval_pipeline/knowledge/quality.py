"""Counts results that cannot be what they claim to be, by connection and prompt. Changes nothing."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.knowledge.outcomes import words_in_sql

# Of one document nobody can tell whether a processor is stuck; a few may well get the same short answer.
STUCK_FROM = 10

_SUCCEEDED = f"status IN ({words_in_sql(Outcome.SUCCEEDED)})"
_BLANK = r"coalesce({column}, '') !~ '\S'"
_TEXT_IS_BLANK = _BLANK.format(column="response_text")
_JSON_IS_BLANK = _BLANK.format(column="response_json")
# Whether all texts are the same is asked of their hashes, of which no two need to be kept.
_COUNT = text(f"""
    SELECT connection_id, prompt_id, count(*) FILTER (WHERE {_SUCCEEDED}),
           count(*) FILTER (WHERE {_SUCCEEDED} AND {_TEXT_IS_BLANK} AND {_JSON_IS_BLANK}),
           count(*) FILTER (WHERE {_SUCCEEDED} AND NOT {_JSON_IS_BLANK} AND NOT is_json(response_json)),
           count(*) FILTER (WHERE {_SUCCEEDED} AND overall_score IS NULL),
           count(*) FILTER (WHERE {_SUCCEEDED} AND overall_score NOT BETWEEN 0 AND 100),
           coalesce(sum(cardinality(impossible_numbers)), 0),
           count(*) FILTER (WHERE {_SUCCEEDED}) >= {STUCK_FROM}
           AND count(*) FILTER (WHERE {_SUCCEEDED} AND {_TEXT_IS_BLANK}) = 0
           AND min(hashtextextended(response_text, 0)) FILTER (WHERE {_SUCCEEDED})
               = max(hashtextextended(response_text, 0)) FILTER (WHERE {_SUCCEEDED})
    FROM current_llm_responses
    WHERE batch_id = :batch_id AND ({_SUCCEEDED} OR status IN ({words_in_sql(Outcome.FAILED)}))
    GROUP BY 1, 2 ORDER BY 1, 2
""")


@dataclass(frozen=True, slots=True)
class Soundness:
    """Succeeded cells of a column, and those of them that something is wrong with.

    `empty` say nothing, neither as text nor as JSON; `not_json` have a `response_json` that is not valid
    JSON; `out_of_range` scores are not from 0 to 100; `impossible_numbers` were dropped from results, failed
    ones included. `stuck`: `STUCK_FROM` or more documents, and each got the same text.
    """

    connection_id: int
    prompt_id: int
    succeeded: int
    empty: int
    not_json: int
    without_score: int
    out_of_range: int
    impossible_numbers: int
    stuck: bool

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        counts = (self.empty, self.not_json, self.without_score, self.out_of_range, self.impossible_numbers)
        return not (any(counts) or self.stuck)


def count_unsound(connection: Connection, batch_id: int) -> list[Soundness]:
    """What is wrong with the current results of a batch, by column; failed cells say so themselves."""
    return [Soundness(*row) for row in connection.execute(_COUNT, {"batch_id": batch_id})]
