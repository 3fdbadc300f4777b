"""Marks of charts are placed at their values, inside the chart."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.insights import Distribution
from doceval_pipeline.domain.throughput import Throughput
from doceval_pipeline.reports.svg import (
    SCORES,
    WIDTH,
    Axis,
    difference_axis,
    distribution,
    interval,
    score_axis,
    throughput,
)
from doceval_pipeline_tests.reports.sample_reports import STARTED

score = st.floats(0, 100)


@given(values=st.lists(score, min_size=1))
def test_the_axis_of_a_leaderboard_contains_every_mean(values: list[float]) -> None:
    axis = score_axis(Estimate(1, value, None, None) for value in values)
    assert 0 <= axis.low <= min(values) <= max(values) <= axis.high <= 100
    assert axis.low < axis.high
    assert axis.low % 10 == axis.high % 10 == 0


@given(values=st.lists(st.floats(-100, 100)))
def test_the_axis_of_changes_is_centred_on_0_and_contains_every_change(values: list[float]) -> None:
    axis = difference_axis(Difference(1, value, None, None, None, None) for value in values)
    assert axis.ticks[1] == 0
    assert all(axis.low <= value <= axis.high for value in values)


def test_axes_without_values_are_valid() -> None:
    assert score_axis([]) == SCORES
    assert difference_axis([]) == Axis(-1, 1)


@pytest.mark.parametrize(("value", "place"), [(0, 0), (25, 50), (100, WIDTH), (-5, 0), (120, WIDTH)])
def test_a_value_is_placed_inside_the_axis(value: float, place: float) -> None:
    assert SCORES.place(value) == place


def test_an_interval_is_drawn_from_its_low_to_its_high_end() -> None:
    drawn = interval(Estimate(9, 50.0, 40.0, 60.0), SCORES, 80.0)
    assert 'd="M80 9H120"' in drawn
    assert 'cx="100"' in drawn
    assert 'class="leader" d="M160 0V18"' in drawn


def test_a_mean_without_an_interval_is_a_point() -> None:
    assert "whisker" not in interval(Estimate(1, 50.0, None, None), SCORES, None)


def test_a_bin_with_a_single_score_is_visible() -> None:
    bins = (1_000_000, 1, *[0] * 18)
    drawn = distribution(Distribution((1, 1), 1_000_001, 0.0, 1.0, 2.0, 3.0, 9.0, bins))
    assert re.findall(r'f-succeeded"[^>]*height="([\d.]+)"', drawn) == ["20", "1"]


def test_evaluations_that_finished_in_the_same_moment_are_drawn() -> None:
    drawn = throughput(Throughput(STARTED, 0.0, (8,), (), 0))
    assert 'width="860.0" height="58"' in drawn
