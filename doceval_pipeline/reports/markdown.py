"""Renders a report for Dagster's UI: what it decides, tables, a small plot, and numbers with stable names.

Dagster's markdown may load images from anywhere, so the only foreign texts in it are the names of connections
and prompts, as plain text: no response and no file name.
"""

from collections.abc import Callable, Iterator, Sequence

from doceval_pipeline.domain.insights import BelowThreshold, PromptLeaderboard, Standing
from doceval_pipeline.domain.results import Total
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports.decision import prompt_name
from doceval_pipeline.reports.formatting import (
    amount,
    counted,
    duration,
    interval_text,
    money,
    probability_text,
    score_text,
)
from doceval_pipeline.reports.interval_plot import PlotLine, as_image, draw_intervals
from doceval_pipeline.reports.labels import ELSEWHERE, ColumnLabels
from doceval_pipeline.reports.model import NOTHING_ASKED, ReportFigures
from doceval_pipeline.reports.phrases import PER, much
from doceval_pipeline.reports.sanitize import cut, markdown_name, visible_name
from doceval_pipeline.reports.summary import summary_sentences

COLUMNS_SHOWN = 20
SENTENCES_SHOWN = 20
ORIGINS_SHOWN = 5
_SENTENCE_CHARACTERS = 2_000
_NAME_CHARACTERS = 40
_SUCCEEDED, _FAILED, _OPEN = "#2a78b5", "#d1602a", "#9aa3ad"
_PLOT_WIDTH = 300
_UNKNOWN = "–"


def render_markdown(figures: ReportFigures) -> str:
    """The verdict, what it decides, a table of models for each prompt and the counts, for Dagster's UI."""
    lines = [f"**{figures.verdict}**", ""]
    if figures.sums.simulated:
        lines += [f"**Simulated results: no LLM was called** for {_evaluations(figures.sums.simulated)}.", ""]
    lines += [
        f"- {markdown_name(sentence, _SENTENCE_CHARACTERS)}"
        for sentence in summary_sentences(figures, SENTENCES_SHOWN)
    ]
    lines += [line for table in _tables(figures) for line in table]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _summary(figures)]
    return "\n".join(lines) + "\n"


def decision_text(figures: ReportFigures) -> str:
    """What the results decide, as plain text; empty without a score."""
    return "\n".join(summary_sentences(figures, SENTENCES_SHOWN))


def plot_markdown(figures: ReportFigures) -> str:
    """The mean and interval of each model by prompt, as one image of under 1,000 characters.

    Without any score, the share of each outcome. Names are its only foreign text.
    """
    alt = "simulated scores and outcomes" if figures.sums.simulated else "scores and outcomes"
    lines = _plot_lines(figures)
    if lines:
        return draw_intervals(lines, _caption(figures), alt)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_PLOT_WIDTH}" height="28">'
        f'{_outcome_bar(figures, 3)}<text y="23" font-family="sans-serif" font-size="12" fill="#808890">'
        f"{_caption(figures)}</text></svg>"
    )
    return as_image(svg, alt)


