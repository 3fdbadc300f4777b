"""The leaderboard over all completed batches: one board per prompt, real and simulated results apart.

Renders it for Dagster's UI and for programs. As in `markdown`, the only foreign texts are names and
currencies, shown as plain text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.insights import PromptLeaderboard, Standing
from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.domain.usage import ColumnUsage, Cost
from doceval_pipeline.reports.decision import decide
from doceval_pipeline.reports.formatting import (
    amount,
    counted,
    duration,
    interval_text,
    money,
    probability_text,
    score_text,
    short_points,
)
from doceval_pipeline.reports.labels import ColumnLabels
from doceval_pipeline.reports.model import ReportColumn
from doceval_pipeline.reports.phrases import GENEROUS, PER, much, over_documents, shown_name
from doceval_pipeline.reports.sanitize import markdown_name

BOARDS_IN_DAGSTER = 12
ROWS_IN_DAGSTER = 25
# Mean scores of so many models and prompts are numbers that Dagster plots.
MEANS_IN_DAGSTER = 50
SENTENCE_CHARACTERS = 2_000
SIMULATED = "SIMULATED"
NO_COMMON_DOCUMENT = "no document in common with the leader"


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All boards, and how many batches are in them."""

    boards: Sequence[Board]
    """Boards of real results first, then in the order of their prompts' names."""
    batches: int
    batches_left_out: int
    """Open, cancelled or archived batches."""
    digest: str
    """The same for the same results."""
    word: str = "connection"
    """What people call a connection: "model" if no two connections reach the same one."""

    @property
    def rows(self) -> Sequence[LeaderboardRow]:
        """The rows of all boards."""
        return [row for board in self.boards for row in board.rows]

    @property
    def simulated(self) -> int:
        """The number of simulated evaluations."""
        return sum(row.simulated for row in self.rows)

    @property
    def notes(self) -> Sequence[str]:
        """What a reader must know, as sentences without names."""
        word, both = self.word, self.simulated and any(not board.is_simulated for board in self.boards)
        notes = [
            f"Each prompt has a board of its own, with {word}s ordered by mean score. Means may cover "
            "different documents: to compare, read the difference, which covers only the documents that "
            f"both {word}s scored. Each p is corrected for all comparisons of this leaderboard. Versions and "
            "copies of a document count as one in intervals and p.",
            "A connection or a prompt that was edited between batches is one row. Costs are those of each "
            "batch's prices at its completion.",
        ]
        if both:
            notes.append(
                f"Real and simulated results are never on one board: a {word} with both is on two boards."
            )
        if repeated := sum(row.repeated for row in self.rows):
            one = "reused result repeats a result counted here and is"
            many = "reused results repeat results counted here and are"
            notes.append(f"{counted(repeated, one, many)} not counted again.")
        return notes


def board_sentence(board: Board) -> str:
    """What a board decides, in one sentence; names in it are visible and not escaped."""
    names = ColumnLabels(
        [ReportColumn(row.connection_id, row.connection, row.prompt_id, row.prompt) for row in board.rows]
    )
    better = [row for row in board.ranked[1:] if row.difference is not None and _is_higher(row.difference)]
    if better:
        best = max(better, key=lambda row: 0.0 if row.difference is None else row.difference.mean)
        return _contradiction(board, best)
    standings = [_standing(row) for row in board.rows]
    return decide(PromptLeaderboard(board.prompt_id, standings), names, unit="evaluation").sentence


def render_leaderboard(board: Leaderboard) -> str:
    """All boards as tables in markdown."""
    left_out = f"; {amount(board.batches_left_out)} left out (open, cancelled or archived)"
    lines = [f"**{counted(board.batches, 'batch', 'batches')}**{left_out}.", ""]
    if not board.boards:
        return "\n".join([*lines, "No batch is completed yet."]) + "\n"
    for each in board.boards[:BOARDS_IN_DAGSTER]:
        lines += [*_board_lines(each, board.word), ""]
    if len(board.boards) > BOARDS_IN_DAGSTER:
        hidden = counted(len(board.boards) - BOARDS_IN_DAGSTER, "more board is", "more boards are")
        lines += [f"{hidden} not shown here; the page has them.", ""]
    for note in (*board.notes, GENEROUS):
        lines += [note, ""]
    return "\n".join(lines)


