"""Words what a leaderboard decides: which model, for which question, by how much and at what price.

A sentence holds only figures of the leaderboard. Names in it are visible and cut, and are not escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from doceval_pipeline.domain.findings import Conclusion, Difference, Estimate
from doceval_pipeline.domain.insights import PromptLeaderboard, Standing
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports.formatting import counted, money, points_text, probability_text, score_text
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportFigures
from doceval_pipeline.reports.sanitize import cut, visible_name
from doceval_pipeline.reports.standings import is_cheaper
from doceval_pipeline.statistics.inference import turned

NAME_CHARACTERS = 80
NAMES_SHOWN = 5
# Prices of single documents are too small to read.
PER = 1_000
# Nobody evaluates more documents to settle a comparison.
MOST_DOCUMENTS = 1_000_000
# Larger ratios come from prices that somebody made up.
FURTHEST_RATIO = 1_000_000_000
GENEROUS = (
    "Scores are the models' own opinions: a model that scores higher may only be more generous. Only scores "
    "by people (reference scores) can show which model is right, and there are none."
)
_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth", 20: "a twentieth"}


class Reason(StrEnum):
    """Why models are the choice; the value is how a page says it."""

    HIGHEST = "gives the highest scores"
    NO_WORSE = "cheaper, and shown to be no worse"
    NO_DIFFERENCE = "no clear winner"
    ALONE = "the only model with scores"
    NOTHING = "no choice"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one leaderboard decides."""

    prompt_id: int | None
    """None for the overall ranking."""
    prompt: str
    """The name of the prompt, visible and cut; of all weighted prompts for the overall ranking."""
    choice: tuple[str, ...]
    """The models to choose from: one if the figures decide, several if they do not, none without scores."""
    reason: Reason
    cheapest: str | None
    """Of several models, the one with the lowest price; None if one of the prices is unknown."""
    sentence: str


def decisions(figures: ReportFigures) -> list[Decision]:
    """What the leaderboards of a report decide: the overall ranking first, then each prompt."""
    insights, labels = figures.insights, ColumnLabels([column.column for column in figures.columns])
    boards = [*([] if insights.overall is None else [insights.overall]), *insights.leaderboards]
    return [decide(board, labels) for board in boards]


def decide(board: PromptLeaderboard, labels: ColumnLabels) -> Decision:
    """What a leaderboard decides, in one sentence."""
    wording = _Wording(board, prompt_name(board, labels), labels)
    models, reason = wording.choice()
    cheapest = _cheapest(models) if len(models) > 1 else None
    return Decision(
        prompt_id=board.prompt_id,
        prompt=wording.prompt,
        choice=tuple(wording.name(standing) for standing in models),
        reason=reason,
        cheapest=None if cheapest is None else wording.name(cheapest),
        sentence=wording.sentence(),
    )


def introduction(figures: ReportFigures, many: str) -> str:
    """Who scored what, on which scale: the first sentence of a page.

    Parameters
    ----------
    many
        The word for several connections: "models" or "connections".
    """
    columns = [column.column for column in figures.columns]
    connections = list(dict.fromkeys(column.connection for column in columns))
    prompts = list(dict.fromkeys(column.prompt for column in columns))
    who = _few(connections)
    asked = f"{who} was" if len(connections) == 1 else f"{len(connections):,} {many} ({who}) were"
    questions = "1 question (prompt)" if len(prompts) == 1 else f"{len(prompts):,} questions (prompts)"
    documents = counted(figures.contents, "document", "documents")
    return f"{asked} asked to score {documents} from 0 to 100 on {questions}: {_few(prompts)}."


def prompt_name(board: PromptLeaderboard, labels: ColumnLabels) -> str:
    """The name of a leaderboard's prompt, or of all prompts with a weight; visible and cut."""
    if board.prompt_id is not None:
        return shown_name(labels.prompt(board.prompt_id))
    weights = [f"{shown_name(labels.prompt(prompt))} weighs {weight:g}" for prompt, weight in board.weights]
    more = [f"{len(weights) - NAMES_SHOWN:,} more"] if len(weights) > NAMES_SHOWN else []
    return f"all prompts together ({', '.join([*weights[:NAMES_SHOWN], *more])})"


