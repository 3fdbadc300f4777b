"""Comparisons: complete counts, no figure over several columns, and a page without scripts."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.results import Total
from doceval_pipeline.domain.score_changes import Dimension
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.domain.usage import ColumnUsage, Cost, ProcessingTime
from doceval_pipeline.reports.comparison import (
    AlignedColumn,
    ComparedSide,
    Comparison,
    compare_sides,
    named_documents,
    render_comparison,
)
from doceval_pipeline.reports.comparison_words import SideUsage
from doceval_pipeline.reports.formatting import points_text, probability_text
from doceval_pipeline.reports.sanitize import visible_name
from doceval_pipeline.statistics import inference
from doceval_pipeline_tests.reports.sample_reports import HOSTILE
from doceval_pipeline_tests.reports.test_html import ATTRIBUTES, ELEMENTS, Page

A, B = (ComparedSide(name, f"batch-00000{n}", 0, (), 100, 0) for n, name in ((1, "a"), (2, "b")))


def aligned(
    first: Any, second: Any, connection: str | None = None, prompt: str | None = "clarity"
) -> AlignedColumn:
    first, second = np.array(first, float), np.array(second, float)
    states = [
        ScoreStateCounts(int((~np.isnan(side)).sum()), 0, int(np.isnan(side).sum()), 0, 0)
        for side in (first, second)
    ]
    return AlignedColumn(connection, prompt, (), first, second, *states)


def compared(
    *columns: AlignedColumn,
    sides: tuple[ComparedSide, ComparedSide] = (A, B),
    dimension: Dimension = Dimension.CONNECTION,
) -> Comparison:
    documents = np.arange(columns[0].first.size)
    found = compare_sides(
        sides, documents, columns, lambda document: f"{document}.txt", 50.0, dimension=dimension
    )
    assert found is not None
    return found


def costing(per_document: float, currency: str = "USD", cells: int = 10) -> SideUsage:
    return SideUsage(
        ColumnUsage(
            cells,
            Total(1_000, cells),
            Total(200, cells),
            ProcessingTime(cells, 1.5, 9),
            Cost(per_document * cells, currency, cells, 0),
        )
    )


def test_models_are_compared_in_one_sentence_with_the_price() -> None:
    moves = np.resize([10, 5, 0, 5, -5], 60)
    column = replace(
        aligned(np.full(60, 40), 40 + moves), first_usage=costing(0.02), second_usage=costing(0.4)
    )
    assert compared(column).verdict == (
        "For clarity, b scores 3 points higher than a on the 60 documents both scored (95 % interval 1.7 to "
        "4.3, p < 0.001), and costs about 20 times as much (400.00 against 20.00 USD per 1,000 documents)."
    )


def test_the_model_that_scores_higher_comes_first() -> None:
    moves = np.resize([10, 5, 0, 5, -5], 60)
    column = replace(
        aligned(40 + moves, np.full(60, 40)), first_usage=costing(0.02), second_usage=costing(0.4)
    )
    assert compared(column).verdict == (
        "For clarity, a scores 3 points higher than b on the 60 documents both scored (95 % interval 1.7 to "
        "4.3, p < 0.001), and costs about a twentieth as much (20.00 against 400.00 USD per 1,000 documents)."
    )


def test_scores_rise_and_fall_only_between_batches() -> None:
    moves = np.resize([10, 5, 0, 5, -5], 60)
    column = replace(
        aligned(np.full(60, 40), 40 + moves, "gpt"), first_usage=costing(0.02), second_usage=costing(0.4)
    )
    in_time = compared(column, dimension=Dimension.TIME)
    assert in_time.verdict == (
        "For clarity, the scores of gpt rose by 3 points from a to b on the 60 documents scored in both "
        "(95 % interval 1.7 to 4.3, p < 0.001); the cost of 1,000 documents rose from 20.00 USD to 400.00 "
        "USD, about 20 times as much."
    )
    page = " ".join(Page(render_comparison(in_time)).text.split())
    assert "rose on 36, fell on 12, same on 12" in page
    assert "crossed 50: 12 upwards, 0 downwards" in page
    assert "Largest changes" in page


@pytest.mark.parametrize("dimension", [Dimension.CONNECTION, Dimension.PROMPT])
def test_models_and_prompts_score_higher_and_lower(dimension: Dimension) -> None:
    column = aligned([40, 50, 60], [70, 40, 60])
    if dimension is Dimension.PROMPT:
        column = replace(column, connection="gpt", prompt=None)
    found = compared(column, dimension=dimension)
    page = " ".join(Page(render_comparison(found)).text.split())
    assert "higher on 1, lower on 1, same on 1" in page
    assert "at or above 50 by a only: 1, by b only: 1" in page
    assert "Largest differences" in page
    for verb in ("rose", "fell", "crossed", "moved", "change"):
        assert verb not in f"{page} {found.verdict}"


def test_a_reused_result_on_both_sides_is_left_out_and_counted() -> None:
    column = aligned([40, 50, np.nan], [45, 55, np.nan])
    states = replace(column.first_cells, failed=0, same_results=1)
    found = compared(replace(column, first_cells=states, second_cells=states))
    assert (found.pairs, found.left_out, found.as_json()["same_results"]) == (2, 0, 1)
    assert found.verdict.endswith(" 1 pair shares one reused result and is not compared.")
    assert "1 pair shares one reused result and is not compared." in render_comparison(found)


UNKNOWN = "what they cost is unknown"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (
            np.full(60, 40),
            40 + np.resize([10, -10, 5, -5, 0, 1], 60),
            "there is no clear winner between a and b: b scores 0.2 points higher than a on the 60 "
            "documents both "
            f"scored (95 % interval −1.5 to 1.9, p = 0.56); {UNKNOWN}; with as many documents, a true "
            "difference of 2.4 points shows in 4 of 5 cases.",
        ),
        (
            [0, 50, 100],
            [0, 50, 100],
            f"a and b score the same on each of the 3 documents both scored; {UNKNOWN}.",
        ),
        (
            [40],
            [42],
            "there is no clear winner between a and b: b scores 2 points higher than a on the only "
            "document both "
            f"scored; {UNKNOWN}; one document is too few to show a difference.",
        ),
        (
            [40, 50],
            [39, 49],
            "there is no clear winner between a and b: a scores 1 point higher than b on the 2 documents "
            f"both scored (p = 0.5); {UNKNOWN}; so few documents cannot show a difference.",
        ),
        (
            [40, 50, 60],
            [50, 40, 60],
            "there is no clear winner between a and b: they are the same on average on the 3 "
            "documents both scored "
            f"(95 % interval −24.8 to 24.8, p = 1); {UNKNOWN}; with as many documents, a true difference "
            "of 32.6 points shows in 4 of 5 cases.",
        ),
        (
            [40, math.nan, 60, 70],
            [40, 50, math.nan, 70],
            f"a and b score the same on each of the 2 documents both scored; {UNKNOWN}; a failed on 1 "
            "document; b failed on 1 document.",
        ),
    ],
    ids=["tie", "the same", "one document", "same amount", "up as much as down", "left out"],
)
def test_the_sentence_is_honest_about_what_is_not_shown(first: Any, second: Any, verdict: str) -> None:
    assert compared(aligned(first, second)).verdict == f"For clarity, {verdict}"


def test_without_a_pair_of_scores_there_is_no_comparison() -> None:
    column = aligned([40, math.nan], [math.nan, 50])
    assert compare_sides((A, B), np.arange(2), [column], str, dimension=Dimension.TIME) is None


def test_a_document_counts_once_with_its_mean_over_the_columns_that_both_scored() -> None:
    one = aligned([40, 40, math.nan], [50, math.nan, 10])
    two = aligned([40, 60, math.nan], [70, 60, 20], prompt="tone")
    found = compared(one, two)
    assert (found.overall.difference.n, found.overall.net) == (2, 10.0)
    assert [(flip.document, flip.before, flip.after) for flip in found.overall.flips] == [("0.txt", 40, 60)]
    assert (found.pairs, found.left_out) == (3, 3)
    assert [(column.first_mean, column.second_mean) for column in found.columns] == [(40, 50), (50, 65)]


def test_no_figure_over_several_prompts_is_shown_to_people() -> None:
    clarity = aligned([40, 40, 40], [50, 51, 49])
    tone = aligned([80, 80, 80], [57, 58, 59], prompt="tone")
    found = compared(clarity, tone)
    assert [(column.first_mean, column.second_mean) for column in found.columns] == [(40, 50), (80, 58)]
    assert found.as_json()["overall"]["net"] == found.overall.net == -6
    page = " ".join(Page(render_comparison(found)).text.split())
    assert found.verdict == " ".join(column.sentence for column in found.columns)
    assert [sentence.split(",")[0] for sentence in found.sentences] == ["For clarity", "For tone"]
    for mean in ("-6.0", "−6", "6 points", "60 →", "60 /", "54 "):
        assert mean not in f"{page} {found.verdict}"


def test_the_sentences_of_many_columns_are_cut_and_counted() -> None:
    found = compared(*(aligned([40, 50], [50, 70], prompt=f"p{number}") for number in range(22)))
    assert len(found.sentences) == 21
    assert found.sentences[-1] == "2 more comparisons are in the table."
    assert {column["sentence"] for column in found.as_json()["columns"]} >= {*found.sentences[:-1]}


def test_each_column_has_the_threshold_of_its_prompt_or_the_common_one() -> None:
    own = replace(aligned([40, 60], [50, 70]), threshold=65.0)
    found = compared(own, aligned([40, 60], [50, 70], prompt="tone"))
    assert [
        (column.score_changes.threshold, column.score_changes.flipped_up)
        for column in found.columns
        if column.score_changes
    ] == [(65, 1), (50, 1)]
    assert "at or above 65 by a only: 0, by b only: 1" in render_comparison(found)


def test_versions_and_copies_of_a_document_are_one_cluster() -> None:
    moves = np.resize([10, 5, 0, 5, -5], 60)
    column = aligned(np.full(60, 40), 40 + moves)
    apart, together = (
        compare_sides((A, B), np.arange(60), [column], str, dimension=Dimension.CONNECTION, clusters=clusters)
        for clusters in (np.arange(60), np.repeat(np.arange(12), 5))
    )
    assert apart == compared_by_id(column)
    assert apart is not None
    assert together is not None
    assert apart.overall.difference.mean == together.overall.difference.mean
    assert apart.columns[0].score_changes != together.columns[0].score_changes


def compared_by_id(column: AlignedColumn) -> Comparison | None:
    documents = np.arange(column.first.size)
    return compare_sides((A, B), documents, [column], str, dimension=Dimension.CONNECTION)


def test_the_usage_of_each_side_is_shown_and_unknown_is_never_0() -> None:
    column = replace(
        aligned([40, 60], [50, 70]),
        first_usage=replace(costing(0.02), failed=3),
        second_usage=SideUsage(ColumnUsage(2)),
    )
    found = compared(column)
    usage = found.as_json()["columns"][0]["usage"]
    assert usage["first"] == {
        "cells": 10,
        "input_tokens": {"value": 1_000, "cells": 10},
        "output_tokens": {"value": 200, "cells": 10},
        "seconds": {"n": 10, "p50": 1.5, "p95": 9},
        "cost": {"amount": 0.2, "currency": "USD", "cells": 10, "unpriced": 0},
        "cost_per_document": 0.02,
        "failed": 3,
        "reused": 0,
    }
    assert (usage["second"]["cost"], usage["second"]["cost_per_document"]) == (None, None)
    page = " ".join(Page(render_comparison(found)).text.split())
    assert "a clarity 0.20 USD 20.00 USD 1.5 1,000 200 3" in page
    assert "b clarity unknown unknown unknown unknown unknown 0" in page


def test_p_of_columns_is_corrected_and_that_of_the_overall_figure_is_not() -> None:
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
    one = compared(column, column, sides=(A, replace(B, simulated=100)))
    assert all(
        sentence.endswith(". [SIMULATED: all results of b, and no others]") for sentence in one.sentences
    )
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

    compare_sides((A, B), np.arange(300), columns, name_of, dimension=Dimension.CONNECTION)
    assert named == named_documents(np.arange(300), columns)


def test_the_page_shows_the_comparison() -> None:
    column = replace(aligned([40, math.nan, 60], [50, 50, 40]), changed=("prompt text",))
    sides = (replace(A, documents=4, columns=(("old", "tone"),)), B)
    page = Page(
        render_comparison(compared(replace(column, connection="gpt"), sides=sides, dimension=Dimension.TIME))
    )
    for said in (
        "b against a",
        "prompt text changed",
        "0.txt",
        "60 → 40",
        "Only in a",
        "of 3 that both have",
    ):
        assert said in " ".join(page.text.split())


def test_hostile_names_are_shown_inertly() -> None:
    columns = [aligned([10, 90], [20, 30], text, text) for text in HOSTILE]
    sides = (ComparedSide(" ".join(HOSTILE), "batch-000001", 0, ((HOSTILE[0], HOSTILE[1]),), 1, 0), B)
    found = compare_sides(
        sides, np.arange(2), columns, lambda number: HOSTILE[number], dimension=Dimension.TIME
    )
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
