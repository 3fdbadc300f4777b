"""What the sentences of comparisons say of every combination, read back from their words."""

import math
import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from doceval_pipeline.domain.score_changes import Dimension
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports.comparison import AlignedColumn, ComparedColumn, ComparedSide, compare_sides
from doceval_pipeline.reports.comparison_words import (
    SideUsage,
    WordedColumn,
    WordedSide,
    cost_text,
    usage_texts,
)
from doceval_pipeline.reports.formatting import money
from doceval_pipeline.reports.phrases import PER
from doceval_pipeline_tests.reports.sample_reports import HOSTILE

NAN = math.nan
FIRST, SECOND = "side-a", "side-b"
NAMES: dict[Dimension, tuple[str | None, str | None]] = {
    Dimension.CONNECTION: (None, "clarity"),
    Dimension.PROMPT: ("gpt", None),
    Dimension.TIME: ("gpt", "clarity"),
}
BASE = np.resize([40, 45, 50, 55, 70], 30).astype(float)
MOVES = np.resize([9, 4, 6, 2, 8, 0], 30)
NEAR = np.resize([9, -8, 6, -6, 1, 0], 30)
SCORES: dict[str, tuple[Any, Any]] = {
    "second leads": (BASE, BASE + MOVES),
    "first leads": (BASE + MOVES, BASE),
    "tie": (BASE, BASE + NEAR),
    "tie the other way": (BASE + NEAR, BASE),
    "same on average": ([40, 50, 60], [50, 40, 60]),
    "exactly equal": (BASE, BASE),
    "same amount, few": ([40, 50], [39, 49]),
    "same amount, many": ([40] * 9, [47] * 9),
    "one document": ([40, NAN], [42, 50]),
    "one equal document": ([40, NAN], [40, 50]),
    "no common document": ([40, NAN], [NAN, 50]),
    "first without scores": ([NAN, NAN], [40, 50]),
    "second without scores": ([40, 50], [NAN, NAN]),
    "no scores": ([NAN, NAN], [NAN, NAN]),
    "hardly different": ([40, 50, 60, 70], [40.00001, 50, 60, 70]),
}
MISSING = {
    "nothing": ({}, {}),
    "first failed": ({"failed": 1}, {}),
    "second failed": ({}, {"failed": 4}),
    "both failed": ({"failed": 3}, {"failed": 1_200}),
    "everything": ({"failed": 2, "without_score": 1, "open": 5}, {"absent": 1, "without_score": 2}),
}


def paid(amount: float | None, currency: str = "USD", **counts: int) -> SideUsage:
    cost = None if amount is None else Cost(amount * 10, currency, 10, 0)
    return SideUsage(ColumnUsage(10, cost=cost), **counts)


REUSED = SideUsage(ColumnUsage(), reused=10)
PRICES = {
    "dearer": (paid(0.02), paid(0.4)),
    "cheaper": (paid(0.4), paid(0.02)),
    "a little more": (paid(0.2), paid(0.24)),
    "about the same": (paid(0.2), paid(0.2004)),
    "exactly the same": (paid(0.2), paid(0.2)),
    "tiny": (paid(2e-9), paid(0.4)),
    "first unknown": (paid(None), paid(0.4)),
    "second unknown": (paid(0.02), paid(None)),
    "both unknown": (paid(None), paid(None)),
    "first free": (paid(0), paid(0.4)),
    "second free": (paid(0.02), paid(0)),
    "both free": (paid(0), paid(0)),
    "free and unknown": (paid(0), paid(None)),
    "two currencies": (paid(0.02), paid(0.4, "EUR")),
    "free in two currencies": (paid(0), paid(0, "EUR")),
    "first reused": (REUSED, paid(0.4)),
    "second reused": (paid(0.02), REUSED),
    "both reused": (REUSED, REUSED),
    "partly reused": (paid(0.02, reused=3), paid(0.4)),
}


def counts(scores: Any, given: dict[str, int]) -> ScoreStateCounts:
    scored = int(np.count_nonzero(~np.isnan(np.asarray(scores, float))))
    return ScoreStateCounts(
        **{"scored": scored, "without_score": 0, "failed": 0, "open": 0, "absent": 0} | given
    )


