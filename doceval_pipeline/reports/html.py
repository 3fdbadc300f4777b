"""Renders the completion report as one self-contained HTML page that loads nothing.

Its content security policy allows only our own style sheet and script, by digest. The script filters and
sorts; without it the page is complete. Every text the template prints is made safe twice: `_inert` makes
invisible and reordering characters visible, then the template engine escapes the text.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from doceval_pipeline.domain.throughput import Throughput
from doceval_pipeline.reports import cli_hints, svg
from doceval_pipeline.reports.boards import (
    BOARDS_SHOWN,
    LOW_DOCUMENTS_SHOWN,
    boards,
    crossing,
    has_one_model,
    low_documents,
    shared_axis,
)
from doceval_pipeline.reports.cells import anchor, cell_details, cut_block, matrix_rows
from doceval_pipeline.reports.decision import Reason, decisions, introduction
from doceval_pipeline.reports.figures import all_columns
from doceval_pipeline.reports.formatting import (
    amount,
    duration,
    elapsed,
    money,
    percent,
    points_text,
    probability_text,
    score_text,
    short_points,
    signed,
    size_text,
)
from doceval_pipeline.reports.labels import (
    ELSEWHERE,
    ColumnLabels,
    Words,
    connection_words,
    origins_text,
)
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, SYMBOLS, lay_out
from doceval_pipeline.reports.model import NOTHING_ASKED, ReportFigures, ReportInput
from doceval_pipeline.reports.page_parts import FOLDED, runs, sections, without_folders
from doceval_pipeline.reports.phrases import GENEROUS
from doceval_pipeline.reports.sanitize import visible, visible_name
from doceval_pipeline.reports.thresholds import NEAR

TEMPLATE = "report.html.j2"
STYLE = "report.css"
SCRIPT = "report.js"
CONFIGURATION_CHARACTERS = 200_000
PROMPT_CHARACTERS = 20_000
# Sentences of the verdict, and kinds of failures, that are open on the page; the others are folded.
DECISIONS_SHOWN = 5
CHOICES_SHOWN = 3
FAILURES_SHOWN = 3
# The highest number of groups, and of names in each, before "and n more".
GROUPS_SHOWN = 50
NAMES_SHOWN = 50
CHANGES_SHOWN = 500
# What a reader looks for in the sentence of a decision, and its evidence. A name that says the same only
# looks different.
_FIGURES = re.compile(
    r"(\b[\d,.]+ points? (?:higher|lower)\b"
    r"|\b(?:about|more than|less than) (?:[\d,.]+ times as much|[\d,.]+ % (?:more|less)"
    r"|(?:half|a \w+|1/[\d,.]+) as much|the same)"
    r"|\bcosts (?:less|least), (?:[\d,.]+|nothing) against [\d,.]+ \w+"
    r"|\bsaves [\d,.]+ \w+ per 1,000 documents|\bno clear winner\b|\bmay be chance\b"
    r"|\bsays nothing\b|\bis unknown\b|\bshown to be no worse\b"
    r"|\((?:if it is real, )?about [\d,]+ more documents? would (?:show it|tell)\))"
)
# Words that run from right to left, which must not reorder what is beside them.
_RIGHT_TO_LEFT = re.compile(
    "([\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc](?:[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\\s\\d]*"
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc])?)"
)


def render_html(data: ReportInput, figures: ReportFigures, compiled: Path | None = None) -> str:
    """Render the page of a report.

    Parameters
    ----------
    data
        The input of the report; names, messages and responses may be hostile.
    figures
        The figures of the same data.
    compiled
        An existing private folder for compiled templates; compiling takes as long as the rest of a small
        page.

    Returns
    -------
    str
        A complete HTML document that can be encoded as UTF-8; equal for equal input. It states how much of
        long texts and lists is left out.
    """
    columns = all_columns(data)
    matrix = lay_out(data, columns)
    names, words = ColumnLabels(columns), connection_words(data.config)
    environment = _environment(compiled)
    return environment.get_template(TEMPLATE).render(
        data=data,
        figures=figures,
        matrix=matrix,
        matrix_rows=matrix_rows(matrix),
        cell_details=cell_details(matrix),
        targets={
            anchor(cell.document_id, cell.connection_id, cell.prompt_id)
            for cell in data.cells
            if cell.details is not None
        },
        names=names,
        labels=data.labels,
        column_names={(c.connection_id, c.prompt_id): (c.connection, c.prompt) for c in columns},
        prompts=_prompts(data.config),
        configuration=_cut(_pretty(without_folders(data.config)), CONFIGURATION_CHARACTERS),
        elapsed=_elapsed(data),
        policy=_policy(environment, STYLE, SCRIPT),
        runs=runs(data),
        words=words,
        **_verdict(data, figures, words),
        **_sections(data, figures, words),
        **_rankings(data, figures, names),
        **_commands(data),
    )


def render_page(template: str, compiled: Path | None, **values: Any) -> str:
    """Render another page with the style and policy of the report, without a script.

    Parameters
    ----------
    template
        The name of its template, which prints `policy` and includes `STYLE`.
    values
        The variables of the template; their texts may be hostile.
    """
    environment = _environment(compiled)
    return environment.get_template(template).render(policy=_policy(environment, STYLE), **values)


def _verdict(data: ReportInput, figures: ReportFigures, words: Words) -> dict[str, Any]:
    """Who scored what, what the leaderboards decide, and the sides of the product of evaluations."""
    found = decisions(figures)
    is_scored = any(board.ranked for board in data.insights.leaderboards)
    return {
        "decisions": found,
        "introduction": introduction(figures, words.many) if is_scored else "",
        "caution": GENEROUS if is_scored else "",
        "failed_by": _failures_by_connection(figures),
        "prompt_count": len({column.prompt_id for column in data.columns}),
        "connection_count": len({column.connection_id for column in data.columns}),
    }


def _failures_by_connection(figures: ReportFigures) -> list[tuple[str, int]]:
    """Connections with failures and their number, the most first; empty if there is only one connection."""
    counts: Counter[str] = Counter()
    for column in figures.columns:
        counts[column.column.connection] += column.cells.failed
    return [(name, count) for name, count in counts.most_common() if count] if len(counts) > 1 else []


def _sections(data: ReportInput, figures: ReportFigures, words: Words) -> dict[str, Any]:
    """The sections that the page has, what there is nothing to show for, and what follows the table."""
    found, nothing = sections(data, figures, words)
    targets = [target for target, _ in found]
    after = targets[targets.index("matrix") + 1 :] if "matrix" in targets else []
    return {
        "sections": found,
        "shown": set(targets),
        "nothing": nothing,
        "after_matrix": after[0] if after else FOLDED[0][0],
    }


def _rankings(data: ReportInput, figures: ReportFigures, names: ColumnLabels) -> dict[str, Any]:
    """Leaderboards, low documents, shared axes, and how many connections are in no pair."""
    insights = data.insights
    by_column = {(f.column.connection_id, f.column.prompt_id): f for f in figures.columns}
    is_mixed = 0 < figures.sums.simulated < figures.cells.rows
    found = boards(insights, names, by_column, is_mixed=is_mixed)
    ranked = {s.connection_id for board in insights.leaderboards for s in board.ranked}
    paired = {connection for pair in insights.agreements for connection in (pair.first, pair.second)}
    moved = insights.previous.columns if insights.previous else ()
    return {
        "boards": found,
        "is_alone": has_one_model(insights.leaderboards),
        "alone_axis": shared_axis(found),
        "lows": low_documents(insights, names),
        "unpaired": len(ranked - paired),
        "previous_axis": svg.difference_axis(entry.changes.difference for entry in moved),
    }


def _commands(data: ReportInput) -> dict[str, str]:
    return {
        "retry_command": cli_hints.retry_command(data),
        "export_command": cli_hints.export_command(data),
        "documents_command": cli_hints.documents_command(data),
    }


@cache
def _environment(compiled: Path | None) -> Environment:
    environment = Environment(
        loader=PackageLoader("doceval_pipeline.reports"),
        bytecode_cache=None if compiled is None else FileSystemBytecodeCache(str(compiled)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters |= {
        "name": visible_name,
        "amount": amount,
        "score": score_text,
        "points": points_text,
        "probability": probability_text,
        "abs_low": _as_sizes,
        "emphasized": emphasized,
        "short_points": short_points,
        "duration": duration,
        "size": size_text,
        "time": _time,
        "moment": _moment,
        "end_of": _end_of,
        "signed": signed,
        "money": money,
        "short_time": _short_time,
    }
    environment.globals |= {
        "BOARDS_SHOWN": BOARDS_SHOWN,
        "CHOICES_SHOWN": CHOICES_SHOWN,
        "DECISIONS_SHOWN": DECISIONS_SHOWN,
        "FAILURES_SHOWN": FAILURES_SHOWN,
        "LOW_DOCUMENTS_SHOWN": LOW_DOCUMENTS_SHOWN,
        "crossing": crossing,
        "NEAR": NEAR,
        "Reason": Reason,
        "SYMBOLS": SYMBOLS,
        "KINDS": svg.KINDS,
        "NOTHING_ASKED": NOTHING_ASKED,
        "SCORES": svg.SCORES,
        "DETAILS_SHOWN": DETAILS_SHOWN,
        "NAMES_SHOWN": NAMES_SHOWN,
        "block": cut_block,
        "anchor": anchor,
        "bar": svg.outcome_bar,
        "share_bar": svg.share_bar,
        "interval": svg.interval,
        "change": svg.change,
        "distribution": svg.distribution,
        "dots": svg.dots,
        "throughput": svg.throughput,
        "ELSEWHERE": ELSEWHERE,
        "origins_text": origins_text,
        "score_text": score_text,
        "signed": signed,
        "percent": percent,
    }
    return environment


def _inert(value: Any) -> Any:
    """Make the invisible characters of a printed value visible; the template engine escapes it later."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _policy(environment: Environment, style: str, script: str | None = None) -> str:
    """A content security policy that allows only the page's own style sheet and script, by digest."""
    allowed = [] if script is None else [f"script-src '{_digest(environment.get_template(script).render())}'"]
    allowed.append(f"style-src '{_digest(environment.get_template(style).render())}'")
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def emphasized(sentence: str) -> Markup:
    """A sentence of a decision with its figures in bold and its evidence in grey."""
    parts = _FIGURES.split(visible(sentence))
    return Markup().join(_marked(part) if place % 2 else _isolated(part) for place, part in enumerate(parts))


