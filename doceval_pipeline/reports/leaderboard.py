"""The leaderboard: the results of each connection and prompt over all completed batches, for Dagster's UI.

As in `markdown`, the only foreign texts are names, shown as plain text.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.domain.leaderboard import LeaderboardRow
from doceval_pipeline.reports.formatting import amount, counted, duration, score_text
from doceval_pipeline.reports.sanitize import cut, markdown_name, visible_name

ROWS_SHOWN = 50
ROWS_DRAWN = 10
# Dagster draws an image only in markdown that is shorter than this, in characters.
PLOT_LIMIT = 1_000
_LINE, _MEAN, _TEXT = "#2a78b5", "#d1602a", "#808890"
_NAMES_WIDTH, _PIXELS_PER_POINT, _ROW_HEIGHT = 120, 2, 12
_NAME_CHARACTERS = 22
_NOT_IN_XML = re.compile("[\ufffe\uffff]")
_COMPARABLE = (
    "Mean scores over all completed batches. **Rows may cover different documents**: where documents differ "
    "or intervals overlap, the order of rows means little. Ties are not marked. The report of a batch and "
    "`doceval compare` compare scores of the same documents. A connection or a prompt that was edited "
    "between batches is one row."
)


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The leaderboard, and how many batches are in it."""

    rows: Sequence[LeaderboardRow]
    """The highest mean score first; rows without scores last."""
    batches: int
    batches_left_out: int
    """Open, cancelled or archived batches."""
    digest: str
    """The same for the same results."""


def render_leaderboard(board: Leaderboard) -> str:
    """The leaderboard as a table in markdown."""
    left_out = f"; {amount(board.batches_left_out)} left out (open, cancelled or archived)"
    lines = [f"**{counted(board.batches, 'batch', 'batches')}**{left_out}.", "", _COMPARABLE, ""]
    if not board.rows:
        return "\n".join([*lines, "No batch is completed yet."]) + "\n"
    simulated = sum(row.simulated for row in board.rows)
    if simulated:
        evaluations = counted(simulated, "evaluation", "evaluations")
        lines += [f"**Simulated results: no LLM was called** for {evaluations}.", ""]
    repeated = sum(row.repeated for row in board.rows)
    if repeated:
        one = "reused result repeats a result counted here and is"
        many = "reused results repeat results counted here and are"
        lines += [f"{counted(repeated, one, many)} not counted again.", ""]
    lines += [
        "| | connection | prompt | mean score | 95 % interval | scored | documents | batches | failed "
        "| input tokens | output tokens | median time |",
        "|---:|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(place, row) for place, row in enumerate(board.rows[:ROWS_SHOWN], start=1)]
    if len(board.rows) > ROWS_SHOWN:
        lines += ["", f"{amount(len(board.rows) - ROWS_SHOWN)} more rows are not shown."]
    return "\n".join(lines) + "\n"


def draw_leaderboard(board: Leaderboard) -> str:
    """Draw name, mean and interval of the first rows on one axis from 0 to 100, as a small image in markdown.

    It has as many rows as fit into the characters that Dagster draws, and says how many it leaves out.
    """
    scored = [(row, row.scores) for row in board.rows if row.scores is not None]
    images = (_image(scored, drawn) for drawn in range(min(len(scored), ROWS_DRAWN), -1, -1))
    return next(image for image in images if len(image) < PLOT_LIMIT)


def leaderboard_numbers(board: Leaderboard) -> dict[str, int | float]:
    """Numbers under stable names, which Dagster plots over time; figures without any value are absent."""
    scored = sum(row.scores.n for row in board.rows if row.scores is not None)
    numbers: dict[str, int | float] = {
        "batches": board.batches,
        "batches_left_out": board.batches_left_out,
        "rows": len(board.rows),
        "cells": sum(row.cells for row in board.rows),
        "cells_succeeded": sum(row.succeeded for row in board.rows),
        "cells_failed": sum(row.failed for row in board.rows),
        "cells_scored": scored,
        "cells_simulated": sum(row.simulated for row in board.rows),
        "cells_reused": sum(row.repeated for row in board.rows),
    }
    if scored:
        total = sum(row.scores.mean * row.scores.n for row in board.rows if row.scores is not None)
        numbers["mean_score"] = total / scored
    return numbers


def _row(place: int, row: LeaderboardRow) -> str:
    scores = row.scores
    interval = "–"
    if scores is not None and scores.low is not None and scores.high is not None:
        interval = f"{score_text(scores.low)} to {score_text(scores.high)}"
    values = (
        str(place),
        markdown_name(row.connection),
        markdown_name(row.prompt),
        "–" if scores is None else score_text(scores.mean),
        interval,
        f"{amount(0 if scores is None else scores.n)} of {amount(row.cells)}",
        amount(row.documents),
        amount(row.batches),
        f"{amount(row.failed)} ({row.failed_share:.1%})",
        "–" if row.input_tokens is None else amount(row.input_tokens),
        "–" if row.output_tokens is None else amount(row.output_tokens),
        "–" if row.median_seconds is None else duration(row.median_seconds),
    )
    return f"| {' | '.join(values)} |"


def _image(scored: Sequence[tuple[LeaderboardRow, Estimate]], drawn: int) -> str:
    names, lines, dots = [], [], []
    for place, (row, scores) in enumerate(scored[:drawn]):
        middle, mean = place * _ROW_HEIGHT + 7, _across(scores.mean)
        names.append(f'<text y="{middle + 3}">{_label(row)}</text>')
        if scores.low is not None and scores.high is not None:
            lines.append(f"M{_across(scores.low)} {middle}H{_across(scores.high)}")
        dots.append(f"M{mean - 2} {middle}h4")
    bottom = drawn * _ROW_HEIGHT + 12
    sizes = _sizes([scores for _, scores in scored[:drawn]])
    more = f", {len(scored) - drawn:,} more in the table" if len(scored) > drawn else ""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_across(100) + 3}" height="{bottom + 3}" '
        f'font-family="sans-serif" font-size="9" fill="{_TEXT}">'
        f'<path stroke="{_LINE}" d="{"".join(lines)}"/>'
        f'<path stroke="{_MEAN}" stroke-width="5" d="{"".join(dots)}"/>{"".join(names)}'
        f'<text y="{bottom}">0 to 100, n {sizes}{more}</text></svg>'
    )
    return f"![mean scores](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _across(score: float) -> int:
    """Where a score is on the axis, in pixels from the left."""
    return _NAMES_WIDTH + round(score * _PIXELS_PER_POINT)


def _label(row: LeaderboardRow) -> str:
    """The names of a row as text of an image, without markup or characters that XML forbids."""
    names = cut(visible_name(f"{row.connection} · {row.prompt}"), _NAME_CHARACTERS)
    return escape(_NOT_IN_XML.sub("�", names), quote=False)


def _sizes(scored: Sequence[Estimate]) -> str:
    if not scored:
        return "0"
    least, most = min(scores.n for scores in scored), max(scores.n for scores in scored)
    return amount(least) if least == most else f"{amount(least)} to {amount(most)}"
