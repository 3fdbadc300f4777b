"""When results came: spans, and stalls, which are long for the batch and had work waiting."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from doceval_pipeline.knowledge.usage import Pace, read_pace
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


def measure_throughput(batch: Sample, *seconds: float, queued: float = 0) -> Pace | None:
    """Of cells that were finished so many seconds after they, or the last of them, were queued."""
    finished = [f"{float(second)}" for second in seconds]
    batch.plant(
        f"UPDATE llm_responses SET status = 'S', created_at = '{BEGAN}', completed_processing_at = "
        f"CAST('{BEGAN}' AS timestamptz) + make_interval(secs => (ARRAY[{', '.join(finished)}])"
        "[(SELECT count(*) FROM llm_responses o WHERE o.id <= llm_responses.id)])"
    )
    if queued:
        batch.plant(
            f"UPDATE llm_responses SET created_at = created_at + interval '{queued} seconds' "
            f"WHERE completed_processing_at > CAST('{BEGAN}' AS timestamptz) + interval '{queued} seconds'"
        )
    with batch.databases.knowledge.connect() as connection:
        return read_pace(connection, batch.id)


@pytest.fixture
def twelve(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=12, connections=1, prompts=1)
    batch.stage()
    return batch


def test_an_hour_without_a_result_is_a_stall(twelve: Sample) -> None:
    pace = measure_throughput(twelve, *range(11), 3_610)
    assert pace is not None
    assert pace.stalls == ((BEGAN + timedelta(seconds=10), 3_600.0),)
    assert (pace.all_stalls, pace.without_time) == (1, 0)
    assert pace.start == BEGAN
    assert (len(pace.spans), pace.spans[0], pace.spans[-1], sum(pace.spans)) == (60, 11, 1, 12)
    assert pace.span_seconds == pytest.approx(3_611 / 60)


def test_what_was_queued_later_could_not_be_finished_before(twelve: Sample) -> None:
    pace = measure_throughput(twelve, *range(11), 3_610, queued=3_000)
    assert pace is not None
    assert pace.stalls == ((BEGAN + timedelta(seconds=3_000), 610.0),)
    pace = measure_throughput(twelve, *range(11), 3_610, queued=3_600)
    assert pace is not None
    assert pace.stalls == ()


def test_a_batch_that_is_slow_all_along_does_not_stall(twelve: Sample) -> None:
    pace = measure_throughput(twelve, *range(0, 12 * 600, 600))
    assert pace is not None
    assert pace.stalls == ()


def test_a_time_that_cannot_be_is_none(twelve: Sample) -> None:
    pace = measure_throughput(twelve, -100_000, *range(10), 1e12)
    assert pace is not None
    assert (pace.without_time, sum(pace.spans)) == (2, 10)
    assert pace.span_seconds == 1
    twelve.plant("UPDATE llm_responses SET completed_processing_at = 'infinity'")
    with twelve.databases.knowledge.connect() as connection:
        assert read_pace(connection, twelve.id) is None