def _marked(part: str) -> Markup:
    if part.startswith("("):
        return Markup('<span class="muted">{}</span>').format(part)
    return Markup("<strong>{}</strong>").format(part.replace(" %", "\u00a0%"))


def _isolated(text: str) -> Markup:
    parts = _RIGHT_TO_LEFT.split(text)
    return Markup().join(
        Markup("<bdi>{}</bdi>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def _as_sizes(low: float, high: float) -> str:
    """An interval of a difference as sizes: "4.1 to 7.9 lower", "0.9 lower to 2 higher"."""
    if low < 0 < high:
        return f"{points_text(-low)} lower to {points_text(high)} higher"
    side = "lower" if low < 0 else "higher"
    return f"{' to '.join(points_text(size) for size in sorted((abs(low), abs(high))))} {side}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _pretty(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and the number of characters left out."""
    return text[:limit], max(0, len(text) - limit)


def _prompts(config: Mapping[str, Any]) -> list[tuple[str, tuple[str, int]]]:
    """Names and texts of the sealed prompts."""
    prompts = [prompt for prompt in config.get("prompts") or () if isinstance(prompt, Mapping)]
    return [
        (str(prompt.get("name", "")), _cut(str(prompt.get("text", "")), PROMPT_CHARACTERS))
        for prompt in prompts
    ]


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _time(time: datetime) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M} UTC"


def _short_time(time: datetime) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M}"


def _moment(time: datetime) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M:%S} UTC"


def _end_of(over_time: Throughput) -> datetime:
    return over_time.start + timedelta(seconds=over_time.bin_seconds * len(over_time.bins))


def _elapsed(data: ReportInput) -> str | None:
    if data.started_at is None or data.completed_at is None:
        return None
    return elapsed(_utc(data.completed_at) - _utc(data.started_at))