def _few(names: Sequence[str]) -> str:
    """The first of many names."""
    more = [f"{len(names) - NAMES_SHOWN:,} more"] if len(names) > NAMES_SHOWN else []
    return listed([*map(shown_name, names[:NAMES_SHOWN]), *more])


def shown_name(name: str) -> str:
    """A name in a sentence."""
    return cut(visible_name(name), NAME_CHARACTERS) or "(no name)"


def points(difference: float) -> str:
    """The size of a difference with its unit: "6 points", "1 point"."""
    size = points_text(abs(difference)).removesuffix(".0")
    return f"{size} point" if size == "1" else f"{size} points"


def much(difference: Difference) -> str:
    """By how much the first of two models scores higher or lower: "6 points higher than"."""
    if points_text(difference.mean) in ("0", "-0"):
        return "on average as much as"
    return f"{points(difference.mean)} {'higher' if difference.mean > 0 else 'lower'} than"


def evidence(difference: Difference) -> str:
    """The interval and p of a difference in parentheses, after a space; empty where there is neither."""
    parts = []
    if difference.low is not None and difference.high is not None:
        parts.append(f"95 % interval {_plain(difference.low)} to {_plain(difference.high)}")
    if difference.p is not None:
        parts.append(f"p {probability_text(difference.p)}")
    return f" ({', '.join(parts)})" if parts else ""


def over_documents(number: int) -> str:
    """On which documents two models are compared."""
    return "on the only document both scored" if number == 1 else f"on the {number:,} documents both scored"


def price_clause(usage: ColumnUsage, name: str, other: ColumnUsage, other_name: str) -> str:
    """What the first of two models costs compared with the other, as the end of a sentence about the first.

    It begins with ", and" or with a semicolon.
    """
    cost, other_cost = usage.cost, other.cost
    if cost is None and other_cost is None:
        return "; what they cost is unknown"
    if cost is None or other_cost is None:
        known = other_cost if cost is None else cost
        unknown, priced = (name, other_name) if cost is None else (other_name, name)
        return f"; what {unknown} costs is unknown, and {priced} costs {_each(known)}"
    if cost.amount == other_cost.amount == 0:
        return "; both are free"
    if cost.currency != other_cost.currency:
        return f", and costs {_each(cost)}, against {_each(other_cost)}"
    if cost.amount == 0:
        return f", and is free, against {_each(other_cost)}"
    if other_cost.amount == 0:
        return f", and costs {_each(cost)}, while {other_name} is free"
    compared = relative_price(cost.per_document / other_cost.per_document)
    return (
        f", and costs {compared} ({money(cost.per_document * PER)} against "
        f"{money(other_cost.per_document * PER)} {shown_name(cost.currency)} per {PER:,} documents)"
    )


def relative_price(ratio: float) -> str:
    """A price relative to another: "about 20 times as much", "about 30 % more", "about half as much"."""
    if ratio > FURTHEST_RATIO:
        return f"more than {FURTHEST_RATIO:,} times as much"
    if ratio < 1 / FURTHEST_RATIO:
        return f"less than 1/{FURTHEST_RATIO:,} as much"
    if ratio >= 1.95:
        return f"about {_two_digits(ratio)} times as much"
    if ratio > 1.05:
        return f"about {round((ratio - 1) * 100):d} % more"
    if ratio >= 0.95:
        return "about the same"
    if ratio > 0.55:
        return f"about {round((1 - ratio) * 100):d} % less"
    whole = round(1 / ratio)
    is_close = abs(whole * ratio - 1) <= 0.05
    part = _PARTS.get(whole) if is_close else None
    return f"about {part or f'1/{_two_digits(1 / ratio)}'} as much"


def failure_clause(standings: Sequence[tuple[str, Standing]], unit: str = "document") -> str:
    """Which of the named models have failures or no score, as the end of a sentence; empty without any.

    Parameters
    ----------
    unit
        What is counted: documents of one prompt, or evaluations of several.
    """
    parts = [
        f"{name} {' and '.join(what)}"
        for name, standing in standings
        if (what := _what_is_missing(standing, unit))
    ]
    return f"; {listed(parts)}" if parts else ""


