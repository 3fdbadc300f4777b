"""Renders a report for Dagster's UI: a table, a small plot, and numbers with stable names.

Dagster's markdown may load images from anywhere, so the only foreign texts in it are the names of connections
and prompts, as plain text: no response and no file name.
"""

import base64
from collections.abc import Callable

from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.domain.insights import Standing
from doceval_pipeline.domain.results import Total
from doceval_pipeline.reports.formatting import amount, counted, duration, score_text
from doceval_pipeline.reports.labels import ELSEWHERE
from doceval_pipeline.reports.model import NOTHING_ASKED, ColumnFigures, ReportFigures
from doceval_pipeline.reports.sanitize import markdown_name

COLUMNS_SHOWN = 20
ORIGINS_SHOWN = 5
_SUCCEEDED, _FAILED, _OPEN = "#2a78b5", "#d1602a", "#9aa3ad"
_PLOT_WIDTH, _PLOT_HEIGHT = 300, 60
_UNKNOWN = "–"


def render_markdown(figures: ReportFigures) -> str:
    """The verdict, the counts and the mean of each column, as markdown for Dagster's UI."""
    lines = [f"**{figures.verdict}**", ""]
    if figures.sums.simulated:
        lines += [f"**Simulated results: no LLM was called** for {_evaluations(figures.sums.simulated)}.", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _summary(figures)]
    boards = figures.insights.leaderboards
    columns = {(c.column.connection_id, c.column.prompt_id): c for c in figures.columns}
    rows = [
        (standing, columns[standing.connection_id, board.prompt_id or 0], standing is board.standings[0])
        for board in boards
        for standing in board.standings
    ]
    if rows:
        lines += [
            "",
            "| connection | prompt | mean score | interval | scored | failed | against the leader |",
        ]
        lines += ["|---|---|---:|---:|---:|---:|---|"]
        lines += [
            _standing_row(standing, column, leads=leads) for standing, column, leads in rows[:COLUMNS_SHOWN]
        ]
        lines += ["", "Intervals are 95 % intervals. Tied: the data do not separate the two."]
    if len(rows) > COLUMNS_SHOWN:
        lines += ["", f"{len(rows) - COLUMNS_SHOWN:,} more columns are in the report."]
    return "\n".join(lines) + "\n"


def plot_markdown(figures: ReportFigures) -> str:
    """The histogram of scores above the share of each outcome, as one image of under 1,000 characters.

    It contains numbers only, no foreign text.
    """
    top = _PLOT_HEIGHT if figures.sums.scores else 0
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_PLOT_WIDTH}" height="{top + 28}">'
        f"{_histogram(figures)}{_outcome_bar(figures, top + 3)}{_caption(figures, top + 23)}</svg>"
    )
    alt = "simulated scores and outcomes" if figures.sums.simulated else "scores and outcomes"
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def numeric_metadata(figures: ReportFigures) -> dict[str, int | float]:
    """Numbers under stable names, which Dagster plots over partitions.

    Values that no processor reported are absent, never 0. `processing_seconds` is the sum of the processor's
    seconds, `seconds_p50` and `seconds_p95` are those of an evaluation; `documents` are staged files with
    duplicates; `contents_reused` were stored before the batch; `cells_reused` have a result of another batch
    and count in no token, second or cost; `cost_usd` is in US dollars, and so on.
    """
    cells, scores, insights = figures.cells, figures.sums.scores, figures.insights
    numbers: dict[str, int | float] = {
        "documents": figures.documents,
        "documents_duplicate": figures.duplicates,
        "files_not_staged": figures.files_assigned,
        "files_skipped": figures.files_skipped,
        "files_rejected": figures.files_rejected,
        "cells_expected": cells.expected,
        "cells_succeeded": cells.succeeded,
        "cells_failed": cells.failed,
        "cells_waiting": cells.waiting,
        "cells_running": cells.running,
        "cells_paused": cells.paused,
        "cells_unknown": cells.unknown,
        "cells_missing": cells.missing,
        "cells_scored": scores.n if scores else 0,
        "cells_simulated": figures.sums.simulated,
        "cells_reprocessed": figures.sums.reprocessed,
        "cells_reused": figures.sums.reused,
        "contents_reused": insights.reused,
        "content_bytes": insights.content_bytes,
    }
    if scores:
        numbers["mean_score"] = scores.mean
    if insights.scores and insights.scores.low is not None and insights.scores.high is not None:
        numbers |= {"mean_score_low": insights.scores.low, "mean_score_high": insights.scores.high}
    if insights.seconds:
        numbers |= {"seconds_p50": insights.seconds.p50, "seconds_p95": insights.seconds.p95}
    numbers |= {f"cost_{cost.currency.lower()}": cost.amount for cost in insights.costs}
    totals = {
        "input_tokens": figures.sums.input_tokens,
        "output_tokens": figures.sums.output_tokens,
        "processing_seconds": figures.sums.seconds,
    }
    return numbers | {name: total.value for name, total in totals.items() if total is not None}


