"""Counts defects of results by connection and prompt: empty responses, invalid JSON, impossible scores."""

from sqlalchemy import Connection, text

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.quality import ColumnQuality
from doceval_pipeline.knowledge.outcomes import has_outcome_sql

# A few documents may get the same short answer; if this many do, the processor is stuck.
STUCK_FROM = 10

_SUCCEEDED = has_outcome_sql(Outcome.SUCCEEDED)
_BLANK = r"coalesce({column}, '') !~ '\S'"
_TEXT_IS_BLANK = _BLANK.format(column="response_text")
_JSON_IS_BLANK = _BLANK.format(column="response_json")
# Texts are compared by their smallest and largest hash, so that the database need not keep them.
_QUALITY = text(f"""
    SELECT connection_id, prompt_id, count(*) FILTER (WHERE {_SUCCEEDED}) AS succeeded,
           count(*) FILTER (WHERE {_SUCCEEDED} AND {_TEXT_IS_BLANK} AND {_JSON_IS_BLANK}) AS empty,
           count(*) FILTER (WHERE {_SUCCEEDED} AND NOT {_JSON_IS_BLANK} AND NOT is_json(response_json))
               AS not_json,
           count(*) FILTER (WHERE {_SUCCEEDED} AND overall_score IS NULL) AS without_score,
           count(*) FILTER (WHERE {_SUCCEEDED} AND overall_score NOT BETWEEN 0 AND 100) AS out_of_range,
           coalesce(sum(cardinality(impossible_numbers)), 0) AS impossible_numbers,
           count(*) FILTER (WHERE {_SUCCEEDED}) >= {STUCK_FROM}
           AND count(*) FILTER (WHERE {_SUCCEEDED} AND {_TEXT_IS_BLANK}) = 0
           AND min(hashtextextended(response_text, 0)) FILTER (WHERE {_SUCCEEDED})
               = max(hashtextextended(response_text, 0)) FILTER (WHERE {_SUCCEEDED}) AS stuck
    FROM current_llm_responses
    WHERE batch_id = :batch_id AND ({_SUCCEEDED} OR {has_outcome_sql(Outcome.FAILED)})
    GROUP BY 1, 2 ORDER BY 1, 2
""")


def read_quality(connection: Connection, batch_id: int) -> list[ColumnQuality]:
    """The defects of a batch's current results, by column; failed evaluations are not defects."""
    return [ColumnQuality(**row._mapping) for row in connection.execute(_QUALITY, {"batch_id": batch_id})]