def _what_is_missing(standing: Standing, unit: str) -> list[str]:
    counts = (("failed on", standing.failed), ("gave no score for", standing.without_score))
    return [f"{verb} {counted(number, unit, f'{unit}s')}" for verb, number in counts if number]


def listed(texts: Sequence[str]) -> str:
    """Texts in one phrase: "a", "a and b", "a, b and c"."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def saving(cheaper: ColumnUsage, other: ColumnUsage) -> Cost | None:
    """What the choice of a cheaper model saves per 1,000 documents; None if it is unknown or not cheaper.

    The difference of the two prices as they are shown, so that readers who subtract them get the same.
    """
    cost, other_cost = cheaper.cost, other.cost
    if cost is None or other_cost is None or not is_cheaper(cheaper, other):
        return None
    shown, other_shown = (
        float(money(each.per_document * PER).replace(",", "")) for each in (cost, other_cost)
    )
    return Cost(max(0.0, round(other_shown - shown, 12)), cost.currency, PER, 0)


@dataclass(frozen=True, slots=True)
class _Wording:
    """A leaderboard with its names."""

    board: PromptLeaderboard
    prompt: str
    labels: ColumnLabels

    def choice(self) -> tuple[list[Standing], Reason]:
        """The models to choose from, and why."""
        ranked = self.board.ranked
        if not ranked or self._is_mixed():
            return [], Reason.NOTHING
        if len(ranked) == 1:
            return [ranked[0]], Reason.ALONE
        substitute, tied = self._substitute(), self._tied()
        if substitute is not None:
            return [substitute], Reason.NO_WORSE
        return [ranked[0], *tied], Reason.NO_DIFFERENCE if tied else Reason.HIGHEST

    def sentence(self) -> str:
        """See `Decision`."""
        ranked = self.board.ranked
        if not ranked:
            return f"{self._for()} {self._no_scores()}."
        if self._is_mixed():
            return (
                f"{self._for()} some results are simulated and some are real, so that the models cannot be "
                "compared."
            )
        said = self._alone(ranked[0], ranked[0].scores) if len(ranked) == 1 else self._compared(ranked)
        return f"{self._for()} {said}.{' [SIMULATED]' if self._is_simulated() else ''}"

    def _compared(self, ranked: Sequence[Standing]) -> str:
        leader, second = ranked[0], ranked[1]
        substitute = self._substitute()
        if substitute is not None and substitute.difference is not None:
            return self._replaced(leader, substitute, substitute.difference)
        tied = {each.connection_id: each.difference for each in self._tied() if each.difference is not None}
        if tied:
            return self._not_separated(leader, tied)
        if leader.difference is None:
            return self._apart(leader, second)
        return self._leads(leader, second, leader.difference)

    def _leads(self, leader: Standing, second: Standing, difference: Difference) -> str:
        models = len(self.board.ranked)
        name, other = self.name(leader), self.name(second)
        lead = (
            f"{name} scores {much(difference)} {other}"
            if models == 2
            else f"{name} scores highest of {models:,} models, {much(difference)} the next, {other},"
        )
        return (
            f"{lead} {over_documents(difference.n)}{self._price(leader, second)}{self._open_margin()}"
            f"{self._failures()}"
        )

    def _not_separated(self, leader: Standing, tied: Mapping[int, Difference]) -> str:
        """A leader with the models that are tied with it, each with its difference to the leader."""
        known = {standing.connection_id: standing for standing in self.board.ranked}
        # The cheapest one is what a person would choose among equals.
        other = min((known[each] for each in tied), key=lambda standing: _per_document(standing, leader))
        named = _few([self.labels.connection(each) for each in (leader.connection_id, *tied)])
        models = [leader, *(known[each] for each in tied)]
        return (
            f"there is no clear winner {'between' if len(models) == 2 else 'among'} {named}: "
            f"{self._chance(leader, other, turned(tied[other.connection_id]))}"
            f"{self._lower(models)}{self._least(models, leader, other)}"
            f"{self._open_margin()}{self._failures()}"
        )

    def _chance(self, leader: Standing, other: Standing, difference: Difference) -> str:
        """A difference that may be chance, and which ones would not be."""
        documents = over_documents(difference.n)
        if points_text(difference.mean) in ("0", "-0"):
            lead = f"{self.name(leader)} and {self.name(other)} score the same on average {documents}"
        else:
            first, second = (leader, other) if difference.mean > 0 else (other, leader)
            may = "says nothing" if difference.n == 1 else "may be chance"
            lead = (
                f"the lead of {self.name(first)} over {self.name(second)}, {points(difference.mean)} "
                f"{documents}, {may}"
            )
        more = _more_documents(difference)
        if more is None:
            return lead
        documents = counted(more, "more document", "more documents")
        return f"{lead} (if it is real, about {documents} would show it)"

    def _lower(self, models: Sequence[Standing]) -> str:
        """The models that are clearly behind, as the end of a sentence."""
        lower = [each for each in self.board.ranked if each not in models]
        if not lower:
            return ""
        names = _few([self.labels.connection(each.connection_id) for each in lower])
        return f"; {names} {'scores' if len(lower) == 1 else 'score'} lower"

    def _least(self, models: Sequence[Standing], leader: Standing, other: Standing) -> str:
        """Which of several models costs least, as the end of a sentence."""
        unknown = [self.name(each) for each in models if each.usage.cost is None]
        if unknown:
            cost = "costs" if len(unknown) == 1 else "cost"
            who = "they" if len(unknown) == len(models) else listed(unknown[:NAMES_SHOWN])
            return f"; what {who} {cost} is unknown"
        cheapest = _cheapest(models)
        if cheapest is None or cheapest.usage.cost is None:
            return ""
        dearer = leader if cheapest is not leader else other
        if dearer.usage.cost is None:
            return ""
        least = "less" if len(models) == 2 else "least"
        return (
            f"; {self.name(cheapest)} costs {least}, {_amount(cheapest.usage.cost)} against "
            f"{_each(dearer.usage.cost)}" + ("" if len(models) == 2 else f" for {self.name(dearer)}")
        )

    def _replaced(self, leader: Standing, substitute: Standing, difference: Difference) -> str:
        name, other = self.name(substitute), self.name(leader)
        saved = saving(substitute.usage, leader.usage)
        saves = (
            ""
            if saved is None
            else f", which saves {money(saved.amount)} {shown_name(saved.currency)} per {PER:,} documents"
        )
        return (
            f"{name} is {Conclusion.NO_WORSE} than {other}{self._margin(substitute)}: it scores "
            f"{much(difference)} {other} {over_documents(difference.n)}{self._price(substitute, leader)}"
            f"{saves}{self._failures()}"
        )

    def _open_margin(self) -> str:
        """The cheapest model that may be no worse than the leader, as the end of a sentence."""
        leader = self.board.ranked[0]
        untold = [
            each
            for each in self.board.ranked[1:]
            if each.margin_test is not None
            and each.margin_test.conclusion is Conclusion.UNKNOWN
            and is_cheaper(each.usage, leader.usage)
        ]
        cheapest = min(untold, key=lambda each: _per_document(each, leader), default=None)
        if cheapest is None or cheapest.margin_test is None:
            return ""
        more = cheapest.margin_test.more_documents
        needed = (
            "" if more is None else f" (about {counted(more, 'more document', 'more documents')} would tell)"
        )
        return f"; whether {self.name(cheapest)} is no worse{self._margin(cheapest)} cannot be told{needed}"

    def _margin(self, standing: Standing) -> str:
        test = standing.margin_test
        return "" if test is None else f" within the margin of {points(test.margin)}"

    def _apart(self, leader: Standing, second: Standing) -> str:
        """Two models without a document that both scored."""
        first, other = (
            f"{self.name(each)} scores {score_text(each.scores.mean)} on "
            f"{counted(each.scores.n, 'document', 'documents')}"
            for each in (leader, second)
            if each.scores is not None
        )
        return (
            f"{first} and {other}, but no document was scored by both, so that they cannot be compared"
            f"{self._failures()}"
        )

    def _alone(self, leader: Standing, scores: Estimate | None) -> str:
        if scores is None:
            return self._no_scores()
        name = self.name(leader)
        interval = (
            ""
            if scores.low is None or scores.high is None
            else f" (95 % interval {score_text(scores.low)} to {score_text(scores.high)})"
        )
        is_alone = len(self.board.standings) == 1
        return (
            f"{name}{'' if is_alone else ', the only model with a score,'} scores "
            f"{score_text(scores.mean)} on average over "
            f"{counted(scores.n, 'document', 'documents')}{interval}, and costs "
            f"{_each(leader.usage.cost)}{self._failures()}"
        )

    def _no_scores(self) -> str:
        failed = sum(standing.failed for standing in self.board.standings)
        left = sum(standing.without_result for standing in self.board.standings)
        if failed and not left:
            return f"no model has a score: {counted(failed, 'evaluation', 'evaluations')} failed"
        return "no model has a score yet" if left else "no model has a score"

    def _price(self, first: Standing, second: Standing) -> str:
        return price_clause(first.usage, self.name(first), second.usage, self.name(second))

    def _failures(self) -> str:
        """The failures of all models, as the end of a sentence."""
        missing = [each for each in self.board.standings if each.failed or each.without_score]
        more = len(missing) - NAMES_SHOWN
        unit = "evaluation" if self.board.prompt_id is None else "document"
        return failure_clause([(self.name(each), each) for each in missing[:NAMES_SHOWN]], unit) + (
            f"; {more:,} more models have failures" if more > 0 else ""
        )

    def _substitute(self) -> Standing | None:
        """The cheapest model that is shown to be no worse than the leader."""
        leader = self.board.ranked[0]
        proven = [
            standing
            for standing in self.board.ranked[1:]
            if standing.margin_test is not None
            and standing.margin_test.conclusion is Conclusion.NO_WORSE
            and is_cheaper(standing.usage, leader.usage)
        ]
        return min(proven, key=lambda standing: _per_document(standing, leader), default=None)

    def _tied(self) -> list[Standing]:
        return [standing for standing in self.board.ranked[1:] if standing.tied]

    def _is_mixed(self) -> bool:
        kinds = {standing.simulated > 0 for standing in self.board.ranked}
        return len(kinds) > 1

    def _is_simulated(self) -> bool:
        return any(standing.simulated for standing in self.board.ranked)

    def _for(self) -> str:
        left = sum(standing.without_result for standing in self.board.standings)
        return f"{'So far, for' if left and self.board.ranked else 'For'} {self.prompt},"

    def name(self, standing: Standing) -> str:
        """The name of a model."""
        return shown_name(self.labels.connection(standing.connection_id))


def _per_document(standing: Standing, leader: Standing) -> float:
    """The cost of a document in the leader's currency; infinite if it is unknown."""
    cost, currency = standing.usage.cost, leader.usage.cost and leader.usage.cost.currency
    return float("inf") if cost is None or cost.currency != currency else cost.per_document


