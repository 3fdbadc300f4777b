"""Numbers, written for people."""

from datetime import timedelta

import pytest

from doceval_pipeline.reports.numbers import amount, duration, elapsed, score_text, size_text


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0"),
        (82.0, "82"),
        (82.54, "82.5"),
        (100.0, "100"),
        (0.04, "0.04"),
        (99.96, "99.96"),
        (-3.0, "-3"),
    ],
)
def test_a_score_has_one_decimal_and_only_true_ends_are_0_and_100(score: float, text: str) -> None:
    assert score_text(score) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.84, "840 ms"),
        (0.9996, "1.0 s"),
        (12.44, "12.4 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3_599.6, "1 h 00 min"),
        (7_500, "2 h 05 min"),
    ],
)
def test_seconds_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_clocks_that_disagree_give_no_negative_time() -> None:
    assert elapsed(timedelta(seconds=-3)) == "0 ms"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1_023, "1023 B"), (20_890, "20.4 KiB"), (1_572_864, "1.5 MiB"), (2**40, "1024.0 GiB")],
)
def test_sizes_are_said_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text


def test_counts_have_thousands_separators() -> None:
    assert amount(1_234_567.0) == "1,234,567"
