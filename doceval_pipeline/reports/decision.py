"""Words what a leaderboard decides: which model, for which question, by how much and at what price.

A sentence holds only figures of the leaderboard. Names in it are visible and cut, and are not escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from doceval_pipeline.domain.findings import Conclusion, Difference, Estimate, least_for_difference
from doceval_pipeline.domain.insights import PromptLeaderboard, Standing
from doceval_pipeline.reports.formatting import counted, interval_text, money, score_text
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportFigures
from doceval_pipeline.reports.phrases import (
    NAMES_SHOWN,
    PER,
    amount_text,
    failure_clause,
    few,
    is_nothing,
    listed,
    much,
    over_documents,
    points,
    price_clause,
    price_text,
    saving,
    shown_name,
)

# More documents are not a practical way to settle a comparison.
MOST_DOCUMENTS = 10_000


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
    labels = ColumnLabels.of(figures)
    return [decide(board, labels) for board in figures.insights.boards]


def decide(board: PromptLeaderboard, labels: ColumnLabels, unit: str | None = None) -> Decision:
    """What a leaderboard decides, in one sentence.

    Parameters
    ----------
    unit
        What its failures count; None for documents of a prompt, and evaluations of all prompts.
    """
    default = "evaluation" if board.prompt_id is None else "document"
    wording = _Wording(board, prompt_name(board, labels), labels, unit or default)
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
    who = few(connections)
    asked = f"{who} was" if len(connections) == 1 else f"{len(connections):,} {many} ({who}) were"
    questions = "1 question (prompt)" if len(prompts) == 1 else f"{len(prompts):,} questions (prompts)"
    documents = counted(figures.contents, "document", "documents")
    return f"{asked} asked to score {documents} from 0 to 100 on {questions}: {few(prompts)}."


def prompt_name(board: PromptLeaderboard, labels: ColumnLabels) -> str:
    """The name of a leaderboard's prompt, or of all prompts with a weight; visible and cut."""
    if board.prompt_id is not None:
        return shown_name(labels.prompt(board.prompt_id))
    weights = [f"{shown_name(labels.prompt(prompt))} weighs {weight:g}" for prompt, weight in board.weights]
    more = [f"{len(weights) - NAMES_SHOWN:,} more"] if len(weights) > NAMES_SHOWN else []
    return f"all prompts together ({', '.join([*weights[:NAMES_SHOWN], *more])})"


@dataclass(frozen=True, slots=True)
class _Wording:
    """A leaderboard with its names."""

    board: PromptLeaderboard
    prompt: str
    labels: ColumnLabels
    unit: str
    """What failures count."""

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
        named = few([self.labels.connection(each) for each in (leader.connection_id, *tied)])
        models = [leader, *(known[each] for each in tied)]
        return (
            f"there is no clear winner {'between' if len(models) == 2 else 'among'} {named}: "
            f"{self._chance(leader, other, tied[other.connection_id].turned())}"
            f"{self._lower(models)}{self._least(models, leader, other)}"
            f"{self._open_margin()}{self._failures()}"
        )

    def _chance(self, leader: Standing, other: Standing, difference: Difference) -> str:
        """A difference that may be chance, and which ones would not be."""
        documents = over_documents(difference.n)
        if is_nothing(difference.mean):
            lead = f"{self.name(leader)} and {self.name(other)} score the same on average {documents}"
        else:
            first, second = (leader, other) if difference.mean > 0 else (other, leader)
            may = "says nothing" if difference.n == 1 else "may be chance"
            lead = (
                f"the lead of {self.name(first)} over {self.name(second)}, {points(difference.mean)} "
                f"{documents}, {may}"
            )
        more = _more_documents(difference, len(self.board.ranked) - 1)
        if more is None:
            return lead
        documents = counted(more, "more document", "more documents")
        return f"{lead} (if it is real, about {documents} would show it)"

    def _lower(self, models: Sequence[Standing]) -> str:
        """The models that are clearly behind, as the end of a sentence."""
        lower = [each for each in self.board.ranked if each not in models]
        if not lower:
            return ""
        names = few([self.labels.connection(each.connection_id) for each in lower])
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
            f"; {self.name(cheapest)} costs {least}, {amount_text(cheapest.usage.cost)} against "
            f"{price_text(dearer.usage.cost)}" + ("" if len(models) == 2 else f" for {self.name(dearer)}")
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
        cheapest = self._cheapest_with(Conclusion.UNKNOWN)
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
            "" if scores.low is None or scores.high is None else f" (95 % interval {interval_text(scores)})"
        )
        is_alone = len(self.board.standings) == 1
        return (
            f"{name}{'' if is_alone else ', the only model with a score,'} scores "
            f"{score_text(scores.mean)} on average over "
            f"{counted(scores.n, 'document', 'documents')}{interval}, and costs "
            f"{price_text(leader.usage.cost)}{self._failures()}"
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
        return failure_clause([(self.name(each), each) for each in missing[:NAMES_SHOWN]], self.unit) + (
            f"; {more:,} more models have failures" if more > 0 else ""
        )

    def _substitute(self) -> Standing | None:
        """The cheapest model that is shown to be no worse than the leader."""
        return self._cheapest_with(Conclusion.NO_WORSE)

    def _cheapest_with(self, conclusion: Conclusion) -> Standing | None:
        """The cheapest of the models that cost less than the leader and for which the margin shows this."""
        leader = self.board.ranked[0]
        found = [
            standing
            for standing in self.board.ranked[1:]
            if standing.margin_test is not None
            and standing.margin_test.conclusion is conclusion
            and standing.usage.is_cheaper(leader.usage)
        ]
        return min(found, key=lambda standing: _per_document(standing, leader), default=None)

    def _tied(self) -> list[Standing]:
        return [standing for standing in self.board.ranked[1:] if standing.tied]

    def _is_mixed(self) -> bool:
        """Whether real results stand beside simulated ones, of another model or of the same."""
        kinds = {standing.simulated > 0 for standing in self.board.ranked}
        return len(kinds) > 1 or any(0 < each.simulated < each.finished for each in self.board.ranked)

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


def _more_documents(difference: Difference, comparisons: int) -> int | None:
    """How many more documents would show a difference of this size in 4 of 5 cases; None if unknown.

    At least as many as a signed-rank test with Holm's correction needs if every document agrees.
    """
    if difference.detectable is None or not difference.mean:
        return None
    needed = difference.n * (difference.detectable / difference.mean) ** 2
    needed = max(math.ceil(needed), least_for_difference(comparisons))
    return needed - difference.n if difference.n < needed <= MOST_DOCUMENTS else None


def _cheapest(models: Sequence[Standing]) -> Standing | None:
    """The model with the lowest price; None if prices are unknown, equal or in several currencies."""
    costs = [standing.usage.cost for standing in models if standing.usage.cost is not None]
    if len(costs) < len(models) or len({cost.currency for cost in costs}) > 1:
        return None
    ordered = sorted(models, key=lambda standing: _per_document(standing, models[0]))
    first, second = (_per_document(standing, models[0]) for standing in ordered[:2])
    return ordered[0] if first < second else None
