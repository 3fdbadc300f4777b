"""Draws the means of a leaderboard as a small image in markdown, which Dagster's UI shows."""

from collections.abc import Iterator, Sequence

from doceval_pipeline.domain.leaderboard import Board
from doceval_pipeline.reports.interval_plot import MOST_LINES, PlotLine, first_that_fits, image_of
from doceval_pipeline.reports.leaderboard import SIMULATED, Leaderboard


def draw_leaderboard(leaderboard: Leaderboard, *, simulated: bool = False) -> str | None:
    """Draw names, means and intervals by prompt on one axis from 0 to 100; None without a mean.

    The best ones of each prompt that fit into the characters that Dagster draws; the image says how many it
    leaves out.

    Parameters
    ----------
    simulated
        Draw the boards of simulated results, instead of those of real ones.
    """
    boards = [board for board in leaderboard.boards if board.is_simulated == simulated and board.ranked]
    total = sum(len(board.ranked) for board in boards)
    if not total:
        return None
    kind = f"{SIMULATED}, " if simulated else ""
    return first_that_fits(
        image_of(
            list(_best(boards, drawn)),
            f"{kind}0 to 100" + (f", {total - drawn:,} more in the table" if drawn < total else ""),
            "mean scores",
        )
        for drawn in range(min(total, MOST_LINES), -1, -1)
    )


def _best(boards: Sequence[Board], count: int) -> Iterator[PlotLine]:
    """The best rows below the name of their prompt: the first of all boards, then the second of all, ..."""
    places = sorted((place, at) for at, board in enumerate(boards) for place in range(len(board.ranked)))
    for at, board in enumerate(boards):
        rows = board.ranked[: sum(where == at for _, where in places[:count])]
        if rows:
            yield PlotLine(board.prompt)
        for row in rows:
            yield PlotLine(row.connection, row.scores)
