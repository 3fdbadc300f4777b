"""Draws the means of a leaderboard as a small image in markdown, which Dagster's UI shows."""

import base64
import re
from collections.abc import Sequence
from html import escape

from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.reports.leaderboard import SIMULATED, Leaderboard
from doceval_pipeline.reports.sanitize import cut, visible_name

# Dagster draws an image only in markdown that is shorter than this, in characters.
PLOT_LIMIT = 1_000
ROWS_DRAWN = 12
_LINE, _MEAN, _TEXT = "#2a78b5", "#d1602a", "#808890"
_NAMES_WIDTH, _PIXELS_PER_POINT, _ROW_HEIGHT = 120, 2, 12
_NAME_CHARACTERS = 20
_NOT_IN_XML = re.compile("[\ufffe\uffff]")

_Drawn = Sequence[tuple[Board, Sequence[tuple[LeaderboardRow, Estimate]]]]


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
    images = (
        _image(_best(boards, drawn), total - drawn, simulated=simulated)
        for drawn in range(min(total, ROWS_DRAWN), -1, -1)
    )
    return next(image for image in images if len(image) < PLOT_LIMIT)


def _best(boards: Sequence[Board], count: int) -> _Drawn:
    """The best rows of each board: the first of all boards, then the second of all, and so on."""
    places = sorted((place, at) for at, board in enumerate(boards) for place in range(len(board.ranked)))
    drawn: list[tuple[Board, Sequence[tuple[LeaderboardRow, Estimate]]]] = []
    for at, board in enumerate(boards):
        rows = board.ranked[: sum(where == at for _, where in places[:count])]
        if rows:
            drawn.append((board, [(row, row.scores) for row in rows if row.scores is not None]))
    return drawn


def _image(drawn: _Drawn, left_out: int, *, simulated: bool) -> str:
    names, lines, dots = [], [], []
    bottom = 9
    for board, rows in drawn:
        names.append(f'<text y="{bottom}">{_label(board.prompt)}:</text>')
        for row, scores in rows:
            bottom += _ROW_HEIGHT
            middle, mean = bottom - 3, _across(scores.mean)
            names.append(f'<text x="6" y="{bottom}">{_label(row.connection)}</text>')
            if scores.low is not None and scores.high is not None:
                lines.append(f"M{_across(scores.low)} {middle}H{_across(scores.high)}")
            dots.append(f"M{mean - 2} {middle}h4")
        bottom += _ROW_HEIGHT
    more = f", {left_out:,} more in the table" if left_out else ""
    kind = f"{SIMULATED}, " if simulated else ""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_across(100) + 3}" height="{bottom + 4}" '
        f'font-family="sans-serif" font-size="9" fill="{_TEXT}">'
        f'<path stroke="{_LINE}" d="{"".join(lines)}"/>'
        f'<path stroke="{_MEAN}" stroke-width="5" d="{"".join(dots)}"/>{"".join(names)}'
        f'<text y="{bottom}">{kind}0 to 100{more}</text></svg>'
    )
    return f"![mean scores](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _across(score: float) -> int:
    """Where a score is on the axis, in pixels from the left."""
    return _NAMES_WIDTH + round(score * _PIXELS_PER_POINT)


def _label(name: str) -> str:
    """A name as text of an image, without markup or characters that XML forbids."""
    return escape(_NOT_IN_XML.sub("�", cut(visible_name(name), _NAME_CHARACTERS)), quote=False)