def column_of(
    dimension: Dimension, scores: str, missing: str = "nothing", price: str = "both unknown"
) -> ComparedColumn:
    """A column of these figures, compared together with one that has scores."""
    (first, second), (lacks, lacks_too) = SCORES[scores], MISSING[missing]
    connection, prompt = NAMES[dimension]
    column = AlignedColumn(
        connection,
        prompt,
        (),
        np.array(first, float),
        np.array(second, float),
        counts(first, lacks),
        counts(second, lacks_too),
        *PRICES[price],
    )
    n = column.first.size
    other = replace(column, first=np.full(n, 50.0), second=np.full(n, 50.0))
    sides = tuple(ComparedSide(name, "batch-000001", 0, (), 100, 0) for name in (FIRST, SECOND))
    assert len(sides) == 2
    found = compare_sides(sides, np.arange(n), [column, other], str, dimension=dimension)
    assert found is not None
    return found.columns[0]


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


@pytest.mark.parametrize("dimension", Dimension)
@pytest.mark.parametrize("scores", SCORES)
def test_a_sentence_says_exactly_what_the_figures_say(dimension: Dimension, scores: str) -> None:
    for missing, price in product(MISSING, PRICES):
        column = column_of(dimension, scores, missing, price)
        sentence = column.sentence
        assert sentence.startswith("With gpt, " if dimension is Dimension.PROMPT else "For clarity, ")
        assert sentence.endswith(".")
        assert not re.search(r"  |\.\.|,\.|;\.| ;| ,|None|\bnan|\binf\b|; and|-0\b|−0\b", sentence), sentence
        assert_verbs(sentence, dimension)
        assert_lead(column, dimension)
        assert_missing(column, dimension)
        assert_price(column, dimension)


def assert_verbs(sentence: str, dimension: Dimension) -> None:
    in_time = re.search(r"\b(rose|fell|change|stayed)\b", sentence)
    between = re.search(r"\b(higher|lower|difference|separate)\b", sentence)
    assert not (between if dimension is Dimension.TIME else in_time), sentence


def assert_lead(column: ComparedColumn, dimension: Dimension) -> None:
    sentence, changes = column.sentence, column.score_changes
    documents = re.search(
        r"on (?:each of )?the (?:([\d,]+) documents|only document) (both scored|scored in both)", sentence
    )
    assert ("cannot be compared" in sentence) == (changes is None) == (documents is None), sentence
    if changes is None or documents is None:
        for name, cells in ((FIRST, column.first_cells), (SECOND, column.second_cells)):
            other = column.second_cells if name == FIRST else column.first_cells
            alone = not cells.scored and other.scored
            assert bool(re.search(rf"{name} has no score", sentence)) == bool(alone), sentence
        return
    found = changes.difference
    assert number(documents[1] or "1") == found.n
    is_equal = changes.rose == changes.fell == 0
    if dimension is Dimension.TIME:
        assert ("no change" in sentence) == (not found.told_apart and not is_equal), sentence
        assert is_equal == ("stayed the same" in sentence)
    else:
        assert ("no clear winner" in sentence) == (not found.told_apart and not is_equal), sentence
        assert is_equal == ("score the same on" in sentence)
    points = re.search(r"(?:scores|(rose|fell) by) ([\d.]+) points?\b", sentence)
    assert (number(points[2]) if points else 0.0) == pytest.approx(abs(found.mean), abs=0.051)
    if points is None:
        assert "the same" in sentence
    elif dimension is Dimension.TIME:
        assert points[1] == ("rose" if found.mean > 0 else "fell")
        assert f"from {FIRST} to {SECOND}" in sentence
    else:
        higher, lower = (SECOND, FIRST) if found.mean > 0 else (FIRST, SECOND)
        assert re.search(rf"{higher} scores [\d.]+ points? higher than {lower} ", sentence), sentence
    assert_evidence(column)


def assert_evidence(column: ComparedColumn) -> None:
    sentence, changes = column.sentence, column.score_changes
    assert changes is not None
    found = changes.difference
    interval = re.search(r"interval (−?[\d.]+) to (−?[\d.]+)", sentence)
    assert (interval is None) == (found.low is None), sentence
    if interval and found.low is not None and found.high is not None:
        said = [number(bound) for bound in interval.groups()]
        assert said == sorted(said)
        sizes = sorted([abs(found.low), abs(found.high)])
        assert sorted(map(abs, said)) == pytest.approx(sizes, abs=0.051), sentence
        is_turned = found.mean < 0 and ("higher" in sentence or "fell by" in sentence)
        assert said == pytest.approx(
            [-found.high, -found.low] if is_turned else [found.low, found.high], abs=0.051
        )
    p = re.search(r"p ([=<]) ([\d.]+)", sentence)
    is_equal = changes.rose == changes.fell == 0
    assert (p is None) == (found.p is None or is_equal), sentence
    if p and found.p is not None:
        assert (
            number(p[2]) == pytest.approx(found.p, rel=0.05, abs=0.0006) if p[1] == "=" else found.p < 0.001
        )
    detectable = re.search(r"a true \w+ of ([\d.]+) points? shows in 4 of 5 cases", sentence)
    is_silent = found.told_apart or is_equal
    is_nothing = found.detectable is not None and found.detectable < 1e-4
    assert (detectable is None) == (is_silent or is_nothing or found.detectable is None), sentence
    if detectable:
        assert number(detectable[1]) == pytest.approx(found.detectable, abs=0.051)
    assert ("too few" in sentence or "so few" in sentence) == (not is_silent and found.detectable is None)


