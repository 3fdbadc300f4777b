"""The simulated processor inside the demo: rows of its batch only, and no longer than the demo."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from doceval_pipeline.cli.processor import Behaviour, Simulation
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
STATES = "SELECT status, count(*) FROM llm_responses WHERE batch_id = :id GROUP BY 1 ORDER BY 1"


def test_it_answers_the_rows_of_its_batch_and_of_no_other(batch_of: BatchOf) -> None:
    own, real = batch_of(name="own", documents=2), batch_of(name="real", documents=2)
    real.stage()
    own.stage()
    before = real.knowledge(STATES)
    behaviour = Behaviour(failure_rate=0.3, latency=0.0, batch=own.id)
    with Simulation(own.databases.settings, behaviour, workers=3) as simulation:
        until(lambda: {word for word, _ in own.knowledge(STATES)} <= {"S", "F"}, 20)
        rows = own.knowledge("SELECT count(*) FROM llm_responses WHERE batch_id = :id")[0][0]
        until(lambda: simulation.answered == rows, 5)
        simulation.check()
    assert real.knowledge(STATES) == before
    texts = own.knowledge(
        "SELECT coalesce(response_text, error_message) FROM llm_responses WHERE batch_id = :id"
    )
    assert all(text.startswith("SIMULATED by doceval") for (text,) in texts)


def test_it_ends_with_what_it_has_begun_and_begins_nothing_more(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    # Far longer than this test may take: it is cut short.
    behaviour = Behaviour(failure_rate=0.0, latency=3600.0, batch=batch.id)
    with Simulation(batch.databases.settings, behaviour, workers=2):
        until(lambda: ("P", 2) in [tuple(row) for row in batch.knowledge(STATES)], 10)
    assert [tuple(row) for row in batch.knowledge(STATES)] == [("QUEUED", 6), ("S", 2)]


def test_a_database_that_refuses_is_told_in_one_line(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    settings = replace(
        batch.databases.settings, knowledge_documents_url="postgresql+psycopg2://nobody@127.0.0.1:1/none"
    )
    with Simulation(settings, Behaviour(0.0, 0.0, batch=batch.id), workers=1) as simulation:
        with pytest.raises(DatabaseError) as refused:
            simulation.wait()
        assert "\n" not in str(refused.value)
