"""Prepares leaderboards and lists of low documents for the page: names, axes, prices and conclusions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Conclusion, MarginTest
from doceval_pipeline.domain.insights import BelowThreshold, Insights, PromptLeaderboard, Standing
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports import svg
from doceval_pipeline.reports.formatting import amount, counted, duration, money, score_text, short_points
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ColumnFigures
from doceval_pipeline.reports.phrases import PER, saving
from doceval_pipeline.reports.sanitize import visible_name

# Leaderboards that are open on the page; the others are folded.
BOARDS_SHOWN = 8
# Low documents of a prompt that are open on the page; the others are folded.
LOW_DOCUMENTS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A model in a leaderboard."""

    place: int | None
    """None without a score."""
    standing: Standing
    name: str
    against: str | None
    """The name of the connection that it is compared with."""
    cost: str
    """Of 1,000 evaluations, as the sentences of the verdict give it."""
    cost_notes: tuple[str, ...]
    """All evaluations together, and how many of them have an unknown cost."""
    missing: str
    """The evaluations that are not in the mean, by reason; empty without any."""
    margin: str
    """The conclusion on a cheaper or faster model; empty without one."""
    is_simulated: bool
    """Whether it needs a mark because only a part of the results is simulated."""


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard of a prompt, or the overall one."""

    prompt: str | None
    """None for the overall ranking."""
    note: str
    """How its means come about where that needs a word; empty otherwise."""
    rows: tuple[Row, ...]
    axis: svg.Axis
    leader: Standing | None
    """None with fewer than two models with a score."""


@dataclass(frozen=True, slots=True)
class Low:
    """The documents below the threshold of a prompt: connections in the order of the leaderboard."""

    prompt: str
    found: BelowThreshold
    connections: tuple[tuple[int, str, int], ...]
    """Connection, its name, and its documents below the threshold."""


def boards(
    insights: Insights, names: ColumnLabels, figures: Mapping[Column, ColumnFigures], *, is_mixed: bool
) -> list[Board]:
    """All leaderboards, the overall one first.

    Parameters
    ----------
    is_mixed
        Whether only a part of the results is simulated.
    """
    return [_board(board, names, figures, is_mixed=is_mixed) for board in insights.boards]


def has_one_model(leaderboards: Iterable[PromptLeaderboard]) -> bool:
    """Whether the leaderboards have the same single connection, so that there is nothing to rank."""
    return len({standing.connection_id for board in leaderboards for standing in board.standings}) == 1


def low_documents(insights: Insights, names: ColumnLabels) -> list[Low]:
    """The documents below a threshold, by prompt."""
    order = {
        board.prompt_id: [standing.connection_id for standing in board.ranked]
        for board in insights.leaderboards
    }
    found = []
    for below in insights.below_thresholds:
        counts = dict(below.by_connection)
        scored = {connection for low in below.lowest for connection, _ in low.scores}
        ranked = [c for c in order.get(below.prompt_id, ()) if c in counts or c in scored]
        others = sorted((counts.keys() | scored) - {*ranked})
        connections = tuple((c, names.connection(c), counts.get(c, 0)) for c in [*ranked, *others])
        found.append(Low(names.prompt(below.prompt_id), below, connections))
    return found


def _board(
    board: PromptLeaderboard,
    names: ColumnLabels,
    figures: Mapping[Column, ColumnFigures],
    *,
    is_mixed: bool,
) -> Board:
    ranked = board.ranked
    leader = ranked[0] if len(ranked) > 1 else None
    rows = []
    for place, standing in enumerate(board.standings, 1):
        of_prompt = (
            None if board.prompt_id is None else figures.get((standing.connection_id, board.prompt_id))
        )
        rows.append(_row(place, standing, leader, names, of_prompt, is_mixed=is_mixed))
    prompt = None if board.prompt_id is None else names.prompt(board.prompt_id)
    return Board(
        prompt, _note(board, names), tuple(rows), svg.score_axis(s.scores for s in board.standings), leader
    )


def _note(board: PromptLeaderboard, names: ColumnLabels) -> str:
    notes = []
    if board.prompt_id is None:
        parts = [
            f"{visible_name(names.prompt(prompt))} weighs {weight:g}" for prompt, weight in board.weights
        ]
        notes.append(f"weighted mean of each document: {', '.join(parts)}")
    if not board.is_same_documents and len(board.ranked) > 1:
        notes.append("not all scored the same documents, so that differences and means need not agree")
    return "; ".join(notes)


def _row(
    place: int,
    standing: Standing,
    leader: Standing | None,
    names: ColumnLabels,
    figures: ColumnFigures | None,
    *,
    is_mixed: bool,
) -> Row:
    is_reused = figures is not None and figures.sums.reused > 0
    cost, cost_notes = _costs(standing.usage, is_reused=is_reused)
    return Row(
        place=place if standing.scores else None,
        standing=standing,
        name=names.connection(standing.connection_id),
        against=None if standing.against is None else names.connection(standing.against),
        cost=cost,
        cost_notes=cost_notes,
        missing=_missing(standing),
        margin="" if standing.margin_test is None else _margin(standing.margin_test, standing, leader),
        is_simulated=is_mixed and figures is not None and figures.sums.simulated > 0,
    )


def _missing(standing: Standing) -> str:
    parts = (
        (standing.failed, "failed"),
        (standing.without_score, "without a score"),
        (standing.without_result, "without a result"),
    )
    return ", ".join(f"{amount(count)} {word}" for count, word in parts if count)


def _costs(usage: ColumnUsage, *, is_reused: bool) -> tuple[str, tuple[str, ...]]:
    """The cost of 1,000 evaluations, and notes on the cost of all."""
    if not usage.cells and is_reused:
        return "0", ("all reused",)
    cost = usage.cost
    if cost is None or not cost.cells:
        return "unknown", ()
    unpriced = (f"unknown for {amount(cost.unpriced)}",) if cost.unpriced else ()
    if not cost.amount:
        return "free", unpriced
    return _money(cost.per_document * PER, cost), (f"{_money(cost.amount, cost)} in all", *unpriced)


def _money(value: float, cost: Cost) -> str:
    return f"{money(value)} {visible_name(cost.currency)}"


def _margin(test: MarginTest, standing: Standing, leader: Standing | None) -> str:
    """The conclusion, and what choosing this model instead of the leader saves."""
    words = f"{test.conclusion} (margin {short_points(test.margin)})"
    if test.conclusion is Conclusion.UNKNOWN and test.more_documents is not None:
        more = counted(test.more_documents, "more document", "more documents")
        words += f": about {more} would settle it"
    gains = [] if leader is None else [*_gains(standing.usage, leader.usage)]
    return words if not gains else f"{words}; {' and '.join(gains)}"


def _gains(usage: ColumnUsage, leader: ColumnUsage) -> Iterable[str]:
    saved = saving(usage, leader)
    if saved is not None:
        yield f"saves {_money(saved.amount, saved)} per {PER:,} documents"
    if usage.seconds and leader.seconds and usage.is_faster(leader):
        yield f"takes {duration(usage.seconds.p50)} instead of {duration(leader.seconds.p50)}"


def shared_axis(shown: Sequence[Board]) -> svg.Axis:
    """One axis for all leaderboards of a single model."""
    return svg.score_axis(row.standing.scores for board in shown for row in board.rows)


def crossing(score: float, threshold: float) -> str:
    """A score beside a threshold, with as many decimals as show on which side it is."""
    shown = score_text(score)
    return shown if (float(shown) < threshold) == (score < threshold) else f"{score:.6g}"
