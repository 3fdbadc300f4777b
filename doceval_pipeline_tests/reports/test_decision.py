"""What the sentences say of every combination of lead, price and failures, read back from their words."""

import math
import re
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.findings import Conclusion, Difference, Estimate, MarginTest
from doceval_pipeline.domain.insights import PromptLeaderboard, Standing
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports.decision import Decision, Reason, decide
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportColumn
from doceval_pipeline.reports.phrases import relative_price

MODELS = {1: "model-a", 2: "model-b", 3: "model-c", 4: "model-d"}
LABELS = ColumnLabels([ReportColumn(id_, name, 7, "clarity") for id_, name in MODELS.items()])
APART = Difference(12, 6.0, 4.1, 7.9, 0.0021, 2.0)
TIED = Difference(12, 0.4, -2.0, 2.8, 0.61, 3.0)
EQUAL = Difference(12, 0.0, None, None, 1.0, None)
ONE = Difference(1, 6.0, None, None, None, None)
LEADS = {"apart": APART, "tied": TIED, "equal": EQUAL, "one document": ONE, "no common document": None}
DEAR, CHEAP = Cost(2.4, "USD", 12, 0), Cost(0.12, "USD", 12, 0)
PRICES = {
    "known": (DEAR, CHEAP),
    "equal": (DEAR, DEAR),
    "first unknown": (None, CHEAP),
    "second unknown": (DEAR, None),
    "unknown": (None, None),
    "two currencies": (DEAR, Cost(0.12, "EUR", 12, 0)),
    "free": (DEAR, Cost(0.0, "USD", 12, 0)),
    "both free": (Cost(0.0, "USD", 12, 0), Cost(0.0, "USD", 12, 0)),
}


def standing(connection: int, mean: float | None, cost: Cost | None = None, **changes: object) -> Standing:
    """A model with 12 scores, or without any."""
    values: dict[str, object] = {
        "connection_id": connection,
        "scores": None if mean is None else Estimate(12, mean, mean - 2, mean + 2),
        "against": None,
        "difference": None,
        "tied": False,
        "failed": 0,
        "without_score": 0,
        "without_result": 0,
        "usage": ColumnUsage(12, cost=cost),
    }
    return Standing(**(values | changes))  # type: ignore[arg-type]


def turned(difference: Difference | None) -> Difference | None:
    if difference is None or difference.low is None or difference.high is None:
        return difference and Difference(
            difference.n, -difference.mean, None, None, difference.p, difference.detectable
        )
    return Difference(
        difference.n, -difference.mean, -difference.high, -difference.low, difference.p, difference.detectable
    )


def two_models(
    lead: Difference | None,
    prices: tuple[Cost | None, Cost | None] = (None, None),
    failed: tuple[int, int] = (0, 0),
    **second: object,
) -> PromptLeaderboard:
    """A leaderboard of two models; `lead` is that of the first."""
    tied = lead is None or not lead.told_apart
    return PromptLeaderboard(
        7,
        [
            standing(1, 80.0, prices[0], against=2, difference=lead, failed=failed[0]),
            standing(
                2, 74.0, prices[1], against=1, difference=turned(lead), tied=tied, failed=failed[1], **second
            ),
        ],
    )


def decided(standings: Sequence[Standing] | PromptLeaderboard) -> Decision:
    board = standings if isinstance(standings, PromptLeaderboard) else PromptLeaderboard(7, standings)
    decision = decide(board, LABELS)
    assert decision.sentence.endswith((".", "[SIMULATED]"))
    assert not re.search(r"  |\.\.|,\.|;\.|None|nan|inf", decision.sentence)
    return decision


def test_the_sentence_of_a_lead_says_by_how_much_and_at_what_price() -> None:
    assert decided(two_models(APART, PRICES["known"], (0, 4))) == Decision(
        7,
        "clarity",
        ("model-a",),
        Reason.HIGHEST,
        None,
        "For clarity, model-a scores 6 points higher than model-b on the 12 documents both scored, and costs "
        "about 20 times as much (200.00 against 10.00 USD per 1,000 documents); model-b failed on 4 "
        "documents.",
    )


