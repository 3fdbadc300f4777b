"""Words how two sides differ in one column, in one sentence: by how much, at what price, and what is missing.

Two models or prompts are worded as a choice: the one with the higher mean comes first. Two batches are worded
in time, from the first to the second. A sentence holds only figures of the comparison; names in it are
visible and cut, and are not escaped.
"""

from dataclasses import dataclass, field

from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.domain.score_changes import Dimension, ScoreChanges
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports.formatting import counted, money
from doceval_pipeline.reports.phrases import (
    PER,
    evidence,
    is_nothing,
    listed,
    over_documents,
    points,
    price_clause,
    relative_price,
    shown_name,
)

_IN_TIME = "scored in both"


@dataclass(frozen=True, slots=True)
class SideUsage:
    """What a side used in a column: all its evaluations, whether they are compared or not."""

    usage: ColumnUsage = field(default_factory=ColumnUsage)
    failed: int = 0
    reused: int = 0
    """Results that are reused, and therefore used nothing."""

    @property
    def is_all_reused(self) -> bool:
        """Whether every finished evaluation is reused, so that no price is known and none was paid."""
        return self.reused > 0 and not self.usage.cells


@dataclass(frozen=True, slots=True)
class WordedSide:
    """One of the two sides in one column."""

    name: str
    """Of the model, the prompt or the batch."""
    cells: ScoreStateCounts
    """Of the documents that both sides have."""
    usage: SideUsage
    other_documents: int = 0
    """Documents of its batch that the other side does not have; its price is over them, too."""


@dataclass(frozen=True, slots=True)
class WordedColumn:
    """Two sides in one column, and the names of the column, None for the dimension in which they differ."""

    dimension: Dimension
    connection: str | None
    prompt: str | None
    first: WordedSide
    second: WordedSide
    changes: ScoreChanges | None
    """None if no document has a score on both sides."""

    def sentence(self) -> str:
        """How the two sides differ."""
        if self.dimension is Dimension.TIME:
            return f"{self._scope()} {_in_time(self)}{_missing(self)}."
        return f"{self._scope()} {_as_choice(self)}{_missing(self)}."

    def _scope(self) -> str:
        if self.prompt is not None:
            return f"For {shown_name(self.prompt)},"
        return f"With {shown_name(self.connection or '')},"


def cost_text(usage: SideUsage) -> str:
    """The cost of a side in a column, with its currency."""
    if usage.is_all_reused:
        return "nothing: all reused"
    cost = usage.usage.cost
    if cost is None:
        return "unknown"
    if not cost.unpriced:
        return _money(cost, cost.amount)
    evaluations = counted(cost.unpriced, "evaluation", "evaluations")
    return f"{_money(cost, cost.amount)} and {evaluations} at an unknown price"


def rate_text(usage: SideUsage) -> str:
    """The cost of `PER` documents of a side, with its currency."""
    cost = usage.usage.cost
    if usage.is_all_reused:
        return "–"
    return "unknown" if cost is None else _rate(cost)


def usage_texts(used: SideUsage) -> tuple[str, ...]:
    """Cost, cost per document, median seconds, and input and output tokens of a side in a column."""
    usage = used.usage
    tokens = [
        "–" if used.is_all_reused else "unknown" if total is None else f"{total.value:,.0f}"
        for total in (usage.input_tokens, usage.output_tokens)
    ]
    seconds = "unknown" if usage.seconds is None else f"{usage.seconds.p50:,.3g}"
    return (
        cost_text(used),
        rate_text(used),
        "–" if used.is_all_reused else seconds,
        *tokens,
    )


def _money(cost: Cost, amount: float) -> str:
    return "free" if cost.amount == 0 else f"{money(amount)} {shown_name(cost.currency)}"


def _rate(cost: Cost) -> str:
    return _money(cost, cost.per_document * PER)


