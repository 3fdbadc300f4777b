"""Comparisons: a true verdict in one sentence, complete counts, and a page without scripts."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.reports.comparison import (
    AlignedColumn,
    ComparedSide,
    Comparison,
    compare_sides,
    named_documents,
    render_comparison,
)
from doceval_pipeline.reports.formatting import points_text, probability_text
from doceval_pipeline.reports.sanitize import visible_name
from doceval_pipeline.statistics import inference
from doceval_pipeline_tests.reports.sample_reports import HOSTILE
from doceval_pipeline_tests.reports.test_html import ATTRIBUTES, ELEMENTS, Page

A, B = (ComparedSide(name, f"batch-00000{n}", 0, (), 100, 0) for n, name in ((1, "a"), (2, "b")))


def aligned(
    first: Any, second: Any, connection: str | None = "gpt", prompt: str | None = "clarity"
) -> AlignedColumn:
    first, second = np.array(first, float), np.array(second, float)
    states = [
        ScoreStateCounts(int((~np.isnan(side)).sum()), 0, int(np.isnan(side).sum()), 0, 0)
        for side in (first, second)
    ]
    return AlignedColumn(connection, prompt, (), first, second, *states)


def compared(*columns: AlignedColumn, sides: tuple[ComparedSide, ComparedSide] = (A, B)) -> Comparison:
    documents = np.arange(columns[0].first.size)
    found = compare_sides(sides, documents, columns, lambda document: f"{document}.txt", 50.0)
    assert found is not None
    return found


def test_the_verdict_of_a_significant_difference_is_one_sentence() -> None:
    moves = np.resize([10, 5, 0, 5, -5], 60)
    assert compared(aligned(np.full(60, 40), 40 + moves)).verdict == (
        "b scores 3.0 points higher than a over 60 documents (95 % interval 1.7 to 4.3, p < 0.001); "
        "36 of them rose and 12 fell."
    )


def test_a_reused_result_on_both_sides_is_left_out_and_counted() -> None:
    column = aligned([40, 50, np.nan], [45, 55, np.nan])
    states = replace(column.first_cells, failed=0, same_results=1)
    found = compared(replace(column, first_cells=states, second_cells=states))
    assert (found.pairs, found.left_out, found.as_json()["same_results"]) == (2, 0, 1)
    assert found.verdict.endswith(" 1 pair shares one reused result and is not compared.")
    assert "1 pair shares one reused result and is not compared." in render_comparison(found)


def test_without_a_significant_difference_the_verdict_names_the_detectable_one() -> None:
    moves = np.resize([10, -10, 5, -5, 0, 1], 60)
    assert compared(aligned(np.full(60, 40), 40 + moves)).verdict == (
        "b and a do not differ significantly over 60 documents: b scores 0.2 points higher than a (95 % "
        "interval -1.5 to 1.9, p = 0.56); 30 of them rose and 20 fell. A true difference of 2.4 points would "
        "show in 4 of 5 such comparisons."
    )


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([0, 50, 100], [0, 50, 100], "b and a score the same over 3 documents, without exception."),
        (
            [40],
            [42],
            "b scores 2.0 points higher than a over 1 document, too few to tell whether they differ.",
        ),
        (
            [40, 50],
            [39, 49],
            "b and a do not differ significantly over 2 documents: b scores 1.0 points lower than a (all by "
            "the same amount, p = 0.5); 0 of them rose and 2 fell. There are too few to show a difference.",
        ),
        (
            [40, 50, 60],
            [50, 40, 60],
            "b and a do not differ significantly over 3 documents: b scores on average as much as a (95 % "
            "interval -24.8 to 24.8, p = 1); 1 of them rose and 1 fell. A true difference of 32.6 points "
            "would show in 4 of 5 such comparisons.",
        ),
        (
            [40, math.nan, 60, 70],
            [40, 50, math.nan, 70],
            "b and a score the same over 2 documents, without exception. 2 of 4 pairs of results are left "
            "out, because one side has no score.",
        ),
    ],
    ids=["the same", "one document", "same amount", "up as much as down", "left out"],
)
def test_the_verdict_is_honest_about_few_documents(
    first: list[float], second: list[float], verdict: str
) -> None:
    assert compared(aligned(first, second)).verdict == verdict


def test_without_a_pair_of_scores_there_is_no_comparison() -> None:
    column = aligned([40, math.nan], [math.nan, 50])
    assert compare_sides((A, B), np.arange(2), [column], str, 50.0) is None


def test_a_document_counts_once_with_its_mean_over_the_columns_that_both_scored() -> None:
    one = aligned([40, 40, math.nan], [50, math.nan, 10])
    two = aligned([40, 60, math.nan], [70, 60, 20], prompt="tone")
    found = compared(one, two)
    assert (found.overall.difference.n, found.overall.net) == (2, 10.0)
    assert [(flip.document, flip.before, flip.after) for flip in found.overall.flips] == [("0.txt", 40, 60)]
    assert (found.pairs, found.left_out) == (3, 3)
    assert [(column.first_mean, column.second_mean) for column in found.columns] == [(40, 50), (50, 65)]
    assert "over 2 documents, each with its mean of up to 2 columns" in found.verdict


def test_p_of_columns_is_corrected_and_that_of_the_verdict_is_not() -> None:
    rises = aligned([40] * 8, [50] * 8)
    same = aligned([40] * 8, [40] * 8, prompt="tone")
    nothing = aligned([math.nan] * 8, [40] * 8, prompt="length")
    found = compared(rises, same, nothing)
    assert [column.score_changes and column.score_changes.difference.p for column in found.columns] == [
        4 / 2**8,
        1,
        None,
    ]
    assert found.overall.difference.p == 2 / 2**8


def test_the_verdict_marks_simulated_results() -> None:
    column = aligned([40] * 8, [50] * 8)
    some = compared(column, sides=(replace(A, simulated=30), B))
    assert some.verdict.endswith(" [SIMULATED in 30 of 200 evaluations]")
    assert "no LLM was called" in render_comparison(some)
    both = compared(column, sides=(replace(A, simulated=100), replace(B, simulated=100)))
    assert both.verdict.endswith(" [SIMULATED]")
    assert "SIMULATED" not in render_comparison(compared(column))


def test_named_documents_are_exactly_those_shown() -> None:
    random = np.random.default_rng(1)
    columns = [aligned(random.random(300) * 100, random.random(300) * 100, prompt=str(n)) for n in range(3)]
    named: set[int] = set()

    def name_of(document: int) -> str:
        named.add(document)
        return str(document)

    compare_sides((A, B), np.arange(300), columns, name_of, 50.0)
    assert named == named_documents(np.arange(300), columns)


def test_the_page_shows_the_comparison() -> None:
    column = replace(aligned([40, math.nan, 60], [50, 50, 40]), changed=("prompt text",))
    sides = (replace(A, documents=4, columns=(("old", "tone"),)), B)
    page = Page(render_comparison(compared(column, sides=sides)))
    for said in (
        "b against a",
        "prompt text changed",
        "0.txt",
        "60 → 40",
        "Only in a",
        "4 more only in the first",
    ):
        assert said in " ".join(page.text.split())
    assert "of 3 that both have" in page.text


def test_hostile_names_are_shown_inertly() -> None:
    columns = [aligned([10, 90], [20, 30], text, text) for text in HOSTILE]
    sides = (ComparedSide(" ".join(HOSTILE), "batch-000001", 0, ((HOSTILE[0], HOSTILE[1]),), 1, 0), B)
    found = compare_sides(sides, np.arange(2), columns, lambda number: HOSTILE[number], 50.0)
    assert found is not None
    written = render_comparison(found)
    written.encode()
    page = Page(written)
    assert set(page.elements) <= ELEMENTS
    assert {name for _, name, _ in page.attributes} <= ATTRIBUTES
    assert "http://evil.invalid" not in "".join(page.values("href"))
    for text in HOSTILE:
        assert visible_name(text) in page.text
    assert "\n" not in found.verdict
    assert not set(found.verdict) & set("\x00\x1b\x07\u202e\u2066")


@given(st.floats(-100, 100))
def test_points_are_rounded_correctly(points: float) -> None:
    shown = points_text(points)
    assert float(shown) == pytest.approx(points, abs=0.051, rel=0.06)
    assert shown not in ("-0", "-0.0")
    assert "e" not in shown


def test_a_small_probability_is_not_shown_as_zero() -> None:
    assert [probability_text(p) for p in (1.0, 0.43, 0.0496, 0.004, 0.0009, 0.0)] == [
        "= 1",
        "= 0.43",
        "= 0.050",
        "= 0.004",
        "< 0.001",
        "< 0.001",
    ]


@pytest.mark.parametrize(("columns", "resampled"), [(20, 21), (21, 1)])
def test_with_many_columns_only_the_overall_difference_is_resampled(
    monkeypatch: pytest.MonkeyPatch, columns: int, resampled: int
) -> None:
    counted = []

    def count(pairs: Any) -> tuple[float, float]:
        counted.append(pairs)
        return math.nan, math.nan

    monkeypatch.setattr(inference, "_bootstrap", count)
    moves = np.resize([10, 5, 0, 5, -5], 60)
    compared(*(aligned(np.full(60, 40), 40 + moves, prompt=f"p{n}") for n in range(columns)))
    assert len(counted) == resampled
