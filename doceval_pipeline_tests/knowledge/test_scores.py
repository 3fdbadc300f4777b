"""The table of all current results of a batch: scores, and the state of evaluations without one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.domain.evaluations import WORDS, Outcome
from doceval_pipeline.domain.scores import ScoreState
from doceval_pipeline.knowledge.scores import read_scores
from doceval_pipeline_tests.conftest import Sample

STATES = dict.fromkeys(WORDS[Outcome.SUCCEEDED], ScoreState.SCORED)
STATES |= dict.fromkeys(WORDS[Outcome.FAILED], ScoreState.FAILED)
STATES |= dict.fromkeys(("QUEUED", "P", "PAUSED", "ODD"), ScoreState.OPEN)
PLANT = text("""
    INSERT INTO llm_responses (batch_id, document_id, connection_id, prompt_id, attempt, status,
                               connection_details, overall_score, task_id, superseded_at, withdrawn_at)
    VALUES (:batch_id, :document, :connection, :prompt, :attempt, :status, '{}', :score,
            CASE WHEN :simulated THEN 'simulated-1' END, CASE WHEN :superseded THEN now() END,
            CASE WHEN :withdrawn THEN now() END)
""")


@dataclass(frozen=True)
class Cell:
    document: int
    connection: int
    prompt: int
    status: str
    score: float | None
    attempts: int = 1
    simulated: bool = False
    withdrawn: bool = False

    @property
    def state(self) -> ScoreState:
        state = STATES[self.status]
        return ScoreState.WITHOUT_SCORE if state is ScoreState.SCORED and self.score is None else state


CELLS = st.lists(
    st.builds(
        Cell,
        st.integers(1, 5) | st.just(2**40),
        st.sampled_from([1, 2, 70_000]),
        st.integers(1, 2),
        st.sampled_from(["S", *STATES]),
        st.none() | st.sampled_from([0.0, 0.1, 100.0]) | st.floats(0, 100),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    ),
    unique_by=lambda cell: (cell.document, cell.connection, cell.prompt),
    max_size=20,
)


def plant(batch: Sample, cells: list[Cell], batch_id: int) -> None:
    """Insert rows past guards and triggers; earlier attempts scored 50."""
    with batch.databases.knowledge.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for cell in cells:
            for attempt in range(1, cell.attempts + 1):
                last = attempt == cell.attempts
                values: dict[str, Any] = {
                    "batch_id": batch_id,
                    "document": cell.document,
                    "connection": cell.connection,
                    "prompt": cell.prompt,
                    "attempt": attempt,
                    "status": cell.status if last else "S",
                    "score": cell.score if last else 50.0,
                    "simulated": cell.simulated,
                    "superseded": not last,
                    "withdrawn": cell.withdrawn,
                }
                connection.execute(PLANT, values)


@pytest.fixture
def batch(batch_of: Callable[..., Sample]) -> Sample:
    return batch_of(documents=1)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cells=CELLS)
def test_each_current_result_is_in_its_row_and_column(batch: Sample, cells: list[Cell]) -> None:
    batch.plant("DELETE FROM llm_responses")
    plant(batch, cells, batch.id)
    plant(batch, [Cell(1, 1, 1, "S", 99.0)], batch.id + 1)
    with batch.databases.knowledge.connect() as connection:
        found = read_scores(connection, batch.id)
    there = [cell for cell in cells if not cell.withdrawn]
    assert found.documents.tolist() == sorted({cell.document for cell in there})
    assert list(found.columns) == sorted({(cell.connection, cell.prompt) for cell in there})
    assert found.values.shape == found.states.shape == (found.documents.size, len(found.columns))
    assert (found.values.dtype, found.documents.dtype) == (np.float64, np.int64)
    by_key = {(cell.document, (cell.connection, cell.prompt)): cell for cell in there}
    for row, document in enumerate(found.documents.tolist()):
        for place, column in enumerate(found.columns):
            cell, value = by_key.get((document, column)), float(found.values[row, place])
            assert found.states[row, place] == (ScoreState.ABSENT if cell is None else cell.state)
            if cell is None or cell.state is not ScoreState.SCORED:
                assert math.isnan(value)
            else:
                assert value == cell.score
    assert found.simulated == tuple(
        sum(cell.simulated for cell in there if (cell.connection, cell.prompt) == column)
        for column in found.columns
    )