def assert_missing(column: ComparedColumn, dimension: Dimension) -> None:
    kinds = {
        "failed": r"failed on",
        "without_score": r"gave no score for",
        "open": r"has not finished",
        "absent": r"has no evaluation of",
    }
    end = {Dimension.CONNECTION: None, Dimension.PROMPT: "with", Dimension.TIME: "in"}[dimension]
    for name, cells in ((FIRST, column.first_cells), (SECOND, column.second_cells)):
        parts = column.sentence.removesuffix(".").split("; ")
        own = [
            part
            for part in parts
            if re.search("|".join(kinds.values()), part)
            and (part.startswith(f"{name} ") if end is None else part.endswith(f" {end} {name}"))
        ]
        assert len(own) <= 1
        for kind, words in kinds.items():
            said = re.search(rf"{words} ([\d,]+) documents?\b", "".join(own))
            assert (number(said[1]) if said else 0) == getattr(cells, kind), column.sentence


def assert_price(column: ComparedColumn, dimension: Dimension) -> None:
    sentence, sides = column.sentence, (column.first_usage, column.second_usage)
    costs = [side.usage.cost for side in sides]
    reused = [name for name, side in zip((FIRST, SECOND), sides, strict=True) if side.is_all_reused]
    assert ("reused" in sentence) == bool(reused)
    if reused:
        named = re.search(r"all results (?:of|in) (.*?) are reused and cost nothing", sentence)
        assert named is not None
        assert sorted(named[1].split(" and ")) == reused
        assert not re.search(r"unknown|free|times as much", sentence)
        return
    assert ("unknown" in sentence) == (None in costs), sentence
    known = [cost for cost in costs if cost is not None]
    free = [cost for cost in known if cost.amount == 0]
    amounts = [f"{money(cost.per_document * PER)} {cost.currency}" for cost in known if cost.amount > 0]
    is_ratio = len(known) == 2 and not free and known[0].currency == known[1].currency
    is_same = is_ratio and dimension is not Dimension.TIME and known[0].amount == known[1].amount
    assert is_same == (f"both cost {amounts[0]} per 1,000 documents" in sentence if amounts else False)
    is_ratio = is_ratio and not is_same
    assert bool(re.search(r"as much|% (more|less)|about the same", sentence)) == is_ratio, sentence
    assert len(known) == 2 or not re.search(r"\b0(\.00)? USD", sentence), "unknown is not 0"
    if is_ratio:
        assert all(money(cost.per_document * PER) in sentence for cost in known), sentence
        assert_ratio(sentence, known[0].per_document, known[1].per_document, dimension)
    else:
        assert all(amount in sentence for amount in amounts), sentence
    if len(free) == len(known) == 2:
        assert "both are free" in sentence
    elif free:
        assert re.search(r"\bfree|costs nothing", sentence), sentence


def assert_ratio(sentence: str, first: float, second: float, dimension: Dimension) -> None:
    """A ratio is of the subject's price to the other's: of the second batch, or of the model named first."""
    starts = re.search(rf"({FIRST}|{SECOND})(?: scores[^;]*? and)? costs about", sentence)
    is_first = dimension is not Dimension.TIME and starts is not None and starts[1] == FIRST
    assert dimension is Dimension.TIME or starts is not None, sentence
    ratio = first / second if is_first else second / first
    if said := re.search(r"about ([\d,.]+) times as much", sentence):
        assert number(said[1]) == pytest.approx(ratio, rel=0.06)
    elif said := re.search(r"about (\d+) % (more|less)", sentence):
        assert (1 if said[2] == "more" else -1) * number(said[1]) == pytest.approx((ratio - 1) * 100, abs=0.6)
    elif "about a twentieth as much" in sentence:
        assert ratio == pytest.approx(0.05)
    elif said := re.search(r"about 1/([\d,.]+) as much", sentence):
        assert 1 / number(said[1]) == pytest.approx(ratio, rel=0.06)
    else:
        assert "about the same" in sentence
        assert ratio == pytest.approx(1, abs=0.05)


