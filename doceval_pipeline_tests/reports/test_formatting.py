"""Numbers, written for people."""

from datetime import timedelta

import pytest

from doceval_pipeline.reports.formatting import (
    amount,
    duration,
    elapsed,
    money,
    percent,
    score_text,
    signed,
    size_text,
)


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


@pytest.mark.parametrize(
    ("value", "said"), [(3.24, "+3.2"), (-0.5, "−0.5"), (0.0, "0"), (-0.0, "0"), (0.001, "+0.001")]
)
def test_a_difference_has_a_sign(value: float, said: str) -> None:
    assert signed(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0.00"), (1234.5, "1,234.50"), (0.00123, "0.0012"), (4.44e-7, "0.00000044")]
)
def test_a_small_amount_of_money_is_not_nothing(value: float, said: str) -> None:
    assert money(value) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 9, "0 %"), (1, 1_000, "under 1 %"), (999, 1_000, "over 99 %"), (9, 9, "100 %"), (1, 3, "33 %")],
)
def test_a_share_is_all_or_nothing_only_if_it_is(part: int, whole: int, said: str) -> None:
    assert percent(part, whole) == said
