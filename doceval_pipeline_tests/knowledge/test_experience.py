"""Sums over finished attempts match ones checked by hand, and leave out impossible values."""

from collections.abc import Callable

import pytest

from doceval_pipeline.domain.usage import Measure
from doceval_pipeline.knowledge.usage import read_experience
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]


def test_all_finished_attempts_count_with_what_they_report(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2, connections=1, prompts=2)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', started_processing_at = now(), "
        "completed_processing_at = now() + interval '4 s' WHERE id = (SELECT min(id) FROM llm_responses)"
    )
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', input_tokens = 100, response_time_ms = 1500 "
        "WHERE status = 'QUEUED'"
    )
    ((connection,),) = batch.knowledge("SELECT DISTINCT connection_id FROM llm_responses")
    with batch.databases.knowledge.connect() as knowledge:
        found = read_experience(knowledge, batch.id)
    assert set(found) == {(connection, Measure.INPUT_TOKENS), (connection, Measure.SECONDS)}
    tokens, seconds = found[connection, Measure.INPUT_TOKENS], found[connection, Measure.SECONDS]
    assert (tokens.cells, tokens.sum_y, tokens.sum_yy) == (3, 300, 30_000)
    assert (seconds.cells, seconds.sum_y, seconds.max_y) == (4, 8.5, 4)
    ((size,),) = batch.knowledge("SELECT sum(file_size * 2) FROM docs")
    assert seconds.sum_x == size


@pytest.mark.parametrize("nonsense", ["NaN", "Infinity", "-Infinity", "-1", "1e300", "1e-300"])
def test_impossible_measurements_are_left_out(batch_of: BatchOf, nonsense: str) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', time_taken_seconds = :n", n=nonsense)
    with batch.databases.knowledge.connect() as knowledge:
        assert read_experience(knowledge, batch.id) == {}