@pytest.mark.parametrize(
    ("lead", "price", "failed"), [*product(LEADS, PRICES, [(0, 0), (4, 0), (0, 1), (3, 1_200)])]
)
def test_a_sentence_says_exactly_what_the_figures_say(lead: str, price: str, failed: tuple[int, int]) -> None:
    decision = decided(two_models(LEADS[lead], PRICES[price], failed))
    sentence = decision.sentence
    assert sentence.startswith("For clarity, ")
    assert_lead(decision, LEADS[lead])
    for name, count in zip(("model-a", "model-b"), failed, strict=True):
        said = re.search(rf"{name} failed on ([\d,]+) documents?\b", sentence)
        assert (int(said[1].replace(",", "")) if said else 0) == count
    if LEADS[lead] is not None:
        assert_price(decision, *PRICES[price])


def assert_lead(decision: Decision, lead: Difference | None) -> None:
    sentence = decision.sentence
    both = re.search(r"on the (?:(\d+) documents|only document) both scored", sentence)
    assert ("cannot be compared" in sentence) == (lead is None) == (both is None)
    is_apart = lead is not None and lead.told_apart
    assert ("no clear winner between model-a and model-b" in sentence) == (lead is not None and not is_apart)
    assert decision.choice == (("model-a",) if is_apart else ("model-a", "model-b"))
    assert decision.reason is (Reason.HIGHEST if is_apart else Reason.NO_DIFFERENCE)
    if lead is None or both is None:
        return
    assert int(both[1] or 1) == lead.n
    if is_apart:
        points = re.search(r"model-a scores ([\d.]+) points? (higher|lower) than model-b", sentence)
        assert points is not None
        assert float(points[1]) == abs(lead.mean)
        assert (points[2] == "higher") == (lead.mean > 0)
        return
    points = re.search(r"the lead of model-a over model-b, ([\d.]+) points", sentence)
    assert (float(points[1]) if points else 0.0) == lead.mean
    assert ("score the same on average" in sentence) == (lead.mean == 0)
    assert ("may be chance" in sentence) == (lead.n > 1 and lead.mean != 0)
    assert ("says nothing" in sentence) == (lead.n == 1)
    needed = re.search(r"about ([\d,]+) more documents would show it", sentence)
    is_known = lead.detectable is not None and lead.mean != 0
    assert (needed is not None) == is_known
    if needed is not None and lead.detectable is not None:
        documents = lead.n + int(needed[1].replace(",", ""))
        assert documents == math.ceil(lead.n * (lead.detectable / lead.mean) ** 2)


def assert_price(decision: Decision, first: Cost | None, second: Cost | None) -> None:
    sentence = decision.sentence
    assert ("unknown" in sentence) == (first is None or second is None)
    for name, cost in (("model-a", first), ("model-b", second)):
        assert (f"what {name} costs is unknown" in sentence) == (
            cost is None and (first is None) != (second is None)
        )
    if first is None or second is None:
        assert "times" not in sentence, "there is no ratio to an unknown price"
        assert not re.search(r"\b0(\.00)? USD|free|nothing per", sentence), "unknown is not 0"
        assert decision.cheapest is None
        return
    is_tie = decision.reason is Reason.NO_DIFFERENCE
    is_cheaper = first.currency == second.currency and first.amount > second.amount
    assert decision.cheapest == ("model-b" if is_tie and is_cheaper else None)
    if is_tie:
        assert ("model-b costs less" in sentence) == is_cheaper
        if is_cheaper:
            shown = "10.00" if second.amount else "nothing"
            assert f"costs less, {shown} against 200.00 USD per 1,000 documents" in sentence
        return
    is_ratio = first.currency == second.currency and first.amount > 0 and second.amount > 0
    assert ("times as much" in sentence or "about the same" in sentence) == is_ratio
    if first.currency != second.currency:
        assert "200.00 USD per 1,000 documents, against 10.00 EUR per 1,000 documents" in sentence
    assert ("free" in sentence) == (first.amount == 0 or second.amount == 0)


def test_the_leader_of_many_is_named_with_the_next() -> None:
    board = [
        standing(1, 80.0, against=2, difference=APART),
        standing(2, 74.0, against=1, difference=turned(APART)),
        standing(3, 60.0, against=1, difference=turned(APART)),
        standing(4, None, failed=12),
    ]
    decision = decided(board)
    assert decision.choice == ("model-a",)
    assert "model-a scores highest of 3 models, 6 points higher than the next, model-b, on the 12" in (
        decision.sentence
    )


