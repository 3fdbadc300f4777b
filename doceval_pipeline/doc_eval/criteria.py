"""Placeholder."""

from collections.abc import Sequence

from sqlalchemy import Connection

from doceval_pipeline.domain.criteria import Criterion


def read_criteria(connection: Connection, prompt_ids: Sequence[int]) -> dict[int, Criterion]:
    """Criteria of prompts."""
    return {}