def numeric_metadata(figures: ReportFigures) -> dict[str, int | float]:
    """Numbers under stable names, which Dagster plots over partitions.

    Values that no processor reported are absent, never 0. `processing_seconds` is the sum of the processor's
    seconds, `seconds_p50` and `seconds_p95` are those of an evaluation; `documents` are staged files with
    duplicates; `contents_reused` were stored before the batch; `cells_reused` have a result of another batch
    and count in no token, second or cost; `cost_usd` is in US dollars, and so on. `mean_score` is over all
    models and prompts; numbers of one model have the names of prompt and model in their own.
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
        "contents_reused": insights.counts.reused,
        "content_bytes": insights.counts.content_bytes,
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
    numbers |= {name: total.value for name, total in totals.items() if total is not None}
    return numbers | _model_numbers(figures)


def _model_numbers(figures: ReportFigures) -> dict[str, int | float]:
    """Score and cost of the first models under each prompt, as configured, and documents below thresholds."""
    labels = ColumnLabels.of(figures)
    standings = {
        (standing.connection_id, board.prompt_id): standing
        for board in figures.insights.leaderboards
        for standing in board.standings
    }
    numbers: dict[str, int | float] = {}
    for column in (each.column for each in figures.columns[:COLUMNS_SHOWN]):
        standing = standings.get((column.connection_id, column.prompt_id))
        if standing is None:
            continue
        of = f"{_key_name(column.prompt)} · {_key_name(column.connection)}"
        if f"mean_score · {of}" in numbers:
            of += f" · {column.connection_id}.{column.prompt_id}"
        if standing.scores is not None:
            numbers[f"mean_score · {of}"] = standing.scores.mean
        if (cost := standing.usage.cost) is not None:
            numbers[f"cost_{cost.currency.lower()} · {of}"] = cost.amount
    for below in figures.insights.below_thresholds[:COLUMNS_SHOWN]:
        numbers.setdefault(f"documents_below · {_key_name(labels.prompt(below.prompt_id))}", below.documents)
    return numbers


def _key_name(name: str) -> str:
    """A name as a part of a key."""
    return cut(visible_name(name), _NAME_CHARACTERS).replace("·", "-") or "(no name)"


def _tables(figures: ReportFigures) -> Iterator[list[str]]:
    """A table for each leaderboard, as long as not too many models are shown."""
    insights, labels = figures.insights, ColumnLabels.of(figures)
    below = {part.prompt_id: part for part in insights.below_thresholds}
    shown = 0
    for board in insights.boards:
        rows = board.standings[: COLUMNS_SHOWN - shown]
        if rows:
            part = None if board.prompt_id is None else below.get(board.prompt_id)
            yield _table(board, rows, part, labels)
        shown += len(rows)
    everything = sum(len(board.standings) for board in insights.boards)
    if shown:
        yield ["", "Intervals are 95 % intervals. Models are compared on the documents that both scored."]
    if everything > shown:
        yield ["", f"{everything - shown:,} more rows are in the report."]


def _table(
    board: PromptLeaderboard, rows: Sequence[Standing], below: BelowThreshold | None, labels: ColumnLabels
) -> list[str]:
    name = prompt_name(board, labels)
    head = ["model", "mean score", "interval", "compared", "documents", "p", "cost"]
    head += [f"cost per {PER:,} documents", "median time", "failed"]
    if below is not None:
        head.append(f"below {below.threshold:g}")
    return [
        "",
        f"**{markdown_name(name)}**",
        "",
        f"| {' | '.join(head)} |",
        f"|---|---:|---:|---|---:|---:|---:|---:|---:|---:|{'---:|' if below is not None else ''}",
        *(_standing_row(standing, board, below, labels) for standing in rows),
    ]


def _summary(figures: ReportFigures) -> list[tuple[str, str]]:
    cells, scores = figures.cells, figures.sums.scores
    rows = [
        (
            "evaluations",
            f"{cells.succeeded:,} succeeded, {cells.failed:,} failed, {cells.open:,} without a result",
        ),
        ("scores", f"{scores.n if scores else 0:,} of {_evaluations(cells.total)}"),
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
    origins = figures.insights.counts.origins
    shown = ", ".join(origin.partition_key or ELSEWHERE for origin in origins[:ORIGINS_SHOWN])
    more = figures.insights.counts.origins_left_out + len(origins[ORIGINS_SHOWN:])
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
        f"{_money(cost.amount, cost.currency)} for {_evaluations(cost.cells)}" + _unpriced(cost)
        for cost in figures.insights.costs
    ]
    return "; ".join(costs) or "unknown"


def _standing_row(
    standing: Standing, board: PromptLeaderboard, below: BelowThreshold | None, labels: ColumnLabels
) -> str:
    scores, difference, usage = standing.scores, standing.difference, standing.usage
    cost, p = usage.cost, None if difference is None else difference.p
    values = [
        markdown_name(labels.connection(standing.connection_id)),
        score_text(scores.mean) if scores else _UNKNOWN,
        interval_text(scores),
        _compared(standing, board, labels),
        _UNKNOWN if difference is None else f"{difference.n:,}",
        _UNKNOWN if p is None else probability_text(p).removeprefix("= "),
        "unknown" if cost is None else f"{_money(cost.amount, cost.currency)}{_unpriced(cost)}",
        "unknown" if cost is None else _money(cost.per_document * PER, cost.currency),
        _UNKNOWN if usage.seconds is None else duration(usage.seconds.p50),
        f"{standing.failed:,}",
    ]
    if below is not None:
        values.append(f"{dict(below.by_connection).get(standing.connection_id, 0):,}")
    return f"| {' | '.join(values)} |"


def _unpriced(cost: Cost) -> str:
    return f", unknown for {cost.unpriced:,}" if cost.unpriced else ""


def _money(value: float, currency: str) -> str:
    return f"{money(value)} {markdown_name(currency)}"


def _compared(standing: Standing, board: PromptLeaderboard, labels: ColumnLabels) -> str:
    """By how much a model scores higher or lower than another one."""
    difference, against = standing.difference, standing.against
    if difference is None or against is None:
        return "no shared documents" if standing.scores and len(board.ranked) > 1 else _UNKNOWN
    words = f"{much(difference)} {markdown_name(labels.connection(against))}"
    tied = {other.connection_id for other in board.standings if other.tied}
    return f"{words}, no clear winner" if standing.tied or against in tied else words


def _plot_lines(figures: ReportFigures) -> list[PlotLine]:
    """The models with a score; several models under several prompts have the prompts as headings."""
    labels, boards = ColumnLabels.of(figures), figures.insights.leaderboards
    ranked = [(board, board.ranked) for board in boards if board.ranked]
    is_single = all(len(standings) == 1 for _, standings in ranked)
    lines = []
    for board, standings in ranked:
        prompt = labels.prompt(board.prompt_id or 0)
        if len(ranked) > 1 and not is_single:
            lines.append(PlotLine(prompt))
        for standing in standings:
            connection = labels.connection(standing.connection_id)
            is_prompt = is_single and len(ranked) > 1
            lines.append(PlotLine(prompt if is_prompt else connection, standing.scores))
    return lines


def _outcome_bar(figures: ReportFigures, top: int) -> str:
    """The share of succeeded, failed and open cells in one bar."""
    cells, parts, left = figures.cells, [], 0
    for count, colour in ((cells.succeeded, _SUCCEEDED), (cells.failed, _FAILED), (cells.open, _OPEN)):
        # Every nonzero share is visible.
        width = max(2, _PLOT_WIDTH * count // cells.total) if count else 0
        if width:
            parts.append(f'<path fill="{colour}" d="M{left} {top}h{width}v6h-{width}"/>')
        left += width
    return "".join(parts)


def _caption(figures: ReportFigures) -> str:
    cells = figures.cells
    partly = "PARTLY " if figures.sums.simulated < cells.rows else ""
    simulated = f"{partly}SIMULATED: " if figures.sums.simulated else ""
    return f"{simulated}{cells.succeeded:,} ok, {cells.failed:,} failed, {cells.open:,} open"
