"""Rates and the time left, from samples that a person can check by hand."""

from dataclasses import replace

import pytest

from doceval_pipeline.batches.monitoring.throughput import BatchThroughput, measure_throughput
from doceval_pipeline.doc_eval.progress import ProgressSample
from doceval_pipeline.domain.evaluations import CellCounts


def sample(minutes_ago: float, done: int, running: int = 2, paused: int = 0) -> ProgressSample:
    cells = CellCounts(waiting=100 - done, running=running, paused=paused, succeeded=done)
    return ProgressSample(minutes_ago * 60, cells)


def throughput(*samples: ProgressSample, expected: int = 102) -> BatchThroughput:
    found = measure_throughput(samples, expected)
    assert found is not None
    return found


def test_a_steady_batch_is_done_in_the_time_that_its_rate_says() -> None:
    found = throughput(*(sample(20 - n, n * 3) for n in range(21)), expected=120)
    assert found.recent_rate == pytest.approx(180)
    assert found.seconds_left is not None
    assert found.seconds_left.expected == pytest.approx(20 * 60)
    assert 10 * 60 < found.seconds_left.low < 20 * 60 < found.seconds_left.high < 45 * 60


def test_the_time_that_rows_waited_for_a_processor_does_not_count() -> None:
    found = throughput(sample(600, 0, running=0), sample(10, 0), sample(5, 10), sample(0, 20))
    assert found.recent_rate == pytest.approx(120)


def test_what_was_done_before_a_pause_or_a_new_attempt_does_not_count() -> None:
    resumed = throughput(
        sample(90, 0), sample(60, 50), sample(50, 50, paused=5), sample(10, 50), sample(0, 60)
    )
    assert resumed.rate_since_start == pytest.approx(60)
    again = throughput(sample(90, 0), sample(60, 100), sample(10, 90), sample(0, 100), expected=110)
    assert again.rate_since_start == pytest.approx(60)


def test_reused_results_are_no_work_and_nothing_that_is_left() -> None:
    before, after = sample(10, 0), sample(0, 60)
    found = throughput(before, replace(after, cells=replace(after.cells, reused=50)), expected=120)
    assert found.recent_rate == pytest.approx(60)
    assert found.seconds_left is not None
    assert found.seconds_left.expected == pytest.approx(60 * 60)


def test_the_recent_rate_forgets_what_was_long_ago() -> None:
    found = throughput(sample(120, 0), sample(30, 90), sample(15, 95), sample(0, 100), expected=200)
    assert found.rate_since_start == pytest.approx(50)
    assert found.recent_rate == pytest.approx(20)


def test_bursts_widen_the_interval() -> None:
    steady = throughput(*(sample(10 - n, n * 4) for n in range(11)))
    bursts = throughput(*(sample(10 - n, n // 5 * 20) for n in range(11)))
    assert steady.seconds_left is not None
    assert bursts.seconds_left is not None
    assert bursts.seconds_left.high - bursts.seconds_left.low > 2 * (
        steady.seconds_left.high - steady.seconds_left.low
    )


def test_nothing_is_promised_for_what_is_held_done_or_not_begun() -> None:
    assert throughput(sample(10, 0), sample(0, 10, paused=5)).seconds_left is None
    assert throughput(sample(10, 0), sample(0, 102)).seconds_left is None
    assert throughput(sample(10, 0, running=0)).seconds_left is None
    assert measure_throughput([], 10) is None


def test_rows_that_a_cancel_closed_say_nothing_of_a_rate() -> None:
    found = measure_throughput([sample(20, 0), sample(10, 30), sample(1, 98)], 102, cancelled=True)
    assert found == BatchThroughput(None, None, None, seconds_unchanged=60)


def test_a_standstill_lowers_the_rate_and_is_reported() -> None:
    found = throughput(sample(20, 0), sample(10, 30))
    assert found.seconds_unchanged == 600
    assert found.recent_rate == pytest.approx(90)
    assert found.as_json()["seconds_unchanged"] == 600
    assert found.as_metadata()["cells_per_hour"] == 90


@pytest.mark.parametrize("days", [1, 3, 30, 300, 3_000, 300_000])
def test_the_time_left_is_unknown_once_nothing_has_happened_for_long(days: int) -> None:
    """The interval would grow with each call, up to millions of days."""
    work = [sample(days * 1_440 + n, 100 - 5 * n) for n in reversed(range(20))]
    idle = throughput(*work, sample(0, 100))
    assert idle.seconds_left is None
    assert idle.as_json()["seconds_left"] is None


def test_a_time_left_of_more_than_a_year_is_unknown() -> None:
    work = [sample(20 - n, n * 3) for n in range(21)]
    assert throughput(*work, expected=1_000_000).seconds_left is not None
    assert throughput(*work, expected=1_000_000_000).seconds_left is None