def test_tied_models_are_all_named_and_unknown_prices_too() -> None:
    board = [
        standing(1, 80.0, DEAR, against=2, difference=TIED),
        standing(2, 79.0, None, against=1, difference=turned(TIED), tied=True),
        standing(3, 78.0, CHEAP, against=1, difference=turned(TIED), tied=True),
    ]
    decision = decided(board)
    assert decision.choice == ("model-a", "model-b", "model-c")
    assert "there is no clear winner among model-a, model-b and model-c: the lead of model-a over" in (
        decision.sentence
    )
    assert "over model-c, 0.4 points on the 12 documents both scored, may be chance" in decision.sentence
    assert decision.cheapest is None
    assert decision.sentence.endswith("; what model-b costs is unknown.")


def test_the_cheapest_of_tied_models_is_named_if_all_prices_are_known() -> None:
    middle = Cost(1.2, "USD", 12, 0)
    board = [
        standing(1, 80.0, DEAR, against=2, difference=TIED),
        standing(2, 79.0, middle, against=1, difference=turned(TIED), tied=True),
        standing(3, 78.0, CHEAP, against=1, difference=turned(TIED), tied=True),
    ]
    decision = decided(board)
    assert decision.cheapest == "model-c"
    assert decision.sentence.endswith(
        "; model-c costs least, 10.00 against 200.00 USD per 1,000 documents for model-a."
    )


def test_a_cheaper_model_that_is_no_worse_is_the_choice_and_says_what_it_saves() -> None:
    proven = MarginTest(3.0, Conclusion.NO_WORSE, None)
    decision = decided(two_models(TIED, PRICES["known"], (0, 2), margin_test=proven))
    assert decision.choice == ("model-b",)
    assert decision.sentence == (
        "For clarity, model-b is shown to be no worse than model-a within the margin of 3 points: it "
        "scores 0.4 points lower than model-a on the 12 documents both scored, and costs "
        "about a twentieth as much (10.00 against 200.00 USD per 1,000 documents), which saves 190.00 USD "
        "per 1,000 documents; model-b failed on 2 documents."
    )


def test_a_saving_is_the_difference_of_the_prices_as_they_are_shown() -> None:
    prices = Cost(0.6954, "USD", 1_000, 0), Cost(0.1746, "USD", 1_000, 0)
    proven = MarginTest(3.0, Conclusion.NO_WORSE, None)
    sentence = decided(two_models(TIED, prices, margin_test=proven)).sentence
    assert "(0.17 against 0.70 USD per 1,000 documents), which saves 0.53 USD" in sentence


def test_the_failures_of_all_models_are_named() -> None:
    board = [
        standing(1, 80.0, against=2, difference=APART),
        standing(2, 74.0, against=1, difference=turned(APART), without_score=1, failed=2),
        standing(3, 60.0, against=1, difference=turned(APART), failed=3),
    ]
    assert decided(board).sentence.endswith(
        "; model-b failed on 2 documents and gave no score for 1 document and model-c failed on 3 documents."
    )


@pytest.mark.parametrize("conclusion", [Conclusion.WORSE, Conclusion.UNKNOWN])
def test_a_cheaper_model_that_may_be_worse_is_not_the_choice(conclusion: Conclusion) -> None:
    unproven = MarginTest(3.0, conclusion, 40)
    decision = decided(two_models(APART, PRICES["known"], margin_test=unproven))
    assert decision.choice == ("model-a",)
    assert (
        "; whether model-b is no worse within the margin of 3 points cannot be told (about 40 more documents "
        "would tell)" in decision.sentence
    ) == (conclusion is Conclusion.UNKNOWN)


@pytest.mark.parametrize("price", ["equal", "second unknown", "two currencies", "both free"])
def test_a_model_that_is_not_known_to_be_cheaper_replaces_no_leader(price: str) -> None:
    proven = MarginTest(3.0, Conclusion.NO_WORSE, None)
    assert decided(two_models(APART, PRICES[price], margin_test=proven)).choice == ("model-a",)