def _more_documents(difference: Difference) -> int | None:
    """How many more documents would show a difference of this size in 4 of 5 cases; None if unknown."""
    if difference.detectable is None or not difference.mean:
        return None
    needed = difference.n * (difference.detectable / difference.mean) ** 2
    return math.ceil(needed) - difference.n if difference.n < needed <= MOST_DOCUMENTS else None


def _cheapest(models: Sequence[Standing]) -> Standing | None:
    """The model with the lowest price; None if prices are unknown, equal or in several currencies."""
    costs = [standing.usage.cost for standing in models]
    if any(cost is None or cost.currency != costs[0].currency for cost in costs if costs[0] is not None):
        return None
    if costs[0] is None:
        return None
    ordered = sorted(models, key=lambda standing: _per_document(standing, models[0]))
    first, second = (_per_document(standing, models[0]) for standing in ordered[:2])
    return ordered[0] if first < second else None


def _each(cost: Cost | None) -> str:
    """What 1,000 documents cost; "an unknown amount" without a price."""
    if cost is None:
        return "an unknown amount"
    if cost.amount == 0:
        return "nothing"
    return f"{_amount(cost)} {shown_name(cost.currency)} per {PER:,} documents"


def _amount(cost: Cost) -> str:
    """The cost of 1,000 documents without its currency."""
    return money(cost.per_document * PER) if cost.amount else "nothing"


def _plain(value: float) -> str:
    text = points_text(value).removesuffix(".0")
    return "0" if text == "-0" else text.replace("-", "−")


def _two_digits(value: float) -> str:
    """A number of two significant digits, without decimals from 10."""
    return f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{float(f'{value:.2g}'):,.0f}"