def test_versions_of_one_document_show_no_difference() -> None:
    column = AlignedColumn(
        None,
        "clarity",
        (),
        np.array([40.0, 50, 60]),
        np.array([50.0, 70, 65]),
        counts([40, 50, 60], {}),
        counts([50, 70, 65], {}),
    )
    first, second = (ComparedSide(name, "batch-000001", 0, (), 3, 0) for name in (FIRST, SECOND))
    found = compare_sides(
        (first, second),
        np.arange(3),
        [column],
        str,
        dimension=Dimension.CONNECTION,
        clusters=np.zeros(3, np.int64),
    )
    assert found is not None
    assert found.verdict == (
        "For clarity, there is no clear winner between side-a and side-b: side-b scores 11.7 points "
        "higher than "
        "side-a on the 3 documents both scored; what they cost is unknown; they are versions or copies of "
        "one document, which is too few to show a difference."
    )


def test_results_that_both_sides_reuse_are_not_compared() -> None:
    for dimension in Dimension:
        column = column_of(dimension, "exactly equal")
        cells = replace(column.first_cells, scored=0, same_results=30)
        connection, prompt = NAMES[dimension]
        nothing = np.full(30, NAN)
        aligned = AlignedColumn(connection, prompt, (), nothing, nothing, cells, cells, REUSED, REUSED)
        other = replace(aligned, first=BASE, second=BASE)
        sides = tuple(ComparedSide(name, "batch-000001", 0, (), 30, 0) for name in (FIRST, SECOND))
        assert len(sides) == 2
        found = compare_sides(sides, np.arange(30), [aligned, other], str, dimension=dimension)
        assert found is not None
        assert "are the same reused results, which are not compared" in found.columns[0].sentence


@pytest.mark.parametrize(
    ("used", "cost"),
    [
        (paid(0.02), ("0.20 USD", "20.00 USD")),
        (paid(0), ("free", "free")),
        (paid(None), ("unknown", "unknown")),
        (REUSED, ("nothing: all reused", "–")),
        (SideUsage(), ("unknown", "unknown")),
        (
            SideUsage(ColumnUsage(10, cost=Cost(0.2, "EUR", 8, 2))),
            ("0.20 EUR and 2 evaluations at an unknown price", "25.00 EUR"),
        ),
    ],
)
def test_the_cost_of_a_side_is_never_0_if_it_is_unknown(used: SideUsage, cost: tuple[str, str]) -> None:
    assert usage_texts(used)[:2] == cost
    assert cost_text(used) == cost[0]


@pytest.mark.parametrize("dimension", Dimension)
def test_hostile_names_stay_on_the_line_and_are_cut(dimension: Dimension) -> None:
    for name in [*HOSTILE, "x" * 500, "", "e.g. a; b, c and d."]:
        column = replace_names(dimension, name)
        assert not set(column.sentence) & set("\n\r\x00\x1b\x07‮⁦")
        assert "x" * 81 not in column.sentence
        assert name or "(no name)" in column.sentence


def replace_names(dimension: Dimension, name: str) -> ComparedColumn:
    connection, prompt = (part and name for part in NAMES[dimension])
    first, second = (ComparedSide(name, "batch-000001", 0, (), 30, 0) for _ in range(2))
    cells = counts(BASE, {"failed": 2})
    column = AlignedColumn(connection, prompt, (), BASE, BASE + MOVES, cells, cells)
    found = compare_sides((first, second), np.arange(30), [column], str, dimension=dimension)
    assert found is not None
    return found.columns[0]


@pytest.mark.parametrize(("other_documents", "is_change"), [(0, True), (3, False)])
def test_a_price_over_other_documents_is_no_change_of_price(other_documents: int, *, is_change: bool) -> None:
    cells = ScoreStateCounts(scored=0, without_score=0, failed=10, open=0, absent=0)
    first = WordedSide("one", cells, paid(0.2), other_documents)
    column = WordedColumn(
        Dimension.TIME, "model-a", "clarity", first, WordedSide("two", cells, paid(0.4)), None
    )
    sentence = column.sentence()
    assert ("rose" in sentence) == is_change
    assert ("each over all documents of its batch" in sentence) == (not is_change)
