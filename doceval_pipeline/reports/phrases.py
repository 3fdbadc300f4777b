"""The phrases that sentences on models share: names, differences, prices and failures.

Names in them are visible and cut, and are not escaped.
"""

from collections.abc import Sequence

from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.domain.insights import Standing
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports.formatting import counted, money, points_text, probability_text, short_points
from doceval_pipeline.reports.sanitize import cut, visible_name

NAME_CHARACTERS = 80
NAMES_SHOWN = 5
# Prices of single documents are too small to read.
PER = 1_000
# Larger ratios come from prices that somebody made up.
FURTHEST_RATIO = 1_000_000_000
GENEROUS = (
    "Scores are the models' own opinions: a model that scores higher may only be more generous. Only scores "
    "by people (reference scores) can show which model is right, and there are none."
)
QUESTIONS = (
    "Prompts ask different questions: the one with the higher scores is not the better one, only another "
    "question."
)
_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth", 20: "a twentieth"}


def shown_name(name: str) -> str:
    """A name in a sentence."""
    return cut(visible_name(name), NAME_CHARACTERS) or "(no name)"


def few(names: Sequence[str]) -> str:
    """The first of many names."""
    more = [f"{len(names) - NAMES_SHOWN:,} more"] if len(names) > NAMES_SHOWN else []
    return listed([*map(shown_name, names[:NAMES_SHOWN]), *more])


def listed(texts: Sequence[str]) -> str:
    """Texts in one phrase: "a", "a and b", "a, b and c"."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def points(difference: float) -> str:
    """The size of a difference with its unit: "6 points", "1 point"."""
    size = short_points(abs(difference))
    return f"{size} point" if size == "1" else f"{size} points"


def is_nothing(difference: float) -> bool:
    """Whether a difference is too small to be written."""
    return points_text(difference) == "0"


def much(difference: Difference) -> str:
    """By how much the first of two models scores higher or lower: "6 points higher than"."""
    if is_nothing(difference.mean):
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


def over_documents(number: int, scored: str = "both scored", *, each: bool = False) -> str:
    """On which documents two models are compared: "on the 12 documents both scored".

    Parameters
    ----------
    scored
        What these documents have in common.
    each
        Say "on each of" several.
    """
    if number == 1:
        return f"on the only document {scored}"
    return f"on {'each of ' if each else ''}the {number:,} documents {scored}"


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
        return f"; what {unknown} costs is unknown, and {priced} costs {price_text(known)}"
    if cost.amount == other_cost.amount == 0:
        return "; both are free"
    if cost.currency != other_cost.currency:
        return f", and costs {price_text(cost)}, against {price_text(other_cost)}"
    if cost.amount == 0:
        return f", and is free, against {price_text(other_cost)}"
    if other_cost.amount == 0:
        return f", and costs {price_text(cost)}, while {other_name} is free"
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


def price_text(cost: Cost | None) -> str:
    """What 1,000 documents cost; "an unknown amount" without a price."""
    if cost is None:
        return "an unknown amount"
    if cost.amount == 0:
        return "nothing"
    return f"{amount_text(cost)} {shown_name(cost.currency)} per {PER:,} documents"


def amount_text(cost: Cost) -> str:
    """The cost of 1,000 documents without its currency."""
    return money(cost.per_document * PER) if cost.amount else "nothing"


def saving(cheaper: ColumnUsage, other: ColumnUsage) -> Cost | None:
    """What the choice of a cheaper model saves per 1,000 documents; None if it is unknown or not cheaper.

    The difference of the two prices as they are shown, so that readers who subtract them get the same.
    """
    cost, other_cost = cheaper.cost, other.cost
    if cost is None or other_cost is None or not cheaper.is_cheaper(other):
        return None
    shown, other_shown = (
        float(money(each.per_document * PER).replace(",", "")) for each in (cost, other_cost)
    )
    return Cost(max(0.0, round(other_shown - shown, 12)), cost.currency, PER, 0)


def _plain(value: float) -> str:
    return short_points(value).replace("-", "−")


def _two_digits(value: float) -> str:
    """A number of two significant digits, without decimals from 10."""
    return f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{float(f'{value:.2g}'):,.0f}"
