"""Reads how the scores of prompts are judged: threshold and weight. Reads only."""

from collections.abc import Iterable

from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.criteria import Criterion

# The constraints of the table are repeated, because other programs may have removed them.
_CRITERIA = text("""
    SELECT id, CASE WHEN threshold >= 0 AND threshold <= 100 THEN threshold END AS threshold,
           CASE WHEN weight > 0 AND weight <= 1000000 THEN weight END AS weight
    FROM prompts WHERE id = ANY(CAST(:ids AS int[]))
""")
_SELECTED = text("""
    SELECT DISTINCT prompt_id FROM batch_prompts WHERE batch_id = ANY(CAST(:batch_ids AS int[])) ORDER BY 1
""")


def selected_prompts(connection: Connection, batch_ids: Iterable[int]) -> list[int]:
    """The prompts that the given batches select, each once."""
    return list(connection.scalars(_SELECTED, {"batch_ids": arrays.of_numbers(batch_ids)}))


def read_criteria(connection: Connection, prompt_ids: Iterable[int]) -> dict[int, Criterion]:
    """The present criterion of each given prompt; an empty one for a prompt that no longer exists.

    An impossible value, such as a threshold of NaN, counts as None.
    """
    criteria = {number: Criterion() for number in prompt_ids}
    for row in connection.execute(_CRITERIA, {"ids": arrays.of_numbers(criteria)}):
        criteria[row.id] = Criterion(row.threshold, row.weight)
    return criteria


def read_thresholds(connection: Connection, prompt_ids: Iterable[int]) -> dict[int, float]:
    """The present thresholds of those of the given prompts that have one, by prompt."""
    criteria = read_criteria(connection, prompt_ids)
    return {number: one.threshold for number, one in criteria.items() if one.threshold is not None}