def _as_choice(column: WordedColumn) -> str:
    """Two models or prompts: the higher one first, then what it costs."""
    changes, sides = column.changes, (column.first, column.second)
    if changes is None:
        return f"{_not_comparable(column)}{_price_sentence(*sides)}"
    difference = changes.difference
    if changes.rose == changes.fell == 0:
        over = over_documents(difference.n, each=True)
        return f"{_names(*sides)} score the same {over}{_price_sentence(*sides)}"
    # The difference is that of the second side against the first.
    lead, higher, lower = difference, column.second, column.first
    if difference.mean < 0:
        lead, higher, lower = difference.turned(), column.first, column.second
    if is_nothing(lead.mean):
        said = (
            f"there is no clear winner between {_names(*sides)}: they are the same on average "
            f"{over_documents(lead.n)}{evidence(lead)}{_price_sentence(*sides)}"
        )
        return f"{said}{_power(lead, 'difference')}"
    leads = (
        f"{shown_name(higher.name)} scores {points(lead.mean)} higher than {shown_name(lower.name)} "
        f"{over_documents(lead.n)}{evidence(lead)}{_price(higher, lower)}"
    )
    if lead.told_apart:
        return leads
    return f"there is no clear winner between {_names(*sides)}: {leads}{_power(lead, 'difference')}"


def _in_time(column: WordedColumn) -> str:
    """Two batches: how the scores changed from the first to the second, then what each cost."""
    changes, first, second = column.changes, column.first, column.second
    model = shown_name(column.connection or "")
    price = _price_in_time(first, second)
    if changes is None:
        return f"{_not_comparable(column)}{price}"
    between = f"from {shown_name(first.name)} to {shown_name(second.name)}"
    change = changes.difference
    if changes.rose == changes.fell == 0:
        over = over_documents(change.n, _IN_TIME, each=True)
        return f"the scores of {model} stayed the same {between} {over}{price}"
    size = change.turned() if change.mean < 0 else change
    verb = "fell" if change.mean < 0 else "rose"
    moved = "are the same on average" if is_nothing(size.mean) else f"{verb} by {points(size.mean)}"
    over = f"{over_documents(change.n, _IN_TIME)}{evidence(size)}{price}"
    if change.told_apart and not is_nothing(size.mean):
        return f"the scores of {model} {moved} {between} {over}"
    not_shown = f"no change of the scores of {model} is shown {between}"
    return f"{not_shown}: they {moved} {over}{_power(change, 'change')}"


def _names(*sides: WordedSide) -> str:
    return listed([shown_name(side.name) for side in sides])


def _power(difference: Difference, what: str) -> str:
    """What the comparison of two that are not told apart could have shown."""
    if difference.n == 1:
        return f"; one document is too few to show a {what}"
    if difference.p is None:
        return f"; they are versions or copies of one document, which is too few to show a {what}"
    if difference.detectable is not None and is_nothing(difference.detectable):
        return ""
    if difference.detectable is None:
        return f"; so few documents cannot show a {what}"
    true = f"a true {what} of {points(difference.detectable)}"
    return f"; with as many documents, {true} shows in 4 of 5 cases"


def _not_comparable(column: WordedColumn) -> str:
    """Why no document has a score on both sides."""
    sides = (column.first, column.second)
    named = _names(*sides)
    without = [side for side in sides if not side.cells.scored]
    if column.dimension is Dimension.TIME:
        named = f"{shown_name(column.connection or '')} in {named}"
    if column.first.cells.same_results and len(without) == 2:
        return f"the results of {named} are the same reused results, which are not compared"
    if len(without) == 1:
        return f"the scores of {named} cannot be compared: {_where(column, without[0])} has no score"
    why = "neither has a score" if without else "no document has a score on both sides"
    return f"the scores of {named} cannot be compared: {why}"


def _where(column: WordedColumn, side: WordedSide) -> str:
    name = shown_name(side.name)
    return name if column.dimension is not Dimension.TIME else f"the batch {name}"


