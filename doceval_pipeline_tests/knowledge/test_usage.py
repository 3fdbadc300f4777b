"""Throughput: results in equal spans of time, and stalls, which are long for the batch while work waits."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from doceval_pipeline.domain.throughput import Stall, Throughput
from doceval_pipeline.knowledge.usage import read_throughput
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


def throughput_of(batch: Sample, *seconds: float, queued: float = 0) -> Throughput | None:
    """The throughput of results that finished so many seconds after they (or the last ones) were queued."""
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
        return read_throughput(connection, batch.id)


@pytest.fixture
def twelve(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=12, connections=1, prompts=1)
    batch.stage()
    return batch


def test_an_hour_without_a_result_is_a_stall(twelve: Sample) -> None:
    throughput = throughput_of(twelve, *range(11), 3_610)
    assert throughput is not None
    assert throughput.stalls == (Stall(BEGAN + timedelta(seconds=10), 3_600.0),)
    assert (throughput.all_stalls, throughput.without_time) == (1, 0)
    assert throughput.start == BEGAN
    assert (len(throughput.bins), throughput.bins[0], throughput.bins[-1], sum(throughput.bins)) == (
        60,
        11,
        1,
        12,
    )
    assert throughput.bin_seconds == pytest.approx(3_611 / 60)


def test_a_gap_before_the_next_row_was_queued_is_not_a_stall(twelve: Sample) -> None:
    throughput = throughput_of(twelve, *range(11), 3_610, queued=3_000)
    assert throughput is not None
    assert throughput.stalls == (Stall(BEGAN + timedelta(seconds=3_000), 610.0),)
    throughput = throughput_of(twelve, *range(11), 3_610, queued=3_600)
    assert throughput is not None
    assert throughput.stalls == ()


def test_a_batch_that_is_always_slow_does_not_stall(twelve: Sample) -> None:
    throughput = throughput_of(twelve, *range(0, 12 * 600, 600))
    assert throughput is not None
    assert throughput.stalls == ()


def test_an_impossible_time_counts_as_missing(twelve: Sample) -> None:
    throughput = throughput_of(twelve, -100_000, *range(10), 1e12)
    assert throughput is not None
    assert (throughput.without_time, sum(throughput.bins)) == (2, 10)
    assert throughput.bin_seconds == 1
    twelve.plant("UPDATE llm_responses SET completed_processing_at = 'infinity'")
    with twelve.databases.knowledge.connect() as connection:
        assert read_throughput(connection, twelve.id) is None