def _summary(figures: ReportFigures) -> list[tuple[str, str]]:
    cells, scores = figures.cells, figures.sums.scores
    mean = "no scores"
    if scores:
        interval = _interval(figures.insights.scores)
        between = "" if interval == _UNKNOWN else f" (95 % interval {interval})"
        mean = f"{score_text(scores.mean)}{between}, over {scores.n:,} of {_evaluations(cells.total)}"
    rows = [
        (
            "evaluations",
            f"{cells.succeeded:,} succeeded, {cells.failed:,} failed, {cells.open:,} without a result",
        ),
        ("mean score", mean),
        ("files", _files(figures)),
        ("files left out", f"{figures.files_skipped:,} skipped, {figures.files_rejected:,} rejected"),
        ("input tokens", _total(figures.sums.input_tokens, figures, amount)),
        ("output tokens", _total(figures.sums.output_tokens, figures, amount)),
        ("processing time", _total(figures.sums.seconds, figures, duration)),
        ("time per evaluation", _seconds(figures)),
        ("cost", _costs(figures)),
    ]
    if figures.sums.reused:
        rows.insert(1, ("reused", _reused(figures)))
    if cells.surplus:
        rows.insert(1, ("unexpected rows", f"{cells.surplus:,}"))
    return rows


def _files(figures: ReportFigures) -> str:
    if not figures.duplicates:
        return amount(figures.documents)
    duplicates = counted(figures.duplicates, "duplicate that shares", "duplicates that share")
    return f"{figures.documents:,}, with {duplicates} results"


def _total(total: Total | None, figures: ReportFigures, written: Callable[[float], str]) -> str:
    """A total over the evaluations whose result is not reused."""
    if total is None:
        return NOTHING_ASKED if figures.is_all_reused else "not reported"
    return f"{written(total.value)}, from {total.cells:,} of {_evaluations(figures.asked)}"


def _reused(figures: ReportFigures) -> str:
    origins = figures.insights.origins
    shown = ", ".join(origin.partition_key or ELSEWHERE for origin in origins[:ORIGINS_SHOWN])
    more = figures.insights.origins_left_out + len(origins[ORIGINS_SHOWN:])
    return f"{figures.sums.reused:,} from {shown}{f' and {more:,} more' if more > 0 else ''}"


def _evaluations(number: int) -> str:
    return counted(number, "evaluation", "evaluations")


def _seconds(figures: ReportFigures) -> str:
    times = figures.insights.seconds
    if times is None:
        return NOTHING_ASKED if figures.is_all_reused else "not reported"
    return f"median {duration(times.p50)}, 95th percentile {duration(times.p95)}, of {_evaluations(times.n)}"


def _costs(figures: ReportFigures) -> str:
    if figures.is_all_reused:
        return f"0: {NOTHING_ASKED}"
    costs = [
        f"{cost.amount:,.2f} {markdown_name(cost.currency)} for {_evaluations(cost.cells)}"
        + (f", unknown for {cost.unpriced:,}" if cost.unpriced else "")
        for cost in figures.insights.costs
    ]
    return "; ".join(costs) or "unknown"


def _standing_row(standing: Standing, figures: ColumnFigures, *, leads: bool) -> str:
    scores, cells = standing.scores, figures.cells
    values = (
        markdown_name(figures.column.connection),
        markdown_name(figures.column.prompt),
        score_text(scores.mean) if scores else _UNKNOWN,
        _interval(scores),
        f"{scores.n if scores else 0:,} of {cells.total:,}",
        f"{cells.failed:,}",
        "leads" if leads and scores else _place(standing),
    )
    return f"| {' | '.join(values)} |"


def _place(standing: Standing) -> str:
    behind = standing.difference
    if behind is None:
        return "no shared documents" if standing.scores else _UNKNOWN
    apart = f"{behind.mean:+.1f} over {behind.n:,}"
    return f"tied ({apart})" if standing.tied else apart


def _interval(scores: Estimate | None) -> str:
    if scores is None or scores.low is None or scores.high is None:
        return _UNKNOWN
    return f"{score_text(scores.low)} to {score_text(scores.high)}"


def _histogram(figures: ReportFigures) -> str:
    """Ten bars from 0 to 100, as one path."""
    if figures.sums.scores is None:
        return ""
    bins = figures.sums.scores.histogram
    step = _PLOT_WIDTH // len(bins)
    heights = [-(-count * (_PLOT_HEIGHT - 2) // max(bins)) for count in bins]
    bars = (f"M{n * step} {_PLOT_HEIGHT}v-{h}h{step - 2}v{h}" for n, h in enumerate(heights) if h)
    return f'<path fill="{_SUCCEEDED}" d="{"".join(bars)}"/>'


def _outcome_bar(figures: ReportFigures, top: int) -> str:
    """The share of succeeded, failed and open cells below the histogram."""
    cells, parts, left = figures.cells, [], 0
    for count, colour in ((cells.succeeded, _SUCCEEDED), (cells.failed, _FAILED), (cells.open, _OPEN)):
        # Every nonzero share is visible.
        width = max(2, _PLOT_WIDTH * count // cells.total) if count else 0
        if width:
            parts.append(f'<path fill="{colour}" d="M{left} {top}h{width}v6h-{width}"/>')
        left += width
    return "".join(parts)


def _caption(figures: ReportFigures, baseline: int) -> str:
    cells = figures.cells
    partly = "PARTLY " if figures.sums.simulated < cells.rows else ""
    simulated = f"{partly}SIMULATED: " if figures.sums.simulated else ""
    caption = f"{simulated}{cells.succeeded:,} ok, {cells.failed:,} failed, {cells.open:,} open"
    return f'<text y="{baseline}" font-family="sans-serif" font-size="12" fill="#808890">{caption}</text>'
