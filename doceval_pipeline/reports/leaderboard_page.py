"""Renders the page of the leaderboard over all completed batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.reports import leaderboard, svg
from doceval_pipeline.reports.formatting import interval_text
from doceval_pipeline.reports.html import render_page
from doceval_pipeline.reports.leaderboard import Leaderboard
from doceval_pipeline.reports.phrases import GENEROUS, PER

TEMPLATE = "leaderboard.html.j2"
BOARDS_SHOWN = 100
ROWS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class ShownBoard:
    """A board as the page shows it."""

    board: Board
    sentence: str
    rows: Sequence[LeaderboardRow]
    """The first of its rows."""

    @property
    def rows_left_out(self) -> int:
        """The number of rows that the page does not show."""
        return len(self.board.rows) - len(self.rows)

    @property
    def axis(self) -> svg.Axis:
        """The axis of all means and intervals."""
        return svg.score_axis(row.scores for row in self.rows)

    @property
    def best(self) -> float | None:
        """The mean of the leader."""
        scores = self.board.rows[0].scores
        return None if scores is None else scores.mean


def render_leaderboard_page(board: Leaderboard, compiled: Path | None = None) -> str:
    """Render the page; the same leaderboard gives the same page.

    Parameters
    ----------
    compiled
        An existing folder, writable only by this user, for compiled templates.
    """
    shown = [
        ShownBoard(each, leaderboard.board_sentence(each), each.rows[:ROWS_SHOWN])
        for each in board.boards[:BOARDS_SHOWN]
    ]
    return render_page(
        TEMPLATE,
        compiled,
        board=board,
        real=[each for each in shown if not each.board.is_simulated],
        simulated=[each for each in shown if each.board.is_simulated],
        left_out=len(board.boards) - len(shown),
        generous=GENEROUS,
        difference_text=_difference_text,
        interval_text=interval_text,
        cost_text=leaderboard.cost_text,
        cost_per_text=leaderboard.cost_per_text,
        PER=PER,
    )


def _difference_text(row: LeaderboardRow) -> str:
    """As in Dagster, but a line never ends within "p = 0.04"."""
    text = leaderboard.difference_text(row)
    return text.replace("p = ", "p\u00a0=\u00a0").replace("p < ", "p\u00a0<\u00a0")