def test_one_model_has_a_mean_and_a_price() -> None:
    assert decided([standing(1, 80.0, DEAR, failed=1)]).sentence == (
        "For clarity, model-a scores 80 on average over 12 documents (95 % interval 78 to 82), and costs "
        "200.00 USD per 1,000 documents; model-a failed on 1 document."
    )


@pytest.mark.parametrize(
    ("failed", "left", "said"),
    [
        (12, 0, "For clarity, no model has a score: 24 evaluations failed."),
        (0, 12, "For clarity, no model has a score yet."),
        (0, 0, "For clarity, no model has a score."),
    ],
)
def test_without_scores_there_is_no_choice(failed: int, left: int, said: str) -> None:
    board = [standing(n, None, failed=failed, without_result=left) for n in (1, 2)]
    decision = decided(board)
    assert (decision.choice, decision.sentence) == ((), said)


def test_unfinished_results_are_said_so_far() -> None:
    board = two_models(APART, without_result=3)
    assert decided(board).sentence.startswith("So far, for clarity, model-a scores 6 points")


def test_simulated_results_are_marked_and_never_compared_with_real_ones() -> None:
    mixed = decided(two_models(APART, simulated=12))
    assert mixed.choice == ()
    assert "some results are simulated and some are real" in mixed.sentence
    simulated = PromptLeaderboard(7, [standing(1, 80.0, simulated=12)])
    assert decided(simulated).sentence.endswith("[SIMULATED]")


def test_a_model_with_real_and_simulated_results_is_compared_with_none() -> None:
    decision = decided([standing(1, 80.0, simulated=6), standing(2, 70.0, simulated=12)])
    assert (decision.choice, decision.reason) == ((), Reason.NOTHING)
    assert "some results are simulated and some are real" in decision.sentence


def test_more_documents_are_as_many_as_the_test_needs_at_the_least() -> None:
    """Three documents with the same sign have p = 0.25, however large the lead is."""
    clear = Difference(3, 50.0, 40.0, 60.0, 0.25, 30.0)
    assert "(if it is real, about 3 more documents would show it)" in decided(two_models(clear)).sentence


def test_models_with_different_documents_may_score_lower_on_common_ones() -> None:
    assert "model-a scores 6 points lower than model-b" in decided(two_models(turned(APART))).sentence


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (20.3, "about 20 times as much"),
        (2.0, "about 2 times as much"),
        (1.3, "about 30 % more"),
        (1.0, "about the same"),
        (0.8, "about 20 % less"),
        (0.5, "about half as much"),
        (0.05, "about a twentieth as much"),
        (1 / 7, "about 1/7 as much"),
        (1 / 12_345, "about 1/12,000 as much"),
        (1e300, "more than 1,000,000,000 times as much"),
        (1e-300, "less than 1/1,000,000,000 as much"),
    ],
)
def test_a_price_is_said_in_words_that_people_use(ratio: float, said: str) -> None:
    assert relative_price(ratio) == said


@given(st.floats(1e-6, 1e6))
def test_the_words_of_a_ratio_are_close_to_it(ratio: float) -> None:
    text = relative_price(ratio)
    named = {"half": 2, "a third": 3, "a quarter": 4, "a fifth": 5, "a tenth": 10, "a twentieth": 20}
    digits = re.search(r"[\d.,]+(?= times| %)", text)
    number = float(digits[0].replace(",", "")) if digits else 0.0
    if "times" in text:
        said = number
    elif "%" in text:
        said = 1 + number / 100 if "more" in text else 1 - number / 100
    elif "same" in text:
        said = 1.0
    else:
        part = next((size for word, size in named.items() if word in text), None)
        said = 1 / (part or float(text.split("1/")[1].split()[0].replace(",", "")))
    assert said == pytest.approx(ratio, rel=0.12)


@given(st.text(max_size=200), st.text(max_size=200))
def test_hostile_names_stay_in_one_line(connection: str, prompt: str) -> None:
    labels = ColumnLabels([ReportColumn(1, connection, 7, prompt), ReportColumn(2, "b", 7, prompt)])
    sentence = decide(two_models(APART), labels).sentence
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 1_500