def leaderboard_numbers(board: Leaderboard) -> dict[str, int | float]:
    """Numbers under stable names, which Dagster plots over time; figures without any value are absent.

    `mean_score` is the mean of all scores, for programs that read it. The mean of a row has its ids in its
    name: `mean_score_prompt_3_connection_7`, with `_simulated` at the end for simulated results.
    """
    rows = board.rows
    scored = [(row, row.scores) for row in rows if row.scores is not None]
    numbers: dict[str, int | float] = {
        "batches": board.batches,
        "batches_left_out": board.batches_left_out,
        "boards": len(board.boards),
        "rows": len(rows),
        "cells": sum(row.cells for row in rows),
        "cells_succeeded": sum(row.succeeded for row in rows),
        "cells_failed": sum(row.failed for row in rows),
        "cells_scored": sum(scores.n for _, scores in scored),
        "cells_simulated": board.simulated,
        "cells_reused": sum(row.repeated for row in rows),
    }
    if scored:
        numbers["mean_score"] = sum(scores.mean * scores.n for _, scores in scored) / numbers["cells_scored"]
    for row, scores in scored[:MEANS_IN_DAGSTER]:
        kind = "_simulated" if row.is_simulated else ""
        numbers[f"mean_score_prompt_{row.prompt_id}_connection_{row.connection_id}{kind}"] = scores.mean
    return numbers


def leaderboard_data(board: Leaderboard) -> dict[str, Any]:
    """The leaderboard for programs."""
    return {
        "version": 1,
        "batches": board.batches,
        "batches_left_out": board.batches_left_out,
        "boards": [
            {
                "prompt": each.prompt,
                "prompt_id": each.prompt_id,
                "simulated": each.is_simulated,
                "sentence": board_sentence(each),
                "rows": [_row_data(each, place, row) for place, row in enumerate(each.rows, start=1)],
            }
            for each in board.boards
        ],
    }


def difference_text(row: LeaderboardRow) -> str:
    """How much higher a row scores than the one it is compared with, without its name; a dash without any."""
    if row.difference is None:
        return NO_COMMON_DOCUMENT if row.is_apart else "–"
    return in_figures(row.difference)


def in_figures(difference: Difference) -> str:
    """A difference with its interval and p: "+6 (+2 to +10), p = 0.001"."""
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" ({_signed(difference.low)} to {_signed(difference.high)})"
    p = "" if difference.p is None else f", p {probability_text(difference.p)}"
    return f"{_signed(difference.mean)}{interval}{p}"


def cost_text(costs: Sequence[Cost]) -> str:
    """An amount in each currency; "unknown" without a price. Currencies are foreign."""
    if not costs:
        return "unknown"
    texts = ["free" if cost.amount == 0 else f"{money(cost.amount)} {cost.currency}" for cost in costs]
    unpriced = costs[0].unpriced
    return f"{', '.join(texts)}{f' and {amount(unpriced)} without a price' if unpriced else ''}"


def cost_per_text(costs: Sequence[Cost]) -> str:
    """What `PER` documents cost; amounts of several currencies are not added."""
    if not costs:
        return "unknown"
    if len(costs) > 1:
        return "two currencies" if len(costs) == 2 else f"{len(costs)} currencies"
    (cost,) = costs
    return "free" if cost.amount == 0 else f"{money(cost.per_document * PER)} {cost.currency}"


def _signed(points: float) -> str:
    """A difference as `short_points` writes it, with its sign."""
    text = short_points(abs(points))
    return text if text == "0" else f"{'+' if points > 0 else '−'}{text}"


def _is_higher(difference: Difference) -> bool:
    """Whether a row scores significantly higher than the leader, whose mean covers other documents."""
    return difference.told_apart and difference.mean > 0


def _contradiction(board: Board, better: LeaderboardRow) -> str:
    """A leader that has the highest mean and scores lower on the same documents."""
    difference = better.difference
    if difference is None:
        raise ValueError("a row that scores higher has a difference")
    leader, other = shown_name(board.rows[0].connection), shown_name(better.connection)
    return (
        f"For {shown_name(board.prompt)}, {leader} has the highest mean, but {other} scores "
        f"{much(difference)} {leader} {over_documents(difference.n)}: the means cover "
        f"different documents.{f' [{SIMULATED}]' if board.is_simulated else ''}"
    )