def _price(side: WordedSide, other: WordedSide) -> str:
    """What a side costs compared with the other, as the end of a sentence about it."""
    reused = [each for each in (side, other) if each.usage.is_all_reused]
    if reused:
        return f"; {_reused(reused)}"
    cost, other_cost = side.usage.usage.cost, other.usage.usage.cost
    if cost and other_cost and cost.amount and _rate(cost) == _rate(other_cost):
        return f"; both cost {_rate(cost)} per {PER:,} documents"
    return price_clause(side.usage.usage, shown_name(side.name), other.usage.usage, shown_name(other.name))


def _price_sentence(side: WordedSide, other: WordedSide) -> str:
    """The same as a part of the sentence that does not need its subject."""
    said = _price(side, other)
    return f"; {shown_name(side.name)}{said.removeprefix(', and')}" if said.startswith(", and ") else said


def _reused(sides: list[WordedSide]) -> str:
    return f"all results of {_names(*sides)} are reused and cost nothing in this batch"


def _price_in_time(first: WordedSide, second: WordedSide) -> str:
    """What documents cost in the first batch, and in the second."""
    reused = [each for each in (first, second) if each.usage.is_all_reused]
    if reused:
        return f"; all results in {_names(*reused)} are reused and cost nothing there"
    before, after = first.usage.usage.cost, second.usage.usage.cost
    if before is None or after is None:
        return _unknown_in_time(first, second)
    if before.amount == after.amount == 0:
        return "; both are free"
    then, now = _rate(before), _rate(after)
    if before.currency != after.currency:
        return (
            f"; {PER:,} documents cost {then} in {shown_name(first.name)} and {now} in "
            f"{shown_name(second.name)}"
        )
    if not before.amount or not after.amount:
        verb = "fell" if before.amount else "rose"
        return f"; the cost of {PER:,} documents {verb} from {then} to {now}"
    if first.other_documents or second.other_documents:
        return f"; {PER:,} documents cost {then}, then {now}, each over all documents of its batch"
    ratio = after.per_document / before.per_document
    if 0.95 <= ratio <= 1.05:
        return f"; {PER:,} documents cost about the same ({then}, then {now})"
    verb = "rose" if ratio > 1 else "fell"
    return f"; the cost of {PER:,} documents {verb} from {then} to {now}, {relative_price(ratio)}"


def _unknown_in_time(first: WordedSide, second: WordedSide) -> str:
    before, after = first.usage.usage.cost, second.usage.usage.cost
    known = before or after
    if known is None:
        return "; what they cost is unknown"
    missing, priced = (first, second) if before is None else (second, first)
    cost = "is free" if known.amount == 0 else f"costs {_rate(known)} per {PER:,} documents"
    return f"; what {shown_name(missing.name)} costs is unknown, and {shown_name(priced.name)} {cost}"


def _missing(column: WordedColumn) -> str:
    """On how many documents each side has no score, and why."""
    parts = [part for side in (column.first, column.second) if (part := _missing_of(column, side))]
    return f"; {'; '.join(parts)}" if parts else ""


def _missing_of(column: WordedColumn, side: WordedSide) -> str:
    cells, name = side.cells, shown_name(side.name)
    named = [
        text
        for count, text in (
            (cells.failed, f"failed on {_documents(cells.failed)}"),
            (cells.without_score, f"gave no score for {_documents(cells.without_score)}"),
            (cells.open, f"has not finished {_documents(cells.open)}"),
            (cells.absent, f"has no evaluation of {_documents(cells.absent)}"),
        )
        if count
    ]
    if not named:
        return ""
    if column.dimension is Dimension.CONNECTION:
        return f"{name} {listed(named)}"
    where = "with" if column.dimension is Dimension.PROMPT else "in"
    return f"{shown_name(column.connection or '')} {listed(named)} {where} {name}"


def _documents(number: int) -> str:
    return counted(number, "document", "documents")