def _standing(row: LeaderboardRow) -> Standing:
    """A row as a standing, with documents where sentences count documents."""
    cost: Cost | None = row.costs[0] if len(row.costs) == 1 else None
    return Standing(
        connection_id=row.connection_id,
        scores=_of_documents(row),
        against=row.against,
        difference=row.difference,
        tied=row.is_tied,
        failed=row.failed,
        without_score=row.succeeded - row.scored,
        without_result=0,
        simulated=row.simulated,
        usage=ColumnUsage(cells=sum(own.cells for _, own in row.usage), cost=cost),
    )


def _of_documents(row: LeaderboardRow) -> Estimate | None:
    """The mean of a row with the number of its documents, which may have several scores."""
    return None if row.scores is None else replace(row.scores, n=row.scored_documents)


def _board_lines(board: Board, word: str) -> list[str]:
    tag = f" · **{SIMULATED}: no LLM was called**" if board.is_simulated else ""
    lines = [
        f"### {markdown_name(board.prompt)}{tag}",
        "",
        markdown_name(board_sentence(board), SENTENCE_CHARACTERS),
        "",
        f"| | {word} | mean score | 95 % interval | scored | difference (95 % interval) | against "
        f"| documents in common | failed | cost | cost per {PER:,} documents | p50 time | input tokens "
        "| output tokens | documents | batches |",
        "|---:|---|---:|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(board, place, row) for place, row in enumerate(board.rows[:ROWS_IN_DAGSTER], start=1)]
    if len(board.rows) > ROWS_IN_DAGSTER:
        hidden = counted(len(board.rows) - ROWS_IN_DAGSTER, "more row is", "more rows are")
        lines += ["", f"{hidden} not shown here; the page has them."]
    return lines


def _row(board: Board, place: int, row: LeaderboardRow) -> str:
    values = (
        str(place),
        markdown_name(row.connection),
        "–" if row.scores is None else score_text(row.scores.mean),
        interval_text(row.scores),
        f"{amount(row.scored)} of {amount(row.cells)}",
        f"{difference_text(row)}{', no clear winner' if row.is_tied else ''}",
        "–" if row.against is None else markdown_name(board.row_of(row.against).connection),
        "–" if row.against is None else amount(common_documents(row)),
        f"{amount(row.failed)} ({row.failed_share:.1%})" if row.failed else "0",
        markdown_name(cost_text(row.costs)),
        markdown_name(cost_per_text(row.costs)),
        "–" if row.median_seconds is None else duration(row.median_seconds),
        "–" if row.input_tokens is None else amount(row.input_tokens),
        "–" if row.output_tokens is None else amount(row.output_tokens),
        amount(row.documents),
        amount(row.batches),
    )
    return f"| {' | '.join(values)} |"


def common_documents(row: LeaderboardRow) -> int:
    """The number of documents that a row and the one it is compared with both scored."""
    return 0 if row.difference is None else row.difference.n


def _row_data(board: Board, place: int, row: LeaderboardRow) -> dict[str, Any]:
    scores = row.scores
    difference = None
    if row.difference is not None and row.against is not None:
        difference = {"against": board.row_of(row.against).connection, **asdict(row.difference)}
    return {
        "rank": None if scores is None else place,
        "connection": row.connection,
        "connection_id": row.connection_id,
        "mean_score": None if scores is None else scores.mean,
        "mean_score_low": None if scores is None else scores.low,
        "mean_score_high": None if scores is None else scores.high,
        "difference": difference,
        "tied": row.is_tied,
        "cells": row.cells,
        "succeeded": row.succeeded,
        "failed": row.failed,
        "scored": row.scored,
        "documents": row.documents,
        "scored_documents": row.scored_documents,
        "failed_documents": row.failed_documents,
        "batches": row.batches,
        "reused": row.repeated,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "seconds_p50": row.median_seconds,
        "costs": [{**asdict(cost), "per_document": cost.per_document} for cost in row.costs],
    }
